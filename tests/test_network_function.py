"""The whole network's Function, compared with finite differences, torch.nn, and the single layers."""

import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from references import Reference, targets
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as TF
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from torchbp import functional as F
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.functions import reduce
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own warning, whenever torch.compile traces an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

KINDS = list(OUTPUTS)
REDUCTIONS = ("mean", "sum", "none")
# Activations of the hidden layers: with slopes from a, from z, and with parameters.
HIDDEN = ("sigmoid", "scaled_sigmoid", "softplus", "prelu")
each_kind = pytest.mark.parametrize(("cost", "output"), KINDS)
each_device = pytest.mark.parametrize("device", DEVICES)


def activations(sizes: list[int]) -> list[Activation]:
    return [ACTIVATIONS[name] for name in HIDDEN[: len(sizes) - 2]]


def some(sizes: list[int], rows: int = 3, device: str = "cpu", kind: Any = KINDS[1], **options: Any) -> list[Tensor]:
    """x, y and W1, b1, θ1, ...; all require a gradient."""
    options = {"device": device, "dtype": torch.float64, **options}
    tensors = [torch.randn(rows, sizes[0], **options), targets(OUTPUTS[kind], rows, sizes[-1], **options)]
    for (n_in, n_out), g in itertools.zip_longest(itertools.pairwise(sizes), activations(sizes)):
        tensors += [torch.randn(n_out, n_in, **options), torch.randn(n_out, **options)]
        tensors += [p.start(**options) for p in g.parameters.values()] if g else []
    return [t.requires_grad_() for t in tensors]


