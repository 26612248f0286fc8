"""The modules, compared with those of torch.nn."""

import copy
import dataclasses
import inspect
import math
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICES
from references import Reference
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.testing import assert_close

from torchbp import nn
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.outputs import OUTPUTS

each_device = pytest.mark.parametrize("device", DEVICES)
each_output = pytest.mark.parametrize("output", dict.fromkeys(name for _, name in OUTPUTS))
each_layer = pytest.mark.parametrize("layer", [nn.Linear, nn.SigmoidLinear])
each_activation = pytest.mark.parametrize("g", ACTIVATIONS.values(), ids=ACTIVATIONS)


@each_layer
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_is_that_of_torch_linear(layer: Any, bias: bool) -> None:
    mine, its, x = layer(4, 3, bias=bias), torch.nn.Linear(4, 3, bias=bias), torch.randn(5, 4)
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in its.state_dict().items()}

    def of_torch() -> Tensor:
        return its(x).sigmoid() if layer is nn.SigmoidLinear else its(x)

    assert not torch.equal(mine(x), of_torch())
    mine.load_state_dict(its.state_dict())
    assert_close(mine(x), of_torch())
    other = layer(4, 3, bias=bias)
    its.load_state_dict(other.state_dict())
    assert_close(other(x), of_torch())


@each_activation
@pytest.mark.parametrize("per_unit", [False, True])
def test_layer_of_each_activation(g: Activation, per_unit: bool) -> None:
    """Value and gradients equal PyTorch's; the state_dict has torch.nn.Linear's and the activation's parameters."""
    layer, x = nn.ActivatedLinear(4, 3, activation=g.name, per_unit=per_unit, dtype=torch.float64), torch.randn(5, 4).double()
    theta = {name: layer.get_parameter(name) for name in g.parameters}
    assert list(layer.state_dict()) == ["weight", "bias", *theta]
    for (name, value), parameter in zip(theta.items(), g.parameters.values(), strict=True):
        assert value.shape == (len(parameter.initial), 3 if per_unit else 1), name
        assert_close(value, torch.tensor(parameter.initial).double().unsqueeze(-1).expand_as(value))
        value.data.mul_(1 + torch.rand_like(value))
    expected = g.reference(torch.nn.functional.linear(x, layer.weight, layer.bias), *theta.values())
    assert_close(layer(x), expected)
    leaves, upstream = list(layer.parameters()), torch.randn_like(expected)
    assert_close(torch.autograd.grad(layer(x), leaves, upstream), torch.autograd.grad(expected, leaves, upstream))
    layer.reset_parameters()
    for value, parameter in zip(theta.values(), g.parameters.values(), strict=True):
        assert_close(value, torch.tensor(parameter.initial).double().unsqueeze(-1).expand_as(value))


def test_linear_starts_as_torch_linear_does() -> None:
    torch.manual_seed(3)
    mine = nn.Linear(4, 3)
    torch.manual_seed(3)
    assert_close(mine.state_dict(), torch.nn.Linear(4, 3).state_dict(), rtol=0, atol=0)


def test_repr() -> None:
    assert repr(nn.SigmoidLinear(4, 3, bias=False)) == "SigmoidLinear(in_features=4, out_features=3, bias=False)"
    assert repr(nn.BCEWithLogitsLoss(reduction="sum")) == "BCEWithLogitsLoss(reduction='sum')"
    assert repr(nn.ActivatedLinear(4, 3, activation="tanh")).endswith("out_features=3, bias=True, activation=tanh)")
    assert repr(nn.BPNetwork([4, 3, 2], output="linear")) == (
        "BPNetwork(\n  output=linear\n  (layers): Sequential(\n"
        "    (0): SigmoidLinear(in_features=4, out_features=3, bias=True)\n"
        "    (1): Linear(in_features=3, out_features=2, bias=True)\n  )\n)"
    )


