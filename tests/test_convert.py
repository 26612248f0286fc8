"""Layers and activations of models are replaced in place; outputs, gradients, hooks and keys do not change."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchbp
from torchbp.nn import Activate


class Shared(nn.Module):
    """Uses one activation twice, ties weights, and takes a slice that ends between a layer and its activation."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.Tanh()
        self.layers = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
        self.layers[2].weight = self.layers[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.layers[:1](x)


def normed() -> nn.Module:
    return nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 5)), nn.GELU("tanh"), nn.Linear(5, 2), nn.Sigmoid())


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=nn.GELU(), batch_first=True)


def every_activation() -> nn.Module:
    kinds = (nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.LeakyReLU(), nn.ELU(), nn.Softplus(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"))
    return nn.Sequential(*(part for kind in kinds for part in (nn.Linear(4, 4), kind)))


def outcome(model: nn.Module) -> list[Tensor]:
    """The output, and the gradients by inputs and parameters."""
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("make", [Shared, normed, transformer, every_activation])
def test_converted_model_computes_the_same(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double()
    before, classes = copy.deepcopy(model), {name: type(part) for name, part in model.named_modules()}
    report = torchbp.convert(model)
    linear = [name for name, part in before.named_modules() if type(part) is nn.Linear]
    assert linear
    assert {*linear} <= {*report.replaced}
    for name, part in model.named_modules():
        assert type(part).__module__.startswith("torchbp.") == (name in report.replaced)
    assert [*model.state_dict()] == [*before.state_dict()]
    converted = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for ours, theirs in zip(outcome(converted), outcome(copy.deepcopy(before)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torchbp.revert(model)
    assert {name: type(part) for name, part in model.named_modules()} == classes
    assert all(vars(part).keys() == vars(old).keys() for part, old in zip(model.modules(), before.modules(), strict=True))


def test_hooks_and_parameters_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    weight, seen = model[0].weight, list[str]()
    model[0].register_forward_hook(lambda *_: seen.append("z"))
    model[1].register_forward_hook(lambda *_: seen.append("a"))
    model[1].register_full_backward_hook(lambda *_: seen.append("da"))
    torchbp.convert(model)
    assert seen == []
    assert model[0].weight is weight
    model(torch.ones(2, 4)).sum().backward()
    assert seen == ["z", "a", "da"]


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")  # raised by Dynamo itself
def test_converted_model_compiles_to_one_graph() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    expected = model(torch.ones(2, 4))
    torchbp.convert(model)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(torch.ones(2, 4)), expected)


def test_what_is_left_says_why() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "own": Own(2, 2),
            "complex": nn.Linear(2, 2, dtype=torch.complex64),
            "slope": nn.LeakyReLU(0.2),
            "softmax": nn.Softmax(),
            "inplace": nn.ReLU(inplace=True),
            "learned": nn.PReLU(),
            "ours": torchbp.nn.Linear(2, 2),
        }
    )
    report = torchbp.convert(model)
    assert report.replaced == {}
    assert report.left == {
        "own": "Own is a class of its own",
        "complex": "Linear is complex",
        "slope": "LeakyReLU(negative_slope=0.2) is no activation of torchbp.activations",
        "softmax": "Softmax(dim=None) is no activation of torchbp.activations",
        "inplace": "ReLU(inplace=True) writes over its input; set its inplace to False if nothing relies on that",
        "learned": "PReLU(num_parameters=1) has parameters of its own",
    }
    assert str(report).endswith("replaced 0, left 6")
    assert torchbp.revert(model).replaced == {}


def test_activate_learns_its_parameters() -> None:
    module = Activate("swish", units=3)
    assert [*module.state_dict()] == ["beta"]
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(z), nn.functional.silu(z))
    module(z).sum().backward()
    assert module.beta.grad is not None
    assert module.beta.grad.shape == (1, 3)
    assert repr(module) == "Activate(swish)"