def reference(sizes: list[int], cost: str, output: str, reduction: str = "mean") -> Callable[..., Tensor]:
    """The cost by PyTorch's operations, of (x, y, W1, b1, ...)."""

    def call(x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        given = iter(parameters)
        for g in activations(sizes):
            x = g.reference(TF.linear(x, next(given), next(given)), *(next(given) for _ in g.parameters))
        return reduce(OUTPUTS[cost, output].reference(TF.linear(x, *given), y), reduction)

    return call


def ours(sizes: list[int], cost: str, output: str, reduction: str = "mean") -> Callable[..., Tensor]:
    hidden = activations(sizes)
    return lambda x, y, *parameters: F.network_cost(x, y, parameters, cost, output, reduction=reduction, activation=hidden)[0]


@each_device
@settings(derandomize=True, deadline=None, max_examples=20)
@given(data=st.data())
def test_derivatives_equal_finite_differences(device: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    kind = data.draw(st.sampled_from(KINDS))
    tensors = some(sizes, data.draw(st.integers(1, 3)), device, kind)
    call = ours(sizes, *kind, data.draw(st.sampled_from(REDUCTIONS)))
    wanted = st.lists(st.booleans(), min_size=len(tensors), max_size=len(tensors)).filter(any)
    for tensor, requires_grad in zip(tensors, data.draw(wanted), strict=True):
        tensor.requires_grad_(requires_grad)
    assert gradcheck(call, tensors, check_batched_grad=True)
    assert gradgradcheck(call, tensors, check_batched_grad=True)


@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize("sizes", [[3, 2], [3, 4, 5, 2], [3, 4, 2, 3, 4, 2]])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@each_kind
@each_device
def test_equals_torch_nn_for_any_upstream_gradient(
    device: str, cost: str, output: str, reduction: str, sizes: list[int], random: bool
) -> None:
    tensors = some(sizes, device=device, kind=(cost, output))
    value, expected = (make(sizes, cost, output, reduction)(*tensors) for make in (ours, reference))
    assert_close(value, expected)
    upstream = torch.randn_like(value) if random else torch.ones_like(value)
    first = torch.autograd.grad(value, tensors, upstream, retain_graph=True)
    assert_close(first, torch.autograd.grad(expected, tensors, upstream))
    # The caller may overwrite the first gradients.
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    assert_close(torch.autograd.grad(value, tensors, upstream), tuple(kept), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, tensors, upstream)


class CountProducts(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


@each_kind
def test_every_mask_computes_no_more_than_is_asked_for(cost: str, output: str) -> None:
    for mask in itertools.product((True, False), repeat=6):
        if not any(mask):
            continue
        tensors = [t.requires_grad_(wanted) for t, wanted in zip(some([3, 4, 2], kind=(cost, output)), mask, strict=True)]
        leaves = [t for t in tensors if t.requires_grad]
        expected = torch.autograd.grad(reference([3, 4, 2], cost, output)(*tensors), leaves)
        with CountProducts() as products:
            ours([3, 4, 2], cost, output)(*tensors).backward()
        assert_close([t.grad for t in leaves], list(expected))
        assert all(t.grad is None for t in tensors if not t.requires_grad)
        x, _, W1, b1, W2, _ = mask
        assert products.count == 2 + W2 + (x or W1 or b1) + W1 + x


@each_kind
def test_a_penalty_on_the_gradient_trains_as_in_torch_nn(cost: str, output: str) -> None:
    x, y, *start = some(sizes := [3, 5, 4, 2], rows=8, kind=(cost, output))
    trained = []
    for make in (ours, reference):
        inputs, parameters = x.detach().requires_grad_(), [p.detach().clone().requires_grad_() for p in start]
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        for _ in range(32):
            optimizer.zero_grad()
            value = make(sizes, cost, output)(inputs, y.detach(), *parameters)
            gradients = torch.autograd.grad(value, [inputs, *parameters], create_graph=True)
            (value + sum(g.square().sum() for g in gradients)).backward()
            optimizer.step()
        trained.append(parameters)
    assert_close(trained[0], trained[1], rtol=0, atol=1e-12)


@each_kind
def test_gradients_become_grad_without_a_copy(cost: str, output: Any) -> None:
    network = BPNetwork([3, 4, 5, 2], output, activation=["prelu", "tanh"])
    made: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        parameter.register_hook(lambda gradient, name=name: made.update({name: gradient.data_ptr()}))
    network.cost(torch.rand(6, 3), torch.rand(6, 2), cost)[0].backward()
    assert made == {name: parameter.grad.data_ptr() for name, parameter in network.named_parameters()}


def test_of_two_threads_in_one_backward_one_has_the_gradients() -> None:
    network, x, y = BPNetwork([3, 4, 2]), torch.rand(6, 3), torch.rand(6, 2)
    expected = torch.autograd.grad(network.cost(x, y)[0], network.ordered_parameters())
    both_unpack = threading.Barrier(2, timeout=10)

    def unpack(t: Tensor) -> Tensor:
        both_unpack.wait()
        return t

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        value, _ = network.cost(x, y)

    def gradients(_: int) -> Any:
        try:
            return torch.autograd.grad(value, network.ordered_parameters())
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(2) as threads:
        error, found = sorted(threads.map(gradients, range(2)), key=lambda each: not isinstance(each, str))
    assert "backward through the graph a second time" in error
    assert_close(found, expected, rtol=0, atol=0)


@each_kind
def test_saved_gradients_are_seen_by_hooks(cost: str, output: Any) -> None:
    network = BPNetwork([3, 5, 2], output, activation="swish", dtype=torch.float64)
    x, y = torch.randn(4, 3, dtype=torch.float64), targets(OUTPUTS[cost, output], 4, 2)
    parameters = network.ordered_parameters()
    expected = torch.autograd.grad(network.cost(x, y, cost)[0], parameters)
    packed: list[Tensor] = []

    def pack(t: Tensor) -> int:
        packed.append(t.clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda number: packed[number]):
        value, _ = network.cost(x, y, cost)
    assert all(any(t.shape == g.shape and torch.equal(t, g) for t in packed) for g in expected)
    # The hooks' return values are used: if every saved gradient is doubled, all are doubled.
    for t in packed:
        t.mul_(2)
    assert_close(torch.autograd.grad(value, parameters), tuple(2 * g for g in expected), rtol=0, atol=0)
    with torch.autograd.graph.save_on_cpu():
        value, _ = network.cost(x, y, cost)
    assert_close(torch.autograd.grad(value, parameters), expected, rtol=0, atol=0)


def test_no_more_memory_than_torch_nn() -> None:
    network, expected, x, y = BPNetwork(SIZES := [256] * 5 + [4]), nn.Sequential(), torch.rand(512, 256), torch.rand(512, 4)
    for n_in, n_out in itertools.pairwise(SIZES):
        expected.extend([nn.Linear(n_in, n_out), nn.Sigmoid()])
    theirs = peak_memory(lambda: nn.functional.binary_cross_entropy(expected(x), y).backward())
    assert peak_memory(lambda: network.cost(x, y)[0].backward()) <= 1.02 * theirs


def peak_memory(step: Callable[[], None]) -> int:
    """The peak of a step's allocated bytes, above those before the step."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("reduction", REDUCTIONS)
@each_kind
def test_rows_of_any_shape_and_their_weights(cost: str, output: Any, reduction: Any) -> None:
    network = BPNetwork([3, 5, 2], output, activation="swish", dtype=torch.float64)
    expected = Reference(network)
    for rows in ((4,), (), (2, 3)):
        x, y = torch.randn(*rows, 3, dtype=torch.float64), targets(OUTPUTS[cost, output], *rows, 2)
        for weight in (None, torch.rand(rows, dtype=torch.float64)):
            value, prediction = network.cost(x, y, cost, weight, reduction=reduction)
            assert not prediction.requires_grad
            right = expected.cost(x, y, cost, reduction, weight)
            assert_close([prediction, value], [expected(x), right], rtol=0, atol=1e-12)
            gradients = torch.autograd.grad(value.sum(), network.ordered_parameters())
            assert_close(gradients, torch.autograd.grad(right.sum(), list(expected.parameters())), rtol=0, atol=1e-12)


def test_other_types_and_autocast_as_the_single_layers() -> None:
    x, y, *parameters = some([3, 4, 2], dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = F.network_cost(x, y, parameters)[0]
        a = F.sigmoid_linear(x, *parameters[:2])
        expected = F.binary_cross_entropy_with_logits(F.linear(a, *parameters[2:]), y)
    assert value.dtype == expected.dtype
    leaves = [x, y, *parameters]
    assert_close(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), rtol=0, atol=0)
    value = F.network_cost(x, y.double(), parameters, "squared_error")[0]
    assert value.dtype == torch.float32
    expected = reference([3, 4, 2], "squared_error", "sigmoid")(x, y, *parameters)
    assert_close(torch.autograd.grad(value, y), torch.autograd.grad(expected, y))


def test_layers_that_are_copied_pickled_or_parametrised() -> None:
    x, y = torch.rand(5, 3), torch.rand(5, 2)
    network = BPNetwork([3, 4, 2])
    value, _ = network.cost(x, y)
    value.backward()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert_close(other.cost(x, y)[0], value, rtol=0, atol=0)
    nn.utils.parametrizations.weight_norm(network.layers[0])
    expected = F.binary_cross_entropy_with_logits(network.logits(x), y)
    value, _ = network.cost(x, y)
    assert_close(value, expected)
    g = network.layers[0].parametrizations.weight.original0
    assert_close(torch.autograd.grad(value, g), torch.autograd.grad(expected, g))


def test_no_gradient_where_the_graph_has_gone_stale() -> None:
    x, y, *parameters = some([3, 4, 2])
    value, _ = F.network_cost(x, y, parameters)
    with torch.no_grad():
        parameters[2].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
    with torch.no_grad(), CountProducts() as products:
        assert F.network_cost(x, y, parameters)[0].grad_fn is None
    assert products.count == 2


def test_saturated_units_and_empty_batches_are_finite() -> None:
    W, b = torch.tensor([[1e4]], requires_grad=True), torch.zeros(1, requires_grad=True)
    value, prediction = F.network_cost(torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.0], [1.0]]), [W, b])
    value.backward()
    assert (value.item(), W.grad.item(), prediction.tolist()) == (1e4, 1.0, [[1.0], [0.0]])
    value = F.network_cost(torch.empty(0, 1), torch.empty(0, 1), [W, b], reduction="sum")[0]
    assert (value.item(), torch.autograd.grad(value, W)[0].item()) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.rand(4, 1)}, r"target has shape \(4, 1\); it must be that of the prediction, \(4, 2\)"),
        ({"input": torch.rand(4, 2)}, r"W has shape \(5, 3\) and its b \(5,\), where .* width 2"),
        ({"input": torch.rand(())}, "width None"),
        ({"parameters": [torch.rand(2, 3), torch.rand(3)]}, r"its b \(3,\), .* they must be \(n, 3\) and \(n\)"),
        ({"parameters": [torch.rand(2, 3)]}, "there are 1 parameters"),
        ({"cost": "absolute"}, "cost is 'absolute' with output 'sigmoid'"),
        ({"output": "linear"}, "cost is 'cross_entropy' with output 'linear'; it must be .*'squared_error' with 'linear'"),
        ({"reduction": "max"}, "reduction is 'max'"),
        ({"activation": "swish"}, "there are 4 parameters; they must be W, b and θ of"),
        ({"activation": ["tanh", "tanh"]}, "there are 4 parameters; they must be W, b and θ of 3 layers"),
        ({"weight": torch.rand(4, 1)}, r"weight has shape \(4, 1\); it must be one for each row, \(4,\)"),
        ({"activation": "step"}, "activation is 'step'; it must be one of sigmoid, "),
        ({"output": "softmax", "pos_weight": torch.ones(2)}, "pos_weight is for cost 'cross_entropy' with sigmoid outputs"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    parameters = [torch.rand(5, 3), torch.rand(5), torch.rand(2, 5), torch.rand(2)]
    arguments = {"input": torch.rand(4, 3), "target": torch.rand(4, 2), "parameters": parameters}
    with pytest.raises(ValueError, match=message):
        F.network_cost(**{**arguments, **change})