@pytest.mark.parametrize("init", ["glorot", "normal"])
def test_seed_decides_the_weights(init: Any) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(nn.BPNetwork([4, 3, 2], init=init).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(torch.equal(states[0][name], states[2][name]) for name in states[0] if "weight" in name)


def test_normal_init_is_standard_normal() -> None:
    # 300 · 400 + 400 and 400 · 500 + 500 draws; each statistic within five standard errors of its expectation.
    for layer in nn.BPNetwork([300, 400, 500], init="normal").layers:
        for parameter in (layer.weight, layer.bias):
            draws = parameter.detach().double().flatten()
            error = 5 / math.sqrt(len(draws))
            assert abs(draws.mean()) < error
            assert abs(draws.var() - 1) < error * math.sqrt(2)
            assert abs((draws < 1).double().mean() - 0.8413447) < error * 0.37
            assert abs((draws < -2).double().mean() - 0.0227501) < error * 0.15


def check_uniform(weight: Tensor, bound: float) -> None:
    weight = weight.detach().double()
    assert weight.abs().max() <= bound * (1 + 1e-6)
    assert weight.abs().max() > 0.999 * bound
    # A uniform variable's variance is bound² / 3; its relative standard error is sqrt(4/5/n).
    assert abs(weight.var() / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / weight.numel())


@each_activation
def test_init_fills_its_interval(g: Activation) -> None:
    sizes = [300, 400, 500, 200]
    net = nn.BPNetwork(sizes, activation=g.name)
    for i, (layer, (n_in, n_out)) in enumerate(zip(net.layers, pairwise(sizes), strict=True)):
        # Four times wider before a sigmoid, whose slope is at most 1/4; He's for ReLU and its relatives.
        gain = 4 if i == 2 else g.gain if i == 1 else 1
        he = g.init == "he" and i < 2
        check_uniform(layer.weight, math.sqrt(6 / n_in) if he else gain * math.sqrt(6 / (n_in + n_out)))
        assert not layer.bias.any()


def test_init_of_an_own_gain() -> None:
    wide = dataclasses.replace(ACTIVATIONS["relu"], gain=3.0)
    check_uniform(nn.ActivatedLinear(300, 400, activation=wide).weight, 3 * math.sqrt(3 / 300))


def test_networks_side_by_side_are_drawn_as_one_is() -> None:
    networks = nn.BPNetwork([300, 400, 200], networks=3)
    for layer, bound in zip(networks.layers, (math.sqrt(6 / 700), 4 * math.sqrt(6 / 600)), strict=True):
        for weight in layer.weight:
            check_uniform(weight, bound)
        assert not torch.equal(layer.weight[0], layer.weight[1])


@each_device
@each_output
@pytest.mark.parametrize("sizes", [[3, 2], [3, 5, 2], [3, 5, 4, 1]], ids=str)
def test_network_equals_torch_sequential(sizes: list[int], output: Any, device: str) -> None:
    net = nn.BPNetwork(sizes, output=output, init="normal", device=device, dtype=torch.float64)
    reference = Reference(net)
    x = torch.randn(2, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    a, expected = net(x), reference(x)
    assert_close(a, expected)
    upstream = torch.randn_like(a)
    gradients = torch.autograd.grad(a, [x, *net.ordered_parameters()], upstream)
    assert_close(gradients, torch.autograd.grad(expected, [x, *reference.parameters()], upstream))


@each_device
@each_output
def test_logits(output: Any, device: str) -> None:
    net, x = nn.BPNetwork([3, 5, 2], output=output, device=device), torch.randn(6, 3, device=device)
    z, reference = net.logits(x), Reference(net)
    assert_close(net.output_with(None).activation(z), net(x))
    assert_close(z, reference.logits(x))
    gradients = torch.autograd.grad(z.sin().sum(), list(net.parameters()))
    assert_close(gradients, torch.autograd.grad(reference.logits(x).sin().sum(), list(reference.parameters())))


@each_output
def test_copies_are_equal_and_apart(output: Any) -> None:
    net, x = nn.BPNetwork([3, 5, 2], output=output), torch.randn(6, 3)
    before = net(x).detach()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(other) == repr(net)
        assert torch.equal(other(x), before)
        other(x).square().sum().backward()  # a softmax always sums to 1
        torch.optim.SGD(other.parameters(), lr=1.0).step()
        assert not torch.equal(other(x), before)
        assert torch.equal(net(x), before)
        assert all(parameter.grad is None for parameter in net.parameters())


@each_output
@pytest.mark.parametrize("init", ["glorot", "normal"])
def test_meta_device(output: Any, init: Any) -> None:
    net = nn.BPNetwork([3, 5, 2], output=output, init=init, device="meta", dtype=torch.float64)
    assert all(p.is_meta and p.dtype == torch.float64 for p in net.parameters())
    assert net(torch.empty(6, 3, device="meta", dtype=torch.float64)).shape == (6, 2)
    on_cpu = nn.BPNetwork([3, 5, 2], output=output, dtype=torch.float64)
    net.load_state_dict(on_cpu.state_dict(), assign=True)
    x = torch.randn(6, 3, dtype=torch.float64)
    assert torch.equal(net(x), on_cpu(x))


def test_functional_call() -> None:
    net, other, x = nn.BPNetwork([3, 5, 2]), nn.BPNetwork([3, 5, 2]), torch.randn(6, 3)
    parameters = dict(other.named_parameters())

    def total(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, x).square().sum()

    assert_close(torch.func.functional_call(net, parameters, x), other(x))
    other(x).square().sum().backward()
    assert_close(torch.func.grad(total)(parameters), {name: p.grad for name, p in other.named_parameters()})
    assert all(parameter.grad is None for parameter in net.parameters())


@each_device
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["MSELoss", "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss"])
def test_loss_equals_that_of_torch(name: str, reduction: str, device: str) -> None:
    a, y = (torch.rand(5, 3, device=device, requires_grad=True) for _ in range(2))
    weight = () if name == "MSELoss" else (torch.rand(3, device=device),)
    results = []
    for package in (nn, torch.nn):
        L = getattr(package, name)(*weight, reduction=reduction)(a, y)
        results.append((L, *torch.autograd.grad(L.sum(), (a, y))))
    assert_close(*results)
    assert_close(getattr(nn, name)()(a, y), getattr(torch.nn, name)()(a, y))
    ours, theirs = (list(inspect.signature(getattr(package, name)).parameters) for package in (nn, torch.nn))
    assert ours == [argument for argument in theirs if argument in ours]


def test_cross_entropy_with_weights_of_classes_and_smoothing() -> None:
    z, classes, options = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0]), {"weight": torch.rand(3), "label_smoothing": 0.2}
    ours, theirs = (package.CrossEntropyLoss(**options) for package in (nn, torch.nn))
    assert_close(ours(z, classes), theirs(z, classes))
    assert_close(ours.state_dict(), theirs.state_dict())


