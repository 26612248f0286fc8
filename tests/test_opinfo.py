"""PyTorch's own tests on torchbp.functional: each function is described as an OpInfo and run through PyTorch's test templates.

The four templates are those of PyTorch's test_ops_gradients and test_ops_fwd_gradients. ``torch.library.opcheck`` does not
apply: it checks custom operators, and these are plain autograd Functions.
"""

import importlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.nn import functional as TF
from torch.testing import assert_close, make_tensor

from torchbp import functional as F
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.functions import reduce
from torchbp.outputs import OUTPUTS, Output

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
)

each_device = pytest.mark.parametrize("device", DEVICES)
LEADING = [(), (0,), (2, 3)]
REDUCTIONS = [{}, {"reduction": "sum"}, {"reduction": "none"}]


Arguments = tuple[tuple[Tensor, ...], dict[str, Any]]
Make = Callable[..., Tensor]


class Case(NamedTuple):
    """A function, its reference, and the arguments to test it with."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    samples: Callable[[Make], Iterator[Arguments]]


def probability(make: Make, shape: Any) -> Tensor:
    """Random in (0, 1), farther from the ends than gradcheck's steps."""
    return make(shape, low=0.05, high=0.95)


def positive(make: Make, shape: Any) -> Tensor:
    return make(shape, low=0.1, high=4)


def layer_arguments(make: Make) -> Iterator[Arguments]:
    for leading, (n_in, n_out), bias in itertools.product([*LEADING, (2,)], [(3, 2), (1, 1)], [True, False]):
        yield (make((*leading, n_in)), make((n_out, n_in)), *((make(n_out),) if bias else ())), {}


def cost_arguments(make: Make, *, of_activations: bool = False) -> Iterator[Arguments]:
    for shape, reduction in itertools.product([(), (2, 3), (2, 1, 2)], REDUCTIONS):
        yield (probability(make, shape) if of_activations else make(shape), probability(make, shape)), reduction


