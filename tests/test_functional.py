"""torchbp.functional compared with torch.nn.functional: values, gradients, saturation, empty batches, and bad input."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.nn import functional as TF
from torch.testing import assert_close

from torchbp import functional as F
from torchbp.activations import ACTIVATIONS, Activation

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAYERS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.linear: TF.linear,
    F.sigmoid_linear: lambda x, W, b=None: torch.sigmoid(TF.linear(x, W, b)),
}
COSTS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.mse_loss: TF.mse_loss,
    F.binary_cross_entropy: TF.binary_cross_entropy,
    F.binary_cross_entropy_with_logits: TF.binary_cross_entropy_with_logits,
    F.cross_entropy: TF.cross_entropy,
}

each_layer = pytest.mark.parametrize(("ours", "theirs"), LAYERS.items(), ids=[layer.__name__ for layer in LAYERS])
each_cost = pytest.mark.parametrize(("ours", "theirs"), COSTS.items(), ids=[cost.__name__ for cost in COSTS])
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
each_device = pytest.mark.parametrize("device", DEVICES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def assert_same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> None:
    """Checks that the value and every gradient equal PyTorch's in float64 within a few roundings."""
    dtype = tensors[0].dtype
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors]
    exact = [t.detach().double().requires_grad_() if t.is_floating_point() else t for t in tensors]
    output, expected = ours(*leaves, **options), theirs(*exact, **options)
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, [t for t in leaves if t.requires_grad], upstream)
    right = torch.autograd.grad(expected, [t for t in exact if t.requires_grad], upstream.double())
    for actual, value in zip((output, *gradients), (expected, *right), strict=True):
        assert actual.dtype == dtype
        # Rounding errors scale with the largest terms of a sum; float32's sigmoid alone may have ten.
        tolerance = 16 * torch.finfo(dtype).eps
        scale = value.detach().abs().amax().item() if value.numel() else 0.0
        assert_close(actual.double(), value, rtol=tolerance, atol=tolerance * scale)


@each_device
@each_dtype
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 1, 3)], ids=str)
@each_layer
def test_layer(ours: Any, theirs: Any, leading: tuple[int, ...], bias: bool, dtype: torch.dtype, device: str) -> None:
    shapes = [(*leading, 4), (5, 4), (5,)] if bias else [(*leading, 4), (5, 4)]
    assert_same(ours, theirs, *(torch.randn(shape, dtype=dtype, device=device) for shape in shapes))


@each_device
@each_dtype
@each_reduction
@pytest.mark.parametrize(
    ("ours", "shape"),
    [
        (cost, shape)
        for cost in COSTS
        for shape in [(), (5,), (3, 4), (2, 3, 2)]
        if cost is not F.cross_entropy or len(shape) in (1, 2)
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_cost(ours: Any, shape: tuple[int, ...], reduction: str, dtype: torch.dtype, device: str) -> None:
    activation = torch.rand(shape, device=device) * 0.9 + 0.05
    from_z = ours in (F.binary_cross_entropy_with_logits, F.cross_entropy)
    input = (activation.logit() if from_z else activation).to(dtype)
    assert_same(ours, COSTS[ours], input, torch.rand(shape, device=device).to(dtype), reduction=reduction)


@each_device
@each_dtype
@each_reduction
@pytest.mark.parametrize(
    "indices", [torch.tensor(2), torch.tensor([0, 3, 3, 1]), torch.tensor([2], dtype=torch.uint8)], ids=str
)
def test_cross_entropy_of_class_indices(indices: Tensor, reduction: str, dtype: torch.dtype, device: str) -> None:
    z = torch.randn(*indices.shape, 4, device=device).to(dtype)
    assert_same(F.cross_entropy, TF.cross_entropy, z, indices.to(device), reduction=reduction)


def test_a_target_that_needs_no_gradient() -> None:
    for ours, theirs in COSTS.items():
        a, y = torch.rand(3, 4, requires_grad=True), torch.rand(3, 4)
        assert_close(torch.autograd.grad(ours(a, y), a), torch.autograd.grad(theirs(a, y), a))


@each_device
@each_dtype
@pytest.mark.parametrize("y", [0.0, 1.0, 0.25])
def test_saturated_weighted_input(y: float, dtype: torch.dtype, device: str) -> None:
    z = torch.tensor([[-1e4, 1e4]], dtype=dtype, device=device)
    target = torch.full_like(z, y)
    assert_same(F.binary_cross_entropy_with_logits, TF.binary_cross_entropy_with_logits, z, target, reduction="none")
    # The value and every gradient, through a saturated sigmoid too.
    W, b = torch.eye(2, dtype=dtype, device=device), torch.zeros(2, dtype=dtype, device=device)
    for cost in (F.mse_loss, F.binary_cross_entropy):
        leaves = [t.clone().requires_grad_() for t in (z, W, b, target)]
        L = cost(F.sigmoid_linear(*leaves[:3]), leaves[3])
        assert all(t.isfinite().all() for t in (L, *torch.autograd.grad(L, leaves)))


@each_device
@each_dtype
def test_saturated_softmax(dtype: torch.dtype, device: str) -> None:
    z = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], dtype=dtype, device=device)
    assert_same(F.cross_entropy, TF.cross_entropy, z, torch.tensor([0, 1], device=device), reduction="none")
    target = torch.tensor([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]], dtype=dtype, device=device)
    assert_same(F.cross_entropy, TF.cross_entropy, z, target, reduction="none")