def test_another_reduction_is_refused_when_it_is_used() -> None:
    loss = nn.MSELoss(reduction="average")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction is 'average'; it must be 'mean', 'sum' or 'none'"):
        loss(torch.rand(3), torch.rand(3))


@each_device
@pytest.mark.parametrize("name", ["MSELoss", "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss"])
def test_gradient_penalty_trains_as_with_torch_nn(name: str, device: str) -> None:
    options: Any = {"device": device, "dtype": torch.float64}
    net = nn.BPNetwork([3, 5, 2], output="sigmoid" if name in ("MSELoss", "BCELoss") else "linear", **options)
    reference = Reference(net)
    x, y = torch.randn(8, 3, requires_grad=True, **options), torch.rand(8, 2, **options)
    histories = []
    for model, loss in ((net, getattr(nn, name)()), (reference, getattr(torch.nn, name)())):
        optimizer, history = torch.optim.SGD(model.parameters(), lr=0.5), []
        for _ in range(32):
            L = loss(model(x), y)
            (slope,) = torch.autograd.grad(L, x, create_graph=True)
            total = L + 10 * slope.square().sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            history.append(total.detach())
        assert history[-1] < history[0]
        histories.append(torch.stack(history))
    assert_close(*histories)
    assert_close(list(net.parameters()), list(reference.parameters()))


# PyTorch's own warning, whenever torch.compile traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@each_device
def test_network_and_loss_compile_to_one_graph(device: str) -> None:
    torch.compiler.reset()
    net, loss = nn.BPNetwork([3, 4, 2], device=device), nn.BCEWithLogitsLoss()
    x, y = torch.randn(5, 3, device=device), torch.rand(5, 2, device=device)

    def cost(x: Tensor) -> Tensor:
        return loss(net.logits(x), y)

    results = []
    for call in (cost, torch.compile(cost, backend="aot_eager", fullgraph=True)):
        L = call(x)
        results.append((L, *torch.autograd.grad(L, list(net.parameters()))))
    assert_close(*results)


