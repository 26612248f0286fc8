"""Each autograd Function against finite differences, and under PyTorch's transforms against torch.nn.functional."""

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as TF
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from torchbp import functional as F
from torchbp import functions as fn

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own, whenever torch.compile meets an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

# Every Function beside what it has to equal.
REFERENCE: dict[Any, Callable[..., Tensor]] = {
    fn.Linear: TF.linear,
    fn.SigmoidLinear: lambda x, W, b: torch.sigmoid(TF.linear(x, W, b)),
    fn.SquaredError: lambda a, y, reduction: TF.mse_loss(a, y, reduction=reduction),
    fn.CrossEntropy: lambda a, y, reduction: TF.binary_cross_entropy(a, y, reduction=reduction),
    fn.SigmoidCrossEntropy: lambda z, y, reduction: TF.binary_cross_entropy_with_logits(z, y, reduction=reduction),
    fn.SoftmaxCrossEntropy: lambda z, y, reduction: TF.cross_entropy(z, y, reduction=reduction),
}
LAYERS = (fn.Linear, fn.SigmoidLinear)
COSTS = {
    F.mse_loss: TF.mse_loss,
    F.binary_cross_entropy: TF.binary_cross_entropy,
    F.binary_cross_entropy_with_logits: TF.binary_cross_entropy_with_logits,
    F.cross_entropy: TF.cross_entropy,
}

each_function = pytest.mark.parametrize("function", REFERENCE, ids=lambda function: function.__name__)
each_cost = pytest.mark.parametrize(("ours", "theirs"), COSTS.items(), ids=[cost.__name__ for cost in COSTS])
each_device = pytest.mark.parametrize("device", DEVICES)


def double(*shape: int, **options: Any) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, **options)


def in_unit_interval(*shape: int, **options: Any) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, **options) * 0.9 + 0.05


def some_arguments(function: Any, device: str) -> tuple[list[Tensor], tuple[Any, ...]]:
    """The tensors to differentiate by and the arguments after them, for one call."""
    if function in LAYERS:
        return [double(2, 3, 4, device=device), double(5, 4, device=device), double(5, device=device)], ()
    return [in_unit_interval(3, 4, device=device), in_unit_interval(3, 4, device=device)], ("none",)


@st.composite
def arguments(draw: st.DrawFn, function: Any, device: str) -> tuple[list[Tensor], tuple[Any, ...]]:
    """As ``some_arguments``, of any shape, with any but the empty choice of tensors that require a gradient."""
    generator = torch.Generator(device).manual_seed(draw(st.integers(0, 2**31)))
    options = {"device": device, "generator": generator}
    leading = draw(st.lists(st.integers(0, 2), max_size=3))
    features = st.integers(1, 6)
    tensors: list[Tensor]
    rest: tuple[Any, ...]
    if function in LAYERS:
        n_in, n_out, bias = draw(features), draw(features), draw(st.booleans())
        tensors = [double(*leading, n_in, **options), double(n_out, n_in, **options)]
        tensors, rest = ([*tensors, double(n_out, **options)], ()) if bias else (tensors, (None,))
    else:
        shape = [draw(st.integers(0, 3)), draw(features)] if function is fn.SoftmaxCrossEntropy else [*leading, draw(features)]
        tensors = [in_unit_interval(*shape, **options), in_unit_interval(*shape, **options)]
        # The mean of no elements is NaN, which has no finite differences.
        rest = (draw(st.sampled_from(("mean", "sum", "none") if tensors[0].numel() else ("sum", "none"))),)
        if function in (fn.SigmoidCrossEntropy, fn.SoftmaxCrossEntropy):
            tensors[0] = 8 * tensors[0] - 4
    wanted = draw(st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)).filter(any))
    for tensor, requires_grad in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(requires_grad)
    return tensors, rest


@each_device
@each_function
@settings(derandomize=True, deadline=None, max_examples=25)
@given(data=st.data())
def test_derivatives_equal_finite_differences(function: Any, device: str, data: st.DataObject) -> None:
    tensors, rest = data.draw(arguments(function, device))

    def call(*tensors: Tensor) -> Tensor:
        return function.apply(*tensors, *rest)

    options = {"check_batched_grad": True, "nondet_tol": 0.0 if device == "cpu" else 1e-12}
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_forward_grad=True, **options)
    assert gradgradcheck(call, tensors, check_fwd_over_rev=True, **options)


def strided(t: Tensor) -> Tensor:
    return torch.stack([t, t], -1)[..., 0]