@each_device
@each_dtype
def test_activation_of_exactly_zero_or_one(dtype: torch.dtype, device: str) -> None:
    a = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=dtype, device=device).requires_grad_()
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 0.5], dtype=dtype, device=device).requires_grad_()
    cost = F.binary_cross_entropy(a, y, reduction="none")
    assert cost.tolist() == [0, 0, 100, 100, 50, 50]
    da, dy = torch.autograd.grad(cost.sum(), (a, y))
    # The denominator of 3.2a is at least 1e-12, or float16's least normal number.
    far = 1 / max(1e-12, torch.finfo(dtype).tiny)
    assert_close(da, torch.tensor([0, 0, -far, far, -far / 2, far / 2], device=device).to(dtype))
    assert dy.tolist() == [100, -100] * 3


@each_device
@each_reduction
@each_cost
def test_cost_of_an_empty_batch(ours: Any, theirs: Any, reduction: str, device: str) -> None:
    a, y = (torch.rand(0, 4, device=device, requires_grad=True) for _ in range(2))
    output = ours(a, y, reduction=reduction)
    # The mean of nothing is NaN, as in PyTorch.
    assert_close(output, theirs(a, y, reduction=reduction), equal_nan=True)
    assert [g.shape for g in torch.autograd.grad(output.sum(), (a, y))] == [(0, 4), (0, 4)]


@each_device
@each_layer
def test_layer_of_an_empty_batch(ours: Any, theirs: Any, device: str) -> None:
    for leading in ((0,), (0, 3), (2, 0)):
        assert_same(ours, theirs, *(torch.randn(shape, device=device) for shape in ((*leading, 4), (5, 4), (5,))))


@pytest.mark.parametrize("cost", COSTS)
def test_mixed_types_promote_and_each_gradient_has_its_own(cost: Any) -> None:
    for low, high in ((torch.float32, torch.float64), (torch.bfloat16, torch.float32)):
        for types in ((low, high), (high, low)):
            a, y = (torch.rand(2, 3).to(dtype).requires_grad_() for dtype in types)
            L = cost(a, y)
            da, dy = torch.autograd.grad(L, (a, y))
            assert (L.dtype, da.dtype, dy.dtype) == (high, *types)
            assert_close(L, COSTS[cost](a.to(high), y.to(high)))


@pytest.mark.parametrize("cost", [F.binary_cross_entropy_with_logits, F.mse_loss, F.binary_cross_entropy])
def test_nan_is_not_hidden(cost: Any) -> None:
    input = torch.tensor([math.nan, 0.5], requires_grad=True)
    L = cost(input, torch.tensor([1.0, 0.0]), reduction="none")
    (gradient,) = torch.autograd.grad(L.sum(), input)
    assert L.isnan().tolist() == gradient.isnan().tolist() == [True, False]


def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


LAYER_SHAPES = "they must be (*, in_features) and (out_features, in_features)"
BAD_LAYERS = {
    "features": ((t(3, 4), t(5, 6)), ValueError, f"input has shape (3, 4) and weight (5, 6); {LAYER_SHAPES}"),
    "scalar input": ((t(), t(5, 6)), ValueError, f"input has shape () and weight (5, 6); {LAYER_SHAPES}"),
    "1-D weight": ((t(3, 4), t(4)), ValueError, f"input has shape (3, 4) and weight (4,); {LAYER_SHAPES}"),
    "bias": ((t(3, 4), t(5, 4), t(4)), ValueError, "bias has shape (4,); for this weight it must be (5,)"),
    "2-D bias": ((t(3, 4), t(5, 4), t(1, 5)), ValueError, "bias has shape (1, 5); for this weight it must be (5,)"),
    "integer input": (
        (t(3, 4, dtype=torch.int64), t(5, 4)),
        TypeError,
        "input is torch.int64; it must be of a real floating-point type",
    ),
    "complex weight": (
        (t(3, 4), t(5, 4, dtype=torch.complex64)),
        TypeError,
        "weight is torch.complex64; it must be of a real floating-point type",
    ),
    "integer bias": (
        (t(3, 4), t(5, 4), t(5, dtype=torch.int32)),
        TypeError,
        "bias is torch.int32; it must be of a real floating-point type",
    ),
}
BAD_COSTS = {
    "shapes": ((t(3, 1), t(3)), {}, ValueError, "target has shape (3,); it must be that of input, (3, 1)"),
    "reduction": (
        (t(3), t(3)),
        {"reduction": "average"},
        ValueError,
        "reduction is 'average'; it must be 'mean', 'sum' or 'none'",
    ),
    "integer input": (
        (t(3, dtype=torch.int32), t(3)),
        {},
        TypeError,
        "input is torch.int32; it must be of a real floating-point type",
    ),
}
BAD_CLASSES = {
    "3-D input": ((t(2, 3, 4), t(2, 4)), "input has shape (2, 3, 4); it must be (C) or (B, C)"),
    "scalar input": ((t(), t()), "input has shape (); it must be (C) or (B, C)"),
    "indices": (
        (t(2, 3), t(3, dtype=torch.int64)),
        "target has shape (3,); class indices for an input of shape (2, 3) must have shape (2,)",
    ),
    "probabilities": ((t(2, 3), t(2)), "target has shape (2,); it must be that of input, (2, 3)"),
}


