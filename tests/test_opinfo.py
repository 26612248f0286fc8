"""torchbp.functional by PyTorch's own standard: each function described as an OpInfo, and put to PyTorch's generic tests.

The four templates are those that PyTorch's test_ops_gradients and test_ops_fwd_gradients put every operator to. There is no
``torch.library.opcheck`` beside them, for there is no custom operator here to be checked: the Functions are plain autograd.
"""

import importlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.nn import functional as TF
from torch.testing import assert_close, make_tensor

from torchbp import functional as F

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
)

each_device = pytest.mark.parametrize("device", DEVICES)
LEADING = [(), (0,), (3,), (2, 3)]
REDUCTIONS = [{}, {"reduction": "mean"}, {"reduction": "sum"}, {"reduction": "none"}]


def network_cost_of_torch(x: Tensor, y: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, **options: Any) -> Tensor:
    return TF.binary_cross_entropy_with_logits(TF.linear(torch.sigmoid(TF.linear(x, W1, b1)), W2, b2), y, **options)


def network_cost(x: Tensor, y: Tensor, *parameters: Tensor, **options: Any) -> Tensor:
    return F.network_cost(x, y, parameters, **options)[0]


FUNCTIONS = {**{name: getattr(F, name) for name in F.__all__}, "network_cost": network_cost}
# What each function has to equal.
REFERENCES: dict[str, Callable[..., Tensor]] = {
    "sigmoid_linear": lambda *args: torch.sigmoid(TF.linear(*args)),
    "network_cost": network_cost_of_torch,
    **{name: getattr(TF, name) for name in F.__all__ if hasattr(TF, name)},
}
Arguments = tuple[tuple[Tensor, ...], dict[str, Any]]


def layer_arguments(make: Callable[..., Tensor]) -> Iterator[Arguments]:
    for leading, (n_in, n_out), bias in itertools.product(LEADING, [(3, 4), (1, 1)], [True, False]):
        yield (make((*leading, n_in)), make((n_out, n_in)), *((make(n_out),) if bias else ())), {}


def cost_arguments(make: Callable[..., Tensor], *, of_activations: bool = False) -> Iterator[Arguments]:
    """Activations and targets lie in (0, 1), further from its ends than gradcheck's steps reach."""
    probability = partial(make, low=0.05, high=0.95)
    for shape, reduction in itertools.product([(), (5,), (3, 4), (2, 3, 2)], REDUCTIONS):
        yield ((probability if of_activations else make)(shape), probability(shape)), reduction


def weighted_cost_arguments(make: Callable[..., Tensor]) -> Iterator[Arguments]:
    yield from cost_arguments(make)
    for tensors, reduction in cost_arguments(make):
        yield tensors, {**reduction, "pos_weight": positive(make, tensors[0].shape[-1:])}