def transposed(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


def expanded(t: Tensor) -> Tensor:
    return t[:1].expand_as(t)


@each_device
@pytest.mark.parametrize("of_upstream", [torch.clone, strided, transposed, expanded])
@pytest.mark.parametrize("of_inputs", [torch.clone, strided, transposed, expanded])
@each_function
def test_any_memory_layout(
    function: Any, of_inputs: Callable[..., Tensor], of_upstream: Callable[..., Tensor], device: str
) -> None:
    tensors, rest = some_arguments(function, device)
    tensors = [of_inputs(t).requires_grad_() for t in tensors]
    output, expected = function.apply(*tensors, *rest), REFERENCE[function](*tensors, *rest)
    assert_close(output, expected)
    upstream = of_upstream(double(*output.shape, device=device))
    assert_close(torch.autograd.grad(output, tensors, upstream), torch.autograd.grad(expected, tensors, upstream))


class CountOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def each_choice(name: str, *values: Any) -> pytest.MarkDecorator:
    """Every Function with every choice of a value for each of its tensors, except the last value for all of them."""
    cases = [
        (function, choice)
        for function in REFERENCE
        for choice in itertools.product(values, repeat=3 if function in LAYERS else 2)
        if set(choice) != {values[-1]}
    ]
    return pytest.mark.parametrize(("function", name), cases, ids=[f"{f.__name__}-{choice}" for f, choice in cases])


@each_device
@each_choice("mask", True, False)
def test_only_wanted_gradients_are_computed(function: Any, mask: tuple[bool, ...], device: str) -> None:
    tensors, rest = some_arguments(function, device)
    upstream = double(*REFERENCE[function](*tensors, *rest).shape, device=device)

    def backward(mask: tuple[bool, ...]) -> tuple[tuple[Tensor | None, ...], int]:
        leaves = [t.clone().requires_grad_(wanted) for t, wanted in zip(tensors, mask, strict=True)]
        output = function.apply(*leaves, *rest)
        # A Function's node in the graph is the ctx of its backward.
        with torch.no_grad(), CountOperations() as operations:
            gradients = function.backward(output.grad_fn, upstream)
        return gradients[: len(mask)], operations.count

    gradients, count = backward(mask)
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(REFERENCE[function](*leaves, *rest), leaves, upstream)
    for wanted, gradient, right in zip(mask, gradients, expected, strict=True):
        if wanted:
            assert_close(gradient, right)
        else:
            assert gradient is None
    _, all_count = backward((True,) * len(mask))
    # The squared error's gradient by target is minus that by activation, which is therefore always needed.
    if all(mask) or (function is fn.SquaredError and mask == (False, True)):
        assert count == all_count
    else:
        assert count < all_count


@each_device
@each_function
def test_second_backward_of_a_retained_graph(function: Any, device: str) -> None:
    tensors, rest = some_arguments(function, device)
    gradients = []
    for call in (function.apply, REFERENCE[function]):
        torch.manual_seed(1)
        leaves = [t.clone().requires_grad_() for t in tensors]
        output = call(*leaves, *rest)
        output.backward(double(*output.shape, device=device), retain_graph=True)
        output.backward(double(*output.shape, device=device))
        gradients.append([leaf.grad for leaf in leaves])
    assert_close(*gradients)


@each_device
@each_choice("in_dims", 0, 1, None)
def test_vmap_equals_a_loop(function: Any, in_dims: tuple[int | None, ...], device: str) -> None:
    single, rest = some_arguments(function, device)
    batched = [
        t if d is None else torch.stack([t + i / 100 for i in range(3)], d) for t, d in zip(single, in_dims, strict=True)
    ]

    def ours(*tensors: Tensor) -> Tensor:
        return function.apply(*tensors, *rest)

    def with_gradients(call: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        output, pull_back = torch.func.vjp(call, *tensors)
        return output, *pull_back(output.sin())

    slices = [[t if d is None else t.select(d, i) for t, d in zip(batched, in_dims, strict=True)] for i in range(3)]
    loop = [with_gradients(lambda *tensors: REFERENCE[function](*tensors, *rest), *tensors) for tensors in slices]
    output, *gradients = (torch.stack(each) for each in zip(*loop, strict=True))
    gradient_of_each = torch.func.vmap(lambda *tensors: with_gradients(ours, *tensors), in_dims)
    assert_close(gradient_of_each(*batched), (output, *gradients))
    # The gradient of the whole: a tensor that all have in common gets the sum.
    gradients = [g.sum(0) if d is None else g.movedim(0, d) for g, d in zip(gradients, in_dims, strict=True)]
    assert_close(with_gradients(torch.func.vmap(ours, in_dims), *batched), (output, *gradients))


def network(linear: Any, sigmoid_linear: Any, cost: Any) -> Callable[..., Tensor]:
    """The cost of a two-layer network, 3-4-2, as a function of its parameters and of samples or one sample."""

    def L(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, x: Tensor, y: Tensor) -> Tensor:
        last = sigmoid_linear if cost in (F.mse_loss, F.binary_cross_entropy, TF.mse_loss, TF.binary_cross_entropy) else linear
        return cost(last(sigmoid_linear(x, W1, b1), W2, b2), y)

    return L


def both_networks(
    ours: Any, theirs: Any, device: str
) -> tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...], Tensor, Tensor]:
    parameters = tuple(double(*shape, device=device) for shape in ((4, 3), (4,), (2, 4), (2,)))
    L, expected_L = network(F.linear, F.sigmoid_linear, ours), network(TF.linear, REFERENCE[fn.SigmoidLinear], theirs)
    return L, expected_L, parameters, double(5, 3, device=device), in_unit_interval(5, 2, device=device)