def message_of(error: type[Exception], call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(error) as raised:
        call(*args, **options)
    return str(raised.value)


@pytest.mark.parametrize(("args", "error", "message"), BAD_LAYERS.values(), ids=BAD_LAYERS)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_bad_layer(layer: Any, args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    assert message_of(error, layer, *args) == message


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD_COSTS.values(), ids=BAD_COSTS)
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.__name__)
def test_bad_cost(cost: Any, args: tuple[Any, ...], options: Any, error: type[Exception], message: str) -> None:
    if cost is F.cross_entropy and args[0].shape == (3, 1):
        args = (t(3, 1, 1)[0], t(3))
        message = "target has shape (3,); it must be that of input, (1, 1)"
    assert message_of(error, cost, *args, **options) == message


@pytest.mark.parametrize("cost", [cost for cost in COSTS if cost is not F.cross_entropy], ids=lambda cost: cost.__name__)
def test_integer_target(cost: Any) -> None:
    message = "target is torch.int64; it must be of a real floating-point type"
    assert message_of(TypeError, cost, t(3), t(3, dtype=torch.int64)) == message


@pytest.mark.parametrize(("args", "message"), BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_bad_classes(args: tuple[Any, ...], message: str) -> None:
    assert message_of(ValueError, F.cross_entropy, *args) == message


def test_bad_weights_of_classes() -> None:
    z, y = t(2, 3), t(2, dtype=torch.int64)
    assert message_of(ValueError, F.cross_entropy, z, y, t(2)) == "weight has shape (2,); it must be one for each class, (3,)"
    message = "label_smoothing is 1.5; it must be from 0 to 1"
    assert message_of(ValueError, F.cross_entropy, z, y, label_smoothing=1.5) == message


@pytest.mark.parametrize("cost", [F.binary_cross_entropy, F.binary_cross_entropy_with_logits])
@pytest.mark.parametrize("shape", [(2,), (2, 4, 3)])
def test_bad_weights_of_costs(cost: Any, shape: tuple[int, ...]) -> None:
    assert message_of(ValueError, cost, t(4, 3), t(4, 3), t(*shape)) == f"weight has shape {shape}; it must broadcast to (4, 3)"


@each_reduction
@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 3)])
@pytest.mark.parametrize("cost", [F.binary_cross_entropy, F.binary_cross_entropy_with_logits])
def test_weight_of_each_cost(cost: Any, shape: tuple[int, ...], reduction: str) -> None:
    """``weight`` is PyTorch's third argument too."""
    weight = torch.rand(shape)

    def ours(a: Tensor, y: Tensor) -> Tensor:
        return cost(a, y, weight, reduction=reduction)

    def theirs(a: Tensor, y: Tensor) -> Tensor:
        return COSTS[cost](a, y, weight.double(), reduction=reduction)

    assert_same(ours, theirs, torch.rand(4, 3), torch.rand(4, 3))


@pytest.mark.parametrize("name", [cost.__name__ for cost in COSTS])
def test_arguments_are_in_the_order_of_torch(name: str) -> None:
    ours, theirs = ([*inspect.signature(getattr(package, name)).parameters] for package in (F, TF))
    assert ours == [argument for argument in theirs if argument in ours]


