"""The published autograd Functions of the study: how to call each, and what its derivative is meant to be.

Most are elementwise or take a few tensors; those in solvers.py need more setup.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from published import normal
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """``build`` imports the package and returns the function and its inputs; ImportError if the package is missing.

    ``surrogate``: whether its backward is not meant to be forward's derivative. ``only``: the checks to run, all by default.
    """

    distribution: str
    build: Callable[[], tuple[Any, tuple[Any, ...]]]
    reference: Callable[..., Any] | None = None
    surrogate: bool = False
    only: Collection[str] | None = None


def leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_()


def x(*shape: int) -> Tensor:
    """A leaf drawn from N(0, 1)."""
    return leaf(normal(*(shape or (4, 3))))


def named(path: str) -> Any:
    """What ``package.module:name.attribute`` names."""
    module, _, names = path.partition(":")
    found = __import__(module, fromlist=["_"])
    for name in names.split("."):
        found = getattr(found, name)
    return found


def elementwise(path: str, *arguments: Any, scale: float = 1.0) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """The Function with this import path, with one matrix as input, followed by ``arguments``."""
    return lambda: (named(path), (leaf(normal(4, 3) * scale), *arguments))


F = torch.nn.functional
ACTIVATIONS = {
    "timm SwishAutoFn": Case("timm", elementwise("timm.layers.activations_me:SwishAutoFn"), F.silu),
    "timm MishAutoFn": Case("timm", elementwise("timm.layers.activations_me:MishAutoFn"), F.mish),
    "timm HardSigmoidAutoFn": Case("timm", elementwise("timm.layers.activations_me:HardSigmoidAutoFn", scale=3), F.hardsigmoid),
    "timm HardSwishAutoFn": Case("timm", elementwise("timm.layers.activations_me:HardSwishAutoFn", scale=3), F.hardswish),
    "timm HardMishAutoFn": Case(
        "timm",
        elementwise("timm.layers.activations_me:HardMishAutoFn", scale=2),
        lambda v: v * (v + 2).clamp(0, 2) / 2,
    ),
    "efficientnet_pytorch SwishImplementation": Case(
        "efficientnet_pytorch", elementwise("efficientnet_pytorch.utils:SwishImplementation"), F.silu
    ),
    "monai SwishImplementation": Case("monai", elementwise("monai.networks.blocks.activation:SwishImplementation"), F.silu),
    "e3nn _SoftUnitStep": Case("e3nn", elementwise("e3nn.math._soft_unit_step:_SoftUnitStep")),
    "diffsort NormalCDF": Case("diffsort", elementwise("diffsort.functional:NormalCDF", 0.5)),
    "brevitas AbsBinarySignGradFn": Case(
        "brevitas", elementwise("brevitas.ops.autograd_ste_ops:AbsBinarySignGradFn"), torch.abs
    ),
    "gpytorch LogNormalCDF": Case(
        "gpytorch", elementwise("gpytorch.functions:log_normal_cdf", scale=1.5), torch.special.log_ndtr
    ),
    "pytorch_tabnet Entmoid15": Case("pytorch_tabnet", elementwise("pytorch_tabnet.sparsemax:Entmoid15")),
}

SURROGATES = {
    f"{path.split('.')[0].removesuffix(':')} {path.split(':')[1]}": Case(
        distribution, elementwise(path, *arguments), surrogate=True
    )
    for distribution, path, *arguments in [
        ("pytorch_revgrad", "pytorch_revgrad.functional:RevGrad", torch.tensor(0.5, dtype=torch.float64)),
        ("snntorch", "snntorch.surrogate:FastSigmoid", 25),
        ("snntorch", "snntorch.surrogate:StraightThroughEstimator"),
        ("snntorch", "snntorch.surrogate:Sigmoid", 25),
        ("snntorch", "snntorch.surrogate:StochasticSpikeOperator", 0, 0.2),
        ("norse", "norse.torch.functional.superspike:SuperSpike", 100.0),
        ("norse", "norse.torch.functional.threshold:HeaviTanh", 1.0),
        ("norse", "norse.torch.functional.threshold:HeaviErfc", 1.0),
        ("spikingjelly", "spikingjelly.activation_based.surrogate:sigmoid", 4.0),
        ("spikingjelly", "spikingjelly.activation_based.surrogate:atan", 2.0),
        ("spikingjelly", "spikingjelly.activation_based.quantize:RoundATGF"),
        ("sinabs", "sinabs.activation:Quantize"),
        ("brevitas", "brevitas.ops.autograd_ste_ops:RoundSteFn"),
        ("brevitas", "brevitas.ops.autograd_ste_ops:TernarySignSteFn"),
    ]
}


def afb1d() -> tuple[Any, tuple[Any, ...]]:
    import pywt
    from pytorch_wavelets.dwt.lowlevel import AFB1D, prep_filt_afb1d

    wavelet = pywt.Wavelet("db2")
    low, high = (h.double().reshape(1, 1, -1) for h in prep_filt_afb1d(wavelet.dec_lo, wavelet.dec_hi))
    return AFB1D, (x(2, 1, 8), low, high, 1)  # 1: symmetric


def covariance(path: str, *arguments: Any) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    return lambda: (
        named(path),
        (normal(4, 2), normal(3, 2), torch.full((1, 1), 0.7, dtype=torch.float64).requires_grad_(), *arguments),
    )


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return squared_distance(a, b).sqrt()


def rbf(a: Tensor, b: Tensor, lengthscale: Tensor, *_: Any) -> Tensor:
    return torch.exp(-squared_distance(a / lengthscale, b / lengthscale) / 2)


TARGET = torch.tensor([0, 2, 1, 1])
TENSORS = {
    "entmax SparsemaxFunction": Case("entmax", elementwise("entmax.activations:SparsemaxFunction", -1, None)),
    "entmax Entmax15Function": Case("entmax", elementwise("entmax.activations:Entmax15Function", -1, None)),
    "entmax EntmaxBisectFunction": Case(
        "entmax",
        lambda: (
            named("entmax.root_finding:EntmaxBisectFunction"),
            (x(2, 3), leaf(1.3 + torch.rand(2, 1).double() / 2), -1, 50),
        ),
    ),
    "entmax SparsemaxLossFunction": Case("entmax", elementwise("entmax.losses:SparsemaxLossFunction", TARGET, None)),
    "entmax Entmax15LossFunction": Case("entmax", elementwise("entmax.losses:Entmax15LossFunction", TARGET, None)),
    "pytorch_tabnet SparsemaxFunction": Case("pytorch_tabnet", elementwise("pytorch_tabnet.sparsemax:SparsemaxFunction", -1)),
    "pytorch_tabnet Entmax15Function": Case("pytorch_tabnet", elementwise("pytorch_tabnet.sparsemax:Entmax15Function", -1)),
    "sparsemax SparsemaxFunction": Case("sparsemax", elementwise("sparsemax.sparsemax:SparsemaxFunction", -1)),
    "gpytorch RBFCovariance": Case(
        "gpytorch", covariance("gpytorch.functions.rbf_covariance:RBFCovariance", squared_distance), rbf
    ),
    "gpytorch MaternCovariance": Case(
        "gpytorch", covariance("gpytorch.functions.matern_covariance:MaternCovariance", 1.5, distance)
    ),
    "pytorch_wavelets AFB1D": Case("pytorch_wavelets", afb1d),
    "pytorch_wavelets SmoothMagFn": Case(
        "pytorch_wavelets", lambda: (named("pytorch_wavelets.scatternet.lowlevel:SmoothMagFn"), (x(), x(), 0.1))
    ),
    "kymatio ModulusStable": Case("kymatio", lambda: (named("kymatio.backend.torch_backend:ModulusStable"), (x(4, 2),))),
    "kornia _TargetLogSoftmax": Case(
        "kornia",
        lambda: (named("kornia.losses.focal:_TargetLogSoftmax"), (x(2, 4, 3), torch.tensor([[[0, 3, 1]], [[2, 2, 0]]]), None)),
    ),
    "kornia _NullSpaceBasis": Case("kornia", lambda: (null_space, (x(1, 6, 9),))),
    "mambapy PScan": Case(
        "mambapy", lambda: (named("mambapy.pscan:PScan"), (leaf(torch.rand(1, 5, 1, 2).double()), x(1, 5, 1, 2)))
    ),
    "pyro _SafeLog": Case(
        "pyro-ppl", lambda: (named("pyro.ops.special:_SafeLog"), (leaf(0.1 + torch.rand(4, 3).double()),)), torch.log
    ),
    "torch_geometric SparseCrossEntropy": Case(
        "torch_geometric",
        elementwise("torch_geometric.utils.cross_entropy:SparseCrossEntropy", torch.tensor([[0, 1, 1, 3], [0, 2, 2, 1]]), None),
    ),
    "torch_struct _SimplexProject": Case("torch_struct", elementwise("torch_struct.semirings.sparse_max:_SimplexProject", -1)),
    "torch_struct _SampledLogSumExp": Case(
        "torch_struct", elementwise("torch_struct.semirings.sample:_SampledLogSumExp", -1), surrogate=True
    ),
    "tslearn _SoftDTWLossPyTorch": Case(
        "tslearn", lambda: (named("tslearn.metrics.soft_dtw_loss_pytorch:_SoftDTWLossPyTorch"), (x(2, 3, 3), 0.5))
    ),
    "compressai LowerBoundFunction": Case(
        "compressai",
        elementwise("compressai.ops.bound_ops:LowerBoundFunction", torch.tensor([0.1], dtype=torch.float64)),
        surrogate=True,
    ),
}


def null_space(design: Tensor) -> Tensor:
    """The projection on the null space, which does not depend on the basis that the SVD picks."""
    basis = named("kornia.geometry.epipolar.essential:_NullSpaceBasis").apply(design)[0]
    return basis @ basis.mT