@each_device
@each_cost
def test_per_sample_gradients(ours: Any, theirs: Any, device: str) -> None:
    L, expected_L, parameters, x, y = both_networks(ours, theirs, device)
    per_sample = torch.func.vmap(torch.func.grad(L, argnums=(0, 1, 2, 3)), in_dims=(None,) * 4 + (0, 0))(*parameters, x, y)
    loop = [torch.func.grad(expected_L, argnums=(0, 1, 2, 3))(*parameters, *sample) for sample in zip(x, y, strict=True)]
    assert_close(per_sample, tuple(torch.stack(each) for each in zip(*loop, strict=True)))


SECOND_ORDERS = {
    "reverse over reverse": (torch.func.jacrev, torch.func.jacrev),
    "forward over reverse": (torch.func.jacfwd, torch.func.jacrev),
    "reverse over forward": (torch.func.jacrev, torch.func.jacfwd),
}


@each_device
@pytest.mark.parametrize(("outer", "inner"), SECOND_ORDERS.values(), ids=SECOND_ORDERS)
@each_cost
def test_hessian(ours: Any, theirs: Any, outer: Any, inner: Any, device: str) -> None:
    L, expected_L, parameters, x, y = both_networks(ours, theirs, device)
    every = tuple(range(6))
    expected = torch.func.jacrev(torch.func.jacrev(expected_L, every), every)(*parameters, x, y)
    assert_close(outer(inner(L, every), every)(*parameters, x, y), expected)


@each_device
@pytest.mark.parametrize("name", ["linear", "sigmoid_linear", *(cost.__name__ for cost in COSTS)])
def test_compiles_to_one_graph(name: str, device: str) -> None:
    torch.compiler.reset()
    call = getattr(F, name)
    shapes = [(2, 3, 4), (5, 4), (5,)] if "linear" in name else [(3, 4), (3, 4)]
    tensors = [in_unit_interval(*shape, device=device).requires_grad_() for shape in shapes]
    output, expected = torch.compile(call, backend="aot_eager", fullgraph=True)(*tensors), call(*tensors)
    assert_close(output, expected)
    upstream = double(*output.shape, device=device)
    assert_close(torch.autograd.grad(output, tensors, upstream), torch.autograd.grad(expected, tensors, upstream))


@each_device
@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(F.linear, TF.linear), (F.sigmoid_linear, REFERENCE[fn.SigmoidLinear]), *COSTS.items()],
    ids=["linear", "sigmoid_linear", *(cost.__name__ for cost in COSTS)],
)
def test_autocast_gives_the_types_that_torch_gives(
    ours: Any, theirs: Any, dtype: torch.dtype, to: torch.dtype, device: str
) -> None:
    if device == "cuda" and ours is F.binary_cross_entropy:
        pytest.skip("PyTorch's refuses autocast on CUDA")
    shapes = [(3, 4), (5, 4), (5,)] if "linear" in ours.__name__ else [(3, 4), (3, 4)]
    tensors = [in_unit_interval(*shape, device=device).to(dtype).requires_grad_() for shape in shapes]
    results = []
    for call in (ours, theirs):
        with torch.autocast(device, to):
            output = call(*tensors)
        results.append([output, *torch.autograd.grad(output.sum(), tensors)])
    # assert_close compares the types too.
    assert_close(*results, rtol=2e-2, atol=2e-2)