RIGHT = {
    "activate": (t(2, 3), "swish", t(1, 1)),
    "activated_linear": (t(2, 3), t(3, 3), t(3), "swish", t(1, 1)),
    "binary_cross_entropy": (t(2, 3), t(2, 3), t(3)),
    "binary_cross_entropy_with_logits": (t(2, 3), t(2, 3), t(3)),
    "cross_entropy": (t(2, 3), t(2, 3), t(3)),
    "elman": (t(4, 2, 3), t(2, 3), t(3, 3), t(3, 3), t(3), t(3), "swish", t(1, 1)),
    "linear": (t(2, 3), t(3, 3), t(3)),
    "mse_loss": (t(2, 3), t(2, 3)),
    "network_cost": (t(2, 3), t(2, 3), [t(3, 3), t(3)], "cross_entropy", "sigmoid", t(2)),
    "sigmoid_linear": (t(2, 3), t(3, 3), t(3)),
}


@pytest.mark.parametrize("name", F.__all__)
def test_an_argument_that_is_no_tensor(name: str) -> None:
    getattr(F, name)(*RIGHT[name])
    taken = inspect.signature(getattr(F, name)).parameters.items()
    for place, ((argument, parameter), right) in enumerate(zip(taken, RIGHT[name], strict=False)):
        shown = "beta" if argument == "parameters" else argument
        for wrong in ("mean", None) if "None" not in str(parameter.annotation) else ("mean",):
            if isinstance(right, Tensor):
                said = message_of(TypeError, getattr(F, name), *RIGHT[name][:place], wrong, *RIGHT[name][place + 1 :])
                assert said == f"{shown} is {wrong!r}; it must be a tensor"
    message = "parameter 1 is [0.0]; it must be a tensor"
    assert message_of(TypeError, F.network_cost, t(2, 3), t(2, 3), [t(3, 3), [0.0]]) == message
    said = message_of(TypeError, F.binary_cross_entropy_with_logits, t(2), t(2), pos_weight=2.0)
    assert said == "pos_weight is 2.0; it must be a tensor"


def test_bad_parameters_of_an_activation() -> None:
    assert message_of(ValueError, F.activate, t(2, 3), "swish") == "there are 0 parameters; swish has 1"
    assert message_of(ValueError, F.activate, t(2, 3), "tanh", t(1, 1)) == "there are 1 parameters; tanh has 0"
    message = "beta of swish has shape (1, 2); it must be (1, 1) or (1, 3)"
    assert message_of(ValueError, F.activate, t(2, 3), "swish", t(1, 2)) == message
    assert message_of(TypeError, F.activate, t(2, dtype=torch.int64), "tanh").startswith("input is torch.int64")
    message = "beta of swish has shape (3, 1, 1); it does not fit an input (2, 5, 4)"
    assert message_of(ValueError, F.activate, t(2, 5, 4), "swish", t(3, 1, 1)) == message
    assert message_of(TypeError, F.activate, t(2, 3), "swish", t(1, 1, dtype=torch.int64)).startswith("beta is torch.int64")


def test_each_of_many_activations_is_itself() -> None:
    """Even if one is created at the memory address of another that is deleted."""
    for c in range(50):
        g = Activation(
            "own", "c*z", "c", lambda z, c=c, out=None: c * z, lambda z, c=c: torch.full_like(z, c), lambda z, c=c: c * z
        )
        assert F.activate(torch.ones(1), g).item() == c
        del g


@each_device
@pytest.mark.parametrize("g", [g for g in ACTIVATIONS.values() if g.parameters], ids=lambda g: g.name)
def test_input_and_parameters_of_different_types(g: Activation, device: str) -> None:
    """As under autocast: types promote, and each gradient has its tensor's type."""
    z = torch.randn(5, 3, device=device, dtype=torch.bfloat16, requires_grad=True)
    theta = [p.start(device=device, dtype=torch.float32).requires_grad_() for p in g.parameters.values()]
    a = F.activate(z, g, *theta)
    a.sum().backward()
    exact = [t.detach().double().requires_grad_() for t in (z, *theta)]
    expected = g.reference(*exact)
    expected.sum().backward()
    assert a.dtype == torch.float32
    assert_close(a.double(), expected, rtol=1e-5, atol=1e-5)
    for found, right in zip((z, *theta), exact, strict=True):
        assert found.grad.dtype == found.dtype
        assert_close(found.grad.double(), right.grad, rtol=1e-2 if found is z else 1e-5, atol=1e-5)


@each_device
def test_networks_side_by_side_are_single_ones(device: str) -> None:
    x, W, b = (torch.randn(shape, dtype=torch.float64, device=device) for shape in ((3, 5, 4), (3, 2, 4), (3, 2)))
    beta = torch.rand(3, 1, 1, dtype=torch.float64, device=device)
    for rows in (x, x[0]):
        found = F.activated_linear(rows, W, b, "swish", beta)
        each = [F.activated_linear(rows[k] if rows.dim() == 3 else rows, W[k], b[k], "swish", beta[k]) for k in range(3)]
        assert_close(found, torch.stack(each))
    assert "input has shape (2, 5, 4) and weight (3, 2, 4)" in message_of(ValueError, F.linear, x[:2], W)
