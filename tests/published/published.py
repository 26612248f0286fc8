"""What the tests of published packages share: the version that a test is about, and measures without the audit."""

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
Scalar = Callable[[Tensor], Tensor]

# Relative errors: that of finite differences in float64 for a right derivative, and a thousand times that.
RIGHT = 1e-5
WRONG = 1e-2


def published(distribution: str, version: str, module: str, file: str | None = None) -> ModuleType:
    """The module of this version; skips the calling file if the package is missing or has another version.

    ``file`` names a module of the package that is loaded alone, for packages whose ``__init__`` needs missing packages.
    """
    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} {version} is not installed", allow_module_level=True)
    if found != version:
        pytest.skip(f"speaks of {distribution} {version}, not of {found}", allow_module_level=True)
    if file is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    path = importlib.metadata.distribution(distribution).locate_file(f"{module}/{file}")
    spec = importlib.util.spec_from_file_location(f"{module}_alone", str(path))
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)  # type: ignore[union-attr]
    return loaded


def declare_torchvision_operators() -> None:
    """Declare two operators that torchvision's import needs: its wheel, for CUDA, lacks them with a CPU build of torch."""
    if importlib.util.find_spec("torchvision") is not None and not hasattr(torch.ops.torchvision, "nms"):
        for operator in ("nms", "qnms"):
            LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def normal(*shape: int) -> Tensor:
    """Draws from N(0, 1) in float64."""
    return torch.randn(*shape, dtype=torch.float64)


def gradient(function: Scalar, x: Tensor) -> Tensor:
    """The derivative of a scalar function, by autograd."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


def finite_differences(function: Scalar, x: Tensor, step: float = 1e-6) -> Tensor:
    """The derivative of a scalar function by central differences of its values."""
    result = torch.empty_like(x)
    for i in range(x.numel()):
        move = torch.zeros_like(x)
        move.view(-1)[i] = step
        result.view(-1)[i] = (function(x + move) - function(x - move)).detach() / (2 * step)
    return result


def penalty(function: Scalar, x: Tensor) -> Scalar:
    """|d/dx function(s x)|² as a function of s: the gradient penalty of a network whose only weight is s."""

    def of_weight(s: Tensor) -> Tensor:
        at = x.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(function(s * at), at, create_graph=True)
        return (g * g).sum()

    return of_weight


def penalty_error(function: Scalar, x: Tensor, step: float = 1e-6) -> float:
    """The relative error of autograd's derivative of the gradient penalty by the weight."""
    p, one = penalty(function, x), torch.ones((), dtype=x.dtype)
    return error(gradient(p, one), finite_differences(p, one, step))


def error(got: Tensor, true: Tensor) -> float:
    """The largest difference over the largest true value; prints the place of that difference."""
    difference = (got - true).abs()
    worst = difference.argmax()
    print(f"got {got.flatten()[worst].item():.6g}, true {true.flatten()[worst].item():.6g}")
    return (difference.max() / true.abs().max()).item()
