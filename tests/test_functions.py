"""Each autograd Function, compared with finite differences, and under PyTorch's transforms with torch.nn.functional."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.outputs import CROSS_ENTROPY_OF_ACTIVATION, OUTPUTS, Output

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own warning, whenever torch.compile traces an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

Arguments = tuple[list[Tensor], tuple[Any, ...]]


def double(*shape: int, **options: Any) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, **options)


def in_unit_interval(*shape: int, **options: Any) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, **options) * 0.9 + 0.05


class Case(NamedTuple):
    """A Function, its reference, and its tensors and other arguments for B rows of n."""

    function: Any
    reference: Callable[..., Tensor]
    arguments: Callable[..., Arguments]


def linear_arguments(rows: int, n: int, **options: Any) -> Arguments:
    return [double(rows, n, **options), double(5, n, **options), double(5, **options)], ()


def case_of_activation(g: Activation) -> Case:
    def arguments(rows: int, n: int, **options: Any) -> Arguments:
        # Parameters near their start, alternately one per layer and one per unit.
        shapes = [(len(p.initial), n if number % 2 else 1) for number, p in enumerate(g.parameters.values())]
        starts = [p.start(dtype=torch.float64, device=options.get("device")) for p in g.parameters.values()]
        theta = [start + 0.3 * double(*shape, **options) for start, shape in zip(starts, shapes, strict=True)]
        return [2 * double(rows, n, **options), *theta], ()

    def reference(z: Tensor, *theta: Tensor) -> Tensor:
        return g.reference(z, *theta)

    return Case(fn.activation_function(g), reference, arguments)


def case_of_output(output: Output) -> Case:
    def arguments(rows: int, n: int, reduction: str = "none", **options: Any) -> Arguments:
        z = in_unit_interval(rows, n, **options) if output is CROSS_ENTROPY_OF_ACTIVATION else 2 * double(rows, n, **options)
        return [z, in_unit_interval(rows, n, **options)], (reduction,)

    def reference(z: Tensor, y: Tensor, reduction: str) -> Tensor:
        return fn.reduce(output.reference(z, y), reduction)

    return Case(fn.cost_function(output), reference, arguments)


CASES = [
    Case(fn.Linear, TF.linear, linear_arguments),
    *(case_of_activation(g) for name, g in ACTIVATIONS.items() if name != "identity"),  # not a Function
    *map(case_of_output, (*OUTPUTS.values(), CROSS_ENTROPY_OF_ACTIVATION)),
]
LAYERS = {F.linear: TF.linear, F.sigmoid_linear: lambda x, W, b: torch.sigmoid(TF.linear(x, W, b))}
COSTS = {
    F.mse_loss: TF.mse_loss,
    F.binary_cross_entropy: TF.binary_cross_entropy,
    F.binary_cross_entropy_with_logits: TF.binary_cross_entropy_with_logits,
    F.cross_entropy: TF.cross_entropy,
}

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.function.__name__)
each_cost = pytest.mark.parametrize(("ours", "theirs"), COSTS.items(), ids=[cost.__name__ for cost in COSTS])
each_device = pytest.mark.parametrize("device", DEVICES)


@each_device
@each_case
@settings(derandomize=True, deadline=None, max_examples=8)
@given(data=st.data())
def test_derivatives_equal_finite_differences(case: Case, device: str, data: st.DataObject) -> None:
    """For any number of rows and columns, and any nonempty choice of tensors that require a gradient."""
    generator = torch.Generator(device).manual_seed(data.draw(st.integers(0, 2**31)))
    rows, n = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 4))
    tensors, rest = case.arguments(rows, n, device=device, generator=generator)
    if rest:  # the mean of no elements is NaN
        rest = (data.draw(st.sampled_from(("mean", "sum", "none") if rows else ("sum", "none"))),)
    wanted = data.draw(st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)).filter(any))
    for tensor, requires_grad in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(requires_grad)

    def call(*tensors: Tensor) -> Tensor:
        return case.function.apply(*tensors, *rest)

    options = {"check_batched_grad": True, "nondet_tol": 0.0 if device == "cpu" else 1e-12}
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_forward_grad=True, **options)
    assert gradgradcheck(call, tensors, check_fwd_over_rev=True, **options)


def strided(t: Tensor) -> Tensor:
    return torch.stack([t, t], -1)[..., 0]


def transposed(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


def expanded(t: Tensor) -> Tensor:
    return t[:1].expand_as(t)


LAYOUTS = (torch.clone, strided, transposed, expanded)


@each_device
@each_case
def test_any_memory_layout(case: Case, device: str) -> None:
    tensors, rest = case.arguments(3, 4, device=device)
    for of_inputs, of_upstream in itertools.product(LAYOUTS, LAYOUTS):
        leaves = [of_inputs(t).requires_grad_() for t in tensors]
        output, expected = case.function.apply(*leaves, *rest), case.reference(*leaves, *rest)
        assert_close(output, expected)
        upstream = of_upstream(double(*output.shape, device=device))
        assert_close(torch.autograd.grad(output, leaves, upstream), torch.autograd.grad(expected, leaves, upstream))


class CountOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def choices(tensors: list[Tensor], *values: Any) -> Iterator[tuple[Any, ...]]:
    """Every choice of a value for each tensor, except the last value for all."""
    return (choice for choice in itertools.product(values, repeat=len(tensors)) if set(choice) != {values[-1]})


@each_device
@each_case
def test_only_wanted_gradients_are_computed(case: Case, device: str) -> None:
    tensors, rest = case.arguments(3, 4, device=device)
    upstream = double(*case.reference(*tensors, *rest).shape, device=device)

    def backward(mask: tuple[bool, ...]) -> tuple[tuple[Tensor | None, ...], int]:
        leaves = [t.clone().requires_grad_(wanted) for t, wanted in zip(tensors, mask, strict=True)]
        output = case.function.apply(*leaves, *rest)
        # A Function's node in the graph is its backward's ctx.
        with torch.no_grad(), CountOperations() as operations:
            gradients = case.function.backward(output.grad_fn, upstream)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return gradients[: len(mask)], operations.count

    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(case.reference(*leaves, *rest), leaves, upstream)
    _, all_count = backward((True,) * len(tensors))
    for mask in choices(tensors, True, False):
        gradients, count = backward(mask)
        for wanted, gradient, right in zip(mask, gradients, expected, strict=True):
            if wanted:
                assert_close(gradient, right)
            else:
                assert gradient is None
        assert count == all_count if all(mask) else count < all_count


@each_device
@each_case
def test_second_backward_of_a_retained_graph(case: Case, device: str) -> None:
    tensors, rest = case.arguments(3, 4, device=device)
    gradients = []
    for call in (case.function.apply, case.reference):
        torch.manual_seed(1)
        leaves = [t.clone().requires_grad_() for t in tensors]
        output = call(*leaves, *rest)
        output.backward(double(*output.shape, device=device), retain_graph=True)
        output.backward(double(*output.shape, device=device))
        gradients.append([leaf.grad for leaf in leaves])
    assert_close(*gradients)


@each_device
@each_case
def test_vmap_equals_a_loop(case: Case, device: str) -> None:
    single, rest = case.arguments(3, 4, device=device)

    def ours(*tensors: Tensor) -> Tensor:
        return case.function.apply(*tensors, *rest)

    def theirs(*tensors: Tensor) -> Tensor:
        return case.reference(*tensors, *rest)

    def with_gradients(call: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        output, pull_back = torch.func.vjp(call, *tensors)
        return output, *pull_back(output.sin())

    for in_dims in choices(single, 0, 1, None):
        batched = [
            t if d is None else torch.stack([t + i / 100 for i in range(3)], d) for t, d in zip(single, in_dims, strict=True)
        ]
        slices = [[t if d is None else t.select(d, i) for t, d in zip(batched, in_dims, strict=True)] for i in range(3)]
        loop = [with_gradients(theirs, *tensors) for tensors in slices]
        output, *gradients = (torch.stack(each) for each in zip(*loop, strict=True))
        gradient_of_each = torch.func.vmap(lambda *tensors: with_gradients(ours, *tensors), in_dims)
        assert_close(gradient_of_each(*batched), (output, *gradients))
        # For the sum, a shared tensor gets the sum of the gradients.
        gradients = [g.sum(0) if d is None else g.movedim(0, d) for g, d in zip(gradients, in_dims, strict=True)]
        assert_close(with_gradients(torch.func.vmap(ours, in_dims), *batched), (output, *gradients))


def network(linear: Any, sigmoid_linear: Any, cost: Any) -> Callable[..., Tensor]:
    """The cost of a 3-4-2 network as a function of its parameters and of samples or one sample."""

    def L(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, x: Tensor, y: Tensor) -> Tensor:
        last = sigmoid_linear if cost in (F.mse_loss, F.binary_cross_entropy, TF.mse_loss, TF.binary_cross_entropy) else linear
        return cost(last(sigmoid_linear(x, W1, b1), W2, b2), y)

    return L


def both_networks(
    ours: Any, theirs: Any, device: str
) -> tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...], Tensor, Tensor]:
    parameters = tuple(double(*shape, device=device) for shape in ((4, 3), (4,), (2, 4), (2,)))
    L, expected_L = network(F.linear, F.sigmoid_linear, ours), network(TF.linear, LAYERS[F.sigmoid_linear], theirs)
    return L, expected_L, parameters, double(5, 3, device=device), in_unit_interval(5, 2, device=device)


@each_device
@each_cost
def test_per_sample_gradients(ours: Any, theirs: Any, device: str) -> None:
    L, expected_L, parameters, x, y = both_networks(ours, theirs, device)
    per_sample = torch.func.vmap(torch.func.grad(L, argnums=(0, 1, 2, 3)), in_dims=(None,) * 4 + (0, 0))(*parameters, x, y)
    loop = [torch.func.grad(expected_L, argnums=(0, 1, 2, 3))(*parameters, *sample) for sample in zip(x, y, strict=True)]
    assert_close(per_sample, tuple(torch.stack(each) for each in zip(*loop, strict=True)))


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
    {**LAYERS, **COSTS}.items(),
    ids=[function.__name__ for function in (*LAYERS, *COSTS)],
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
    # assert_close also compares the types.
    assert_close(*results, rtol=2e-2, atol=2e-2)