def positive(make: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    return make(shape, low=0.1, high=4).detach()


def cross_entropy_arguments(make: Callable[..., Tensor]) -> Iterator[Arguments]:
    for leading, reduction in itertools.product([(), (3,)], REDUCTIONS):
        yield (make((*leading, 4)), make((*leading, 4), low=0.05, high=0.95)), reduction
        z = make((*leading, 4))
        yield (z, torch.randint(4, leading, device=z.device)), reduction


def network_arguments(make: Callable[..., Tensor]) -> Iterator[Arguments]:
    for leading, reduction in itertools.product(LEADING, REDUCTIONS):
        if leading != (0,) or reduction.get("reduction") in ("sum", "none"):  # the mean of nothing is NaN
            tensors = (
                make((*leading, 3)),
                make((*leading, 2), low=0.05, high=0.95),
                make((4, 3)),
                make(4),
                make((2, 4)),
                make(2),
            )
            yield tensors, reduction
            yield tensors, {**reduction, "pos_weight": positive(make, (2,))}


SAMPLES: dict[str, Callable[[Callable[..., Tensor]], Iterator[Arguments]]] = {
    "linear": layer_arguments,
    "sigmoid_linear": layer_arguments,
    "mse_loss": cost_arguments,
    "binary_cross_entropy": partial(cost_arguments, of_activations=True),
    "binary_cross_entropy_with_logits": weighted_cost_arguments,
    "cross_entropy": cross_entropy_arguments,
    "network_cost": network_arguments,
}
each_functional = pytest.mark.parametrize("name", SAMPLES)
CUDA_MATMUL = 1e-12  # what PyTorch's own OpInfo of linear allows its products on CUDA to differ from call to call


def internal(module: str) -> Any:
    """A module of torch.testing._internal; the test is skipped where it, or what it imports, is absent."""
    # At import it would freeze the backends' flags for every later test of this process.
    with patch("torch.backends.disable_global_flags"):
        try:
            return importlib.import_module(f"torch.testing._internal.{module}")
        except ImportError as error:
            return pytest.skip(f"torch.testing._internal.{module} cannot be imported: {error}")


@pytest.fixture
def op(name: str) -> Any:
    """The function's OpInfo, which claims everything that an OpInfo can claim of derivatives."""
    core, dtypes = internal("opinfo.core"), internal("common_dtype")

    def samples(op: Any, device: str, dtype: torch.dtype, requires_grad: bool, **_: Any) -> Iterator[Any]:
        make = partial(make_tensor, device=device, dtype=dtype, requires_grad=requires_grad, low=-2, high=2)
        for (input, *args), kwargs in SAMPLES[name](make):
            yield core.SampleInput(input, args=tuple(args), kwargs=kwargs)

    return core.OpInfo(
        f"torchbp.functional.{name}",
        op=FUNCTIONS[name],
        ref=REFERENCES[name],
        dtypes=dtypes.floating_types_and(torch.float16, torch.bfloat16),
        sample_inputs_func=samples,
        supports_out=False,
        supports_autograd=True,
        supports_gradgrad=True,
        supports_forward_ad=True,
        supports_fwgrad_bwgrad=True,
        check_batched_grad=True,
        check_batched_gradgrad=True,
        check_batched_forward_grad=True,
        gradcheck_nondet_tol=CUDA_MATMUL,
    )


def test_every_functional_is_described() -> None:
    assert set(SAMPLES) == set(F.__all__)


@pytest.fixture
def templates() -> Any:
    return internal("common_utils").TestGradients()


@each_device
@each_functional
def test_reference(op: Any, device: str) -> None:
    for dtype in op.supported_dtypes(device):
        for sample in op.sample_inputs(device, dtype):
            exact = [t.double() if t.is_floating_point() else t for t in (sample.input, *sample.args)]
            output, expected = op(sample.input, *sample.args, **sample.kwargs), op.ref(*exact, **sample.kwargs)
            assert output.dtype == dtype
            tolerance = 16 * torch.finfo(dtype).eps
            assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)


@each_device
@each_functional
def test_fn_grad(templates: Any, op: Any, device: str) -> None:
    templates._grad_test_helper(device, torch.float64, op, op.get_op())


@each_device
@each_functional
def test_fn_gradgrad(templates: Any, op: Any, device: str) -> None:
    templates._check_helper(device, torch.float64, op, op.get_op(), "bwgrad_bwgrad")


@each_device
@each_functional
def test_fn_fwgrad_bwgrad(templates: Any, op: Any, device: str) -> None:
    templates._check_helper(device, torch.float64, op, op.get_op(), "fwgrad_bwgrad")


@each_device
@each_functional
def test_forward_mode_AD(templates: Any, op: Any, device: str) -> None:
    templates._grad_test_helper(
        device,
        torch.float64,
        op,
        op.get_op(),
        check_forward_ad=True,
        check_backward_ad=False,
        check_batched_grad=False,
        check_batched_forward_grad=op.check_batched_forward_grad,
    )
