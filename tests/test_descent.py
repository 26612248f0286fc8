"""The iteration in place, held against torch.nn and torch.optim.SGD."""

from typing import Any

import pytest
import torch
from devices import DEVICES

from torchbp.descent import Descent
from torchbp.nn import BPNetwork

COSTS = [("cross_entropy", "sigmoid"), ("squared_error", "sigmoid"), ("squared_error", "linear")]


def reference(network: BPNetwork, output: str) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for layer in network.layers:
        linear = torch.nn.Linear(layer.in_features, layer.out_features, device=layer.weight.device, dtype=layer.weight.dtype)
        linear.load_state_dict(layer.state_dict())
        layers += [linear, torch.nn.Sigmoid()]
    return torch.nn.Sequential(*(layers if output == "sigmoid" else layers[:-1]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [[4, 1], [4, 3, 2], [4, 8, 5, 3], [4, 3, 7, 2, 3]])
@pytest.mark.parametrize(("cost", "output"), COSTS)
def test_100_steps_as_torch_nn(cost: str, output: Any, sizes: list[int], device: str) -> None:
    network = BPNetwork(sizes, output, device=device, dtype=torch.float64)
    expected = reference(network, output)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.3)
    loss = torch.nn.BCELoss() if cost == "cross_entropy" else torch.nn.MSELoss()
    descent = Descent(network, cost, lr=0.3)
    for step in range(100):
        rows = (8, 3, 1, 12)[step % 4]  # smaller and larger batches in turn
        x = torch.randn(rows, sizes[0], device=device, dtype=torch.float64)
        y = torch.rand(rows, sizes[-1], device=device, dtype=torch.float64)
        found = descent.step(x, y, keep_gradients=step == 99)
        optimizer.zero_grad()
        prediction = expected(x)
        value = loss(prediction, y)
        value.backward()
        optimizer.step()
        torch.testing.assert_close(found, value.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(descent.prediction, prediction.detach(), rtol=0, atol=1e-12)
    for parameter, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=1e-12)
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-12)


def test_a_step_as_large_as_one_before_keeps_its_workspace() -> None:
    descent = Descent(BPNetwork([3, 4, 2]))
    large, small = (torch.rand(8, 3), torch.rand(8, 2)), (torch.rand(5, 3), torch.rand(5, 2))
    descent.step(*large)
    address = descent.prediction.data_ptr()
    descent.step(*small)
    descent.step(*large)
    assert descent.prediction.data_ptr() == address


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


def test_bad_arguments() -> None:
    network = BPNetwork([3, 2], "linear")
    with pytest.raises(
        ValueError, match="cost is 'cross_entropy'; for a network with linear outputs it must be 'squared_error'"
    ):
        Descent(network, "cross_entropy")
    with pytest.raises(ValueError, match="lr is -1"):
        Descent(network, "squared_error", lr=-1)
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\) and y \(4, 2\); they must be \(B, 3\) and \(B, 2\)"):
        Descent(network, "squared_error").step(torch.rand(4, 2), torch.rand(4, 2))