def weighted_bce(z: Tensor, y: Tensor, pos_weight: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """With both weights; torchbp's can also be differentiated by them."""
    return F.binary_cross_entropy_with_logits(z, y, pos_weight=pos_weight, weight=weight, **options)


def weighted_bce_of_torch(z: Tensor, y: Tensor, pos_weight: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return TF.binary_cross_entropy_with_logits(z, y, weight, pos_weight=pos_weight, **options)


def weighted_bce_arguments(make: Make) -> Iterator[Arguments]:
    for shape, reduction in itertools.product([(), (2, 2)], REDUCTIONS):
        yield (make(shape), probability(make, shape), positive(make, shape[-1:]), positive(make, shape)), reduction


def cross_entropy_arguments(make: Make, *, of_classes: bool = False) -> Iterator[Arguments]:
    for leading, reduction in itertools.product([(), (2,)], REDUCTIONS):
        z = make((*leading, 3))
        y = torch.randint(3, leading, device=z.device) if of_classes else probability(make, (*leading, 3))
        yield (z, y), reduction
        yield (z, y), {**reduction, "weight": positive(make, 3).detach(), "label_smoothing": 0.2}


def activation_case(g: Activation) -> Case:
    def samples(make: Make) -> Iterator[Arguments]:
        for leading, units in itertools.product([*LEADING, (3,)], (1, 2) if g.parameters else (1,)):
            yield (make((*leading, 2)), *(make((len(p.initial), units)) for p in g.parameters.values())), {}

    def reference(z: Tensor, *theta: Tensor) -> Tensor:
        return g.reference(z, *theta).reshape(z.shape)

    return Case(lambda z, *theta: F.activate(z, g, *theta), reference, samples)


# Hidden layers of activations with and without a parameter.
HIDDEN = [ACTIVATIONS["tanh"], ACTIVATIONS["swish"]]


def network_case(output: Output) -> Case:
    options: dict[str, Any] = {"cost": output.cost, "output": output.name, "activation": HIDDEN}

    def network_cost(x: Tensor, y: Tensor, *parameters: Tensor, **others: Any) -> Tensor:
        return F.network_cost(x, y, parameters, **options, **others)[0]

    def reference(
        x: Tensor, y: Tensor, *parameters: Tensor, reduction: str = "mean", weight: Any = None, pos_weight: Any = None
    ) -> Tensor:
        given = iter(parameters)
        for g in HIDDEN:
            z = TF.linear(x, next(given), next(given))
            x = g.reference(z, *(next(given) for _ in g.parameters)).reshape(z.shape)
        z = TF.linear(x, *given)
        rows = z.reshape(-1, z.shape[-1]), y.reshape(-1, z.shape[-1])
        if pos_weight is None:
            costs = output.reference(*rows)
        else:
            costs = TF.binary_cross_entropy_with_logits(*rows, reduction="none", pos_weight=pos_weight)
        costs = costs.reshape(*z.shape[:-1], costs.shape[-1])
        return reduce(costs if weight is None else costs * weight.unsqueeze(-1), reduction)

    def samples(make: Make) -> Iterator[Arguments]:
        for leading, reduction in [((0,), "sum"), ((1, 2), "none"), ((2,), "mean")]:
            tensors = [make((*leading, 2)), probability(make, (*leading, 2))]
            for g in HIDDEN:
                tensors += [make((2, 2)), make(2), *(make((len(p.initial), 1)) for p in g.parameters.values())]
            tensors += [make((2, 2)), make(2)]
            yield tuple(tensors), {"reduction": reduction}
        # The last has weights.
        yield tuple(tensors), {"weight": positive(make, leading).detach()}
        if output is OUTPUTS["cross_entropy", "sigmoid"]:
            yield tuple(tensors), {"pos_weight": positive(make, 2).detach()}

    return Case(network_cost, reference, samples)


def of_torch(name: str, samples: Callable[[Make], Iterator[Arguments]]) -> Case:
    return Case(getattr(F, name), getattr(TF, name), samples)


def activated_linear(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    return F.activated_linear(x, W, b, "tanh")


def elman(x: Tensor, Wi: Tensor, Wh: Tensor, *rest: Tensor, **options: Any) -> Tensor:
    """All outputs, for an activation without a parameter or with the given one."""
    bi, bh, h, *theta = (*rest, None, None, None)[:3] if len(rest) < 4 else rest
    return torch.cat([t.flatten() for t in F.elman(x, h, Wi, Wh, bi, bh, "swish" if theta else "tanh", *theta, **options)])


def elman_reference(x: Tensor, Wi: Tensor, Wh: Tensor, *rest: Tensor, lengths: Any = None, **options: Any) -> Tensor:
    """5.1 step by step, for each sequence alone."""
    bi, bh, h, *theta = (*rest, None, None, None)[:3] if len(rest) < 4 else rest
    one, transposed = x.dim() == 2, options.get("batch_first", False) and x.dim() == 3
    x = x.unsqueeze(1) if one else x.transpose(0, 1) if transposed else x
    outputs, ends = [], []
    for b in range(x.shape[1]):
        length = len(x) if lengths is None else int(lengths[b])
        state = x.new_zeros(len(Wh)) if h is None else h if one else h[b]
        states = {}
        for t in reversed(range(length)) if options.get("backwards") else range(length):
            z = TF.linear(x[t, b], Wi, bi) + TF.linear(state, Wh, bh)
            state = states[t] = ACTIVATIONS["swish"].reference(z, theta[0].flatten()) if theta else torch.tanh(z)
        outputs.append(torch.stack([states.get(t, torch.zeros_like(state)) for t in range(len(x))]))
        ends.append(state)
    if not outputs:
        return x.new_zeros(0) + 0 * (Wi.sum() + Wh.sum())
    output = torch.stack(outputs, 0 if transposed else 1)
    return torch.cat([output.flatten(), torch.stack(ends).flatten()])


def elman_arguments(make: Make) -> Iterator[Arguments]:
    yield (make((2, 3)), make((2, 3)), make((2, 2))), {"backwards": True}
    yield (make((1, 0, 3)), make((2, 3)), make((2, 2)), make(2)), {}
    yield (make((2, 2, 1)), make((2, 1)), make((2, 2)), make(2), make(2)), {"batch_first": True, "lengths": [1, 2]}
    several = make((3, 2, 2)), make((2, 2)), make((2, 2)), make(2), make(2), make((2, 2))
    yield (*several, make((1, 1))), {"lengths": torch.tensor([1, 3]), "backwards": True}
    yield (make((2, 2)), make((2, 2)), make((2, 2)), make(2), make(2), make(2), make((1, 2))), {}


CASES = {
    "linear": of_torch("linear", layer_arguments),
    "sigmoid_linear": Case(F.sigmoid_linear, lambda *args: torch.sigmoid(TF.linear(*args)), layer_arguments),
    "activated_linear": Case(activated_linear, lambda *args: torch.tanh(TF.linear(*args)), layer_arguments),
    **{f"activate-{name}": activation_case(g) for name, g in ACTIVATIONS.items()},
    "elman": Case(elman, elman_reference, elman_arguments),
    "mse_loss": of_torch("mse_loss", cost_arguments),
    "binary_cross_entropy": of_torch("binary_cross_entropy", partial(cost_arguments, of_activations=True)),
    "binary_cross_entropy_with_logits": of_torch("binary_cross_entropy_with_logits", cost_arguments),
    "binary_cross_entropy_with_logits-weighted": Case(weighted_bce, weighted_bce_of_torch, weighted_bce_arguments),
    "cross_entropy": of_torch("cross_entropy", cross_entropy_arguments),
    "cross_entropy-classes": of_torch("cross_entropy", partial(cross_entropy_arguments, of_classes=True)),
    **{f"network_cost-{cost}-{name}": network_case(output) for (cost, name), output in OUTPUTS.items()},
}
each_functional = pytest.mark.parametrize("name", CASES)
CUDA_MATMUL = 1e-12  # the tolerance between calls on CUDA of PyTorch's own OpInfo of linear


def internal(module: str) -> Any:
    """A module of torch.testing._internal; skips the test if it, or what it imports, is missing."""
    # Its import would freeze the backends' flags for all later tests in this process.
    with patch("torch.backends.disable_global_flags"):
        try:
            return importlib.import_module(f"torch.testing._internal.{module}")
        except ImportError as error:
            return pytest.skip(f"torch.testing._internal.{module} cannot be imported: {error}")


@pytest.fixture
def op(name: str) -> Any:
    """The function's OpInfo, which declares support for all derivatives."""
    core, dtypes = internal("opinfo.core"), internal("common_dtype")

    def samples(op: Any, device: str, dtype: torch.dtype, requires_grad: bool, **_: Any) -> Iterator[Any]:
        make = partial(make_tensor, device=device, dtype=dtype, requires_grad=requires_grad, low=-2, high=2)
        for (input, *args), kwargs in CASES[name].samples(make):
            yield core.SampleInput(input, args=tuple(args), kwargs=kwargs)

    return core.OpInfo(
        f"torchbp.functional.{name}",
        op=CASES[name].function,
        ref=CASES[name].reference,
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
    assert {name.partition("-")[0] for name in CASES} == set(F.__all__)


@pytest.fixture
def templates() -> Any:
    return internal("common_utils").TestGradients()


def as_double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@each_device
@each_functional
def test_reference(op: Any, device: str) -> None:
    for dtype in op.supported_dtypes(device):
        for sample in op.sample_inputs(device, dtype):
            exact = [as_double(t) for t in (sample.input, *sample.args)]
            options = {name: as_double(value) for name, value in sample.kwargs.items()}
            output, expected = op(sample.input, *sample.args, **sample.kwargs), op.ref(*exact, **options)
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
