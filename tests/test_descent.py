"""The iteration in place, compared with torch.nn and torch.optim.SGD."""

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from devices import DEVICES
from references import Reference, targets
from torch import Tensor

from torchbp.activations import ACTIVATIONS
from torchbp.descent import Descent
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS

KINDS = list(OUTPUTS)
each_kind = pytest.mark.parametrize(("cost", "output"), KINDS)


def assert_same(found: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    found, expected = list(found), list(expected)
    assert [t.shape for t in found] == [t.shape for t in expected]
    found, expected = (torch.cat([t.flatten() for t in each]) for each in (found, expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@each_kind
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_steps_of_both_engines_as_torch_nn(activation: str, cost: str, output: Any, device: str) -> None:
    options: Any = {"device": device, "dtype": torch.float64}
    network = BPNetwork([4, 5, 3, 2], output, activation=activation, per_unit=cost == "cross_entropy", **options)
    by_autograd, expected = copy.deepcopy(network), Reference(network)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (by_autograd, expected)]
    descent = Descent(network, cost, lr=0.1)
    found: list[Tensor] = []
    right: list[Tensor] = []
    for step in range(24):
        rows = (8, 3, 1, 12)[step % 4]  # smaller and larger batches, alternating
        x, y = torch.randn(rows, 4, **options), targets(OUTPUTS[cost, output], rows, 2, **options)
        costs = by_autograd.cost(x, y, cost)[0], expected.cost(x, y, cost)
        right += [costs[1].detach(), costs[1].detach(), expected(x).detach()]
        found += [costs[0].detach(), descent.step(x, y, keep_gradients=step == 23), descent.prediction]
        for optimizer, value in zip(optimizers, costs, strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert_same(found, right)
    for each in (network, by_autograd):
        assert_same(each.ordered_parameters(), expected.parameters_in_order)
        assert_same([p.grad for p in each.ordered_parameters()], [p.grad for p in expected.parameters_in_order])


@pytest.mark.parametrize("sizes", [[4, 1], [4, 3, 7, 2, 3]])
@each_kind
def test_any_depth(cost: str, output: Any, sizes: list[int]) -> None:
    hidden = list(ACTIVATIONS)[len(ACTIVATIONS) + 2 - len(sizes) :]  # a different one for each layer
    network = BPNetwork(sizes, output, activation=hidden, dtype=torch.float64)
    expected, descent = Reference(network), Descent(network, cost)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(10):
        x, y = torch.randn(6, 4, dtype=torch.float64), targets(OUTPUTS[cost, output], 6, sizes[-1])
        weight = torch.rand(6, dtype=torch.float64)
        value = expected.cost(x, y, cost, weight=weight)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert_same([descent.step(x, y, weight=weight)], [value.detach()])
    assert_same(network.ordered_parameters(), expected.parameters_in_order)


@pytest.mark.parametrize("shared", [False, True], ids=["own rows", "shared rows"])
@pytest.mark.parametrize(("activation", "kind"), list(zip(ACTIVATIONS, itertools.cycle(KINDS), strict=False)))
def test_networks_side_by_side_are_single_ones(activation: str, kind: tuple[str, str], shared: bool) -> None:
    """Each has its own rows, sample weights and learning rate; in place and by autograd."""
    (cost, output), leading = kind, () if shared else (3,)
    many = BPNetwork([4, 5, 3, 2], output, activation=activation, per_unit=shared, networks=3, dtype=torch.float64)
    by_autograd, single = copy.deepcopy(many), []
    for k in range(3):
        single.append(BPNetwork([4, 5, 3, 2], output, activation=activation, per_unit=shared, dtype=torch.float64))
        for parameter, all_of_it in zip(single[k].parameters(), many.parameters(), strict=True):
            parameter.data.copy_(all_of_it[k])
    lrs = torch.tensor([0.1, 0.02, 0.3], dtype=torch.float64)
    together, apart = Descent(many, cost, lrs), [Descent(one, cost, lr.item()) for one, lr in zip(single, lrs, strict=True)]
    for step in range(20):
        rows, options = 9 - step % 3, {"dtype": torch.float64}
        x, y = torch.randn(*leading, rows, 4, **options), targets(OUTPUTS[kind], *leading, rows, 2)
        w = torch.rand(*leading, rows, **options) if step % 2 else None
        value, _ = by_autograd.cost(x, y, cost, weight=w)
        gradients = torch.autograd.grad(value.sum(), by_autograd.ordered_parameters())
        found = together.step(x, y, weight=w, keep_gradients=step == 19)
        expected = []
        for k, each in enumerate(apart):
            *xy, weight = (t if shared or t is None else t[k] for t in (x, y, w))
            expected.append(each.step(*xy, weight=weight, keep_gradients=True))
        assert_same([found, value.detach()], [torch.stack(expected)] * 2)
        assert_same([together.prediction], [torch.stack([each.prediction for each in apart])])
        assert_same(many.parameters(), stacked(single, lambda p: p.detach()))
        assert_same(gradients, stacked(single, lambda p: p.grad))
        by_autograd.load_state_dict(many.state_dict())
    assert_same([p.grad for p in many.parameters()], stacked(single, lambda p: p.grad))


def stacked(networks: list[BPNetwork], of: Callable[[Tensor], Tensor]) -> list[Tensor]:
    return [torch.stack([of(p) for p in each]) for each in zip(*(n.parameters() for n in networks), strict=True)]


@pytest.mark.parametrize("keep_gradients", [False, True])
@each_kind
def test_many_steps_in_one_call_are_single_steps(cost: str, output: Any, keep_gradients: bool) -> None:
    many = BPNetwork([4, 6, 5, 2], output)
    single = copy.deepcopy(many)
    x, y = torch.randn(23, 4), targets(OUTPUTS[cost, output], 23, 2, dtype=torch.float32)
    descent, reference = Descent(many, cost), Descent(single, cost)
    lrs = [0.1, 0.2, 0.3]
    for _ in range(2):
        costs = descent.steps(x, y, 10, keep_gradients, lrs)
        for number, batch in enumerate(zip(x.split(10), y.split(10), descent.prediction.split(10), strict=True)):
            reference.lr = lrs[number]
            torch.testing.assert_close(reference.step(*batch[:2], keep_gradients=keep_gradients and number == 2), costs[number])
            assert torch.equal(reference.prediction, batch[2])
    for parameter, other in zip(many.parameters(), single.parameters(), strict=True):
        assert torch.equal(parameter, other)
        assert (parameter.grad is not None) == keep_gradients
        if keep_gradients:
            assert torch.equal(parameter.grad, other.grad)


@pytest.mark.parametrize("rows", [8, 5])
def test_a_step_makes_nothing_but_the_output(rows: int) -> None:
    """A step allocates nothing of the network's size: no gradients and, after the first step, no activations."""
    descent = Descent(BPNetwork([30, 200, 100, 1]))
    descent.step(torch.rand(8, 30), torch.rand(8, 1))
    x, y = torch.rand(rows, 30), torch.rand(rows, 1)
    with torch.profiler.profile(profile_memory=True) as profile:
        descent.step(x, y)
    made = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert 0 < made <= 10 * 4 * rows  # Z, A and the terms of the cost


def test_gradients_are_reduced_before_they_are_used() -> None:
    """Half a batch with the other half's gradients added takes the whole batch's step."""
    whole, half = BPNetwork([4, 6, 2], dtype=torch.float64), BPNetwork([4, 6, 2], dtype=torch.float64)
    half.load_state_dict(whole.state_dict())
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.rand(12, 2, dtype=torch.float64)
    other = Descent(copy.deepcopy(half))
    other.step(x[6:], y[6:], keep_gradients=True)
    gradients = torch.cat([parameter.grad.flatten() for parameter in other._parameters])
    Descent(half, reduce=lambda flat: flat.add_(gradients).div_(2)).step(x[:6], y[:6])
    Descent(whole).step(x, y)
    for parameter, expected in zip(half.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_kind
def test_a_cuda_graph_takes_the_same_steps(cost: str, output: Any) -> None:
    eager = BPNetwork([4, 6, 5, 2], output, device="cuda", dtype=torch.float64)
    graphed = copy.deepcopy(eager)
    one, other = Descent(eager, cost), Descent(graphed, cost, cuda_graph=True)
    x, y = torch.randn(66, 4, device="cuda", dtype=torch.float64), torch.rand(66, 2, device="cuda", dtype=torch.float64)
    for lr in (0.1, 0.1, 0.3, 0.3):  # batches of 16 and one of 2; a new lr captures a new graph
        one.lr = other.lr = lr
        torch.testing.assert_close(other.steps(x, y, 16), one.steps(x, y, 16), rtol=0, atol=1e-12)
        torch.testing.assert_close(other.prediction, one.prediction, rtol=0, atol=1e-12)
    for parameter, expected in zip(graphed.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-12)


def test_an_empty_batch_changes_nothing_and_a_schedule_may_set_lr() -> None:
    network = BPNetwork([3, 2])
    before = [parameter.clone() for parameter in network.parameters()]
    descent = Descent(network, lr=0.5)
    descent.step(torch.empty(0, 3), torch.empty(0, 2))
    descent.lr = 0.0
    descent.step(torch.rand(4, 3), torch.rand(4, 2))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_learn(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=dtype)
    y = torch.tensor([[0.0], [1], [1], [0]], dtype=dtype)
    descent = Descent(BPNetwork([2, 4, 1], dtype=dtype), lr=5.0)
    for _ in range(400):
        descent.step(x, y)
    assert torch.equal(descent.prediction.round(), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_kind
def test_other_types_take_the_steps_of_float64(cost: str, output: Any, dtype: torch.dtype) -> None:
    network = BPNetwork([4, 6, 5, 2], output, dtype=dtype)
    expected = copy.deepcopy(network).double()
    for _ in range(5):
        x, y = torch.randn(12, 4, dtype=dtype), targets(OUTPUTS[cost, output], 12, 2, dtype=dtype)
        costs, right = Descent(network, cost).steps(x, y, 5), Descent(expected, cost).steps(x.double(), y.double(), 5)
        assert costs.dtype == dtype
        tolerance = 64 * torch.finfo(dtype).eps
        torch.testing.assert_close(costs.double(), right, rtol=tolerance, atol=tolerance)
        for parameter, other in zip(network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter.double(), other, rtol=0, atol=tolerance)


def test_bad_arguments() -> None:
    network = BPNetwork([3, 2], "linear")
    with pytest.raises(
        ValueError, match="cost is 'cross_entropy'; for a network with linear outputs it must be 'squared_error'"
    ):
        Descent(network, "cross_entropy")
    with pytest.raises(ValueError, match="lr is -1"):
        Descent(network, "squared_error", lr=-1)
    with pytest.raises(ValueError, match=r"lr is tensor\(\[0.1000, 0.1000\]\); .* each of 3 networks"):
        Descent(BPNetwork([3, 2], networks=3), lr=torch.tensor([0.1, 0.1]))
    with pytest.raises(ValueError, match="cuda_graph is True; it needs one process and one network on a CUDA device"):
        Descent(network, "squared_error", cuda_graph=True)
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\) and y \(4, 2\); they must be \(B, 3\) and \(B, 2\)"):
        Descent(network, "squared_error").step(torch.rand(4, 2), torch.rand(4, 2))
    descent, rows = Descent(network, "squared_error"), (torch.rand(4, 3), torch.rand(4, 2), 2)
    with pytest.raises(ValueError, match="batch_size is 0; it must be 1 or more"):
        descent.steps(*rows[:2], 0)
    for lrs in ([0.1], [0.1, 0.1, 0.1]):
        with pytest.raises(ValueError, match=f"there are {len(lrs)} lrs; they must be one for each of 2 batches"):
            descent.steps(*rows, lrs=lrs)
    for weight in (torch.rand(2), torch.rand(4, 1)):
        with pytest.raises(ValueError, match=r"weight has shape .*; it must be one for each row, \(4,\)"):
            descent.steps(*rows, weight=weight)