SIZES = "it must be two or more positive integers"
BAD_NETWORKS = {
    "no size": (([],), rf"layer_sizes is \[\]; {SIZES}"),
    "one size": (([3],), rf"layer_sizes is \[3\]; {SIZES}"),
    "zero": (([3, 0, 1],), rf"layer_sizes is \[3, 0, 1\]; {SIZES}"),
    "negative": (([3, -2],), rf"layer_sizes is \[3, -2\]; {SIZES}"),
    "fraction": (([3, 2.5],), rf"layer_sizes is \[3, 2\.5\]; {SIZES}"),
    "text": ((["3", "2"],), rf"layer_sizes is \['3', '2'\]; {SIZES}"),
    "output": (([3, 2], "tanh"), "output is 'tanh'; it must be 'softmax' or 'sigmoid' or 'linear'"),
    "init": (([3, 2], "sigmoid", "zeros"), "init is 'zeros'; it must be 'glorot' or 'normal'"),
    "activation": (
        ([3, 4, 2], "sigmoid", "glorot", "step"),
        "activation is 'step'; it must be one of sigmoid, tanh, .*module:name",
    ),
    "activation's type": (([3, 4, 2], "sigmoid", "glorot", None), "activation is None; it must be one of sigmoid"),
    "activations": (
        ([3, 4, 2], "sigmoid", "glorot", ["tanh"] * 2),
        r"activation is \['tanh', 'tanh'\]; .* a list of 1, one a layer",
    ),
    "networks": (([3, 2], "sigmoid", "glorot", "tanh", False, 0), "networks is 0; it must be 1 or more"),
}


@pytest.mark.parametrize(("args", "message"), BAD_NETWORKS.values(), ids=BAD_NETWORKS)
def test_bad_network(args: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.BPNetwork(*args)


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory"
    monkeypatch.setattr("torchbp._memory.LIMITS", (tmp_path / "there is none", limit))
    for unlimited in ("max\n", f"{2**63 - 4096}\n"):
        limit.write_text(unlimited)
        nn.BPNetwork([100, 100, 1])
    limit.write_text(f"{2**16}\n")
    with pytest.raises(MemoryError, match=r"they take 7.6e-05 GiB, and this machine has 6.1e-05"):
        nn.BPNetwork([100, 100, 1])


def test_standardize_is_scikit_learns_whole_or_in_parts() -> None:
    rows = torch.cat([1e6 + torch.randn(500, 3), torch.full((500, 1), 0.1)], 1)
    expected = StandardScaler().fit(rows.double().numpy())
    for given in (rows, rows.split(64), iter(rows.split(499))):
        scaling = nn.Standardize(4).double()
        scaling.fit(given)
        np.testing.assert_allclose(scaling.mean.numpy(), expected.mean_, rtol=1e-12)
        np.testing.assert_allclose(scaling.scale.numpy(), expected.scale_, rtol=1e-9)
        torch.testing.assert_close(scaling.inverse(scaling(rows)), rows.double())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_standardize_leaves_out_what_is_after_a_sequences_end(clip: float | None) -> None:
    lengths, x = torch.tensor([3, 5, 1, 4]), 3 + 2 * torch.randn(4, 5, 2)
    ended = torch.arange(5) >= lengths.unsqueeze(1)
    x[ended] = torch.nan
    steps = x.numpy()[~ended.numpy()]
    scaling = nn.Standardize(2, clip)
    for given in (x, x.split(3)):
        scaling.fit(given)
        expected = StandardScaler().fit(steps)
        np.testing.assert_allclose(scaling.mean.numpy(), expected.mean_, rtol=1e-6)
        np.testing.assert_allclose(scaling.scale.numpy(), expected.scale_, rtol=1e-6)
        scaled = scaling(x).numpy()
        assert np.isnan(scaled[ended]).all()
        wanted = expected.transform(steps)
        np.testing.assert_allclose(scaled[~ended], wanted if clip is None else wanted.clip(-clip, clip), rtol=1e-5, atol=1e-6)
