"""``torchbp.convert`` on models of published packages: the same outputs and gradients, and put back as they were."""

import copy
from collections.abc import Callable

import pytest
import torch
from published import normal
from torch import Tensor, nn

import torchbp


def vision_transformer() -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3), normal(2, 3, 32, 32)


def mixer() -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    return timm.create_model("mixer_s32_224", img_size=64, num_blocks=2, num_classes=3), normal(2, 3, 64, 64)


def convnext() -> tuple[nn.Module, Tensor]:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.convnext_tiny(num_classes=3), normal(1, 3, 64, 64)


def swin() -> tuple[nn.Module, Tensor]:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.swin_t(num_classes=3), normal(1, 3, 64, 64)


def flow() -> tuple[nn.Module, Tensor]:
    zuko = pytest.importorskip("zuko")

    class Density(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = zuko.flows.NICE(4, transforms=2, hidden_features=(8, 8), activation=nn.Tanh)

        def forward(self, x: Tensor) -> Tensor:
            return self.flow().log_prob(x)

    return Density(), normal(5, 4)


def spikes() -> tuple[nn.Module, Tensor]:
    pyro = pytest.importorskip("pyro.nn")
    return pyro.DenseNN(4, [8, 8], [3], nonlinearity=nn.SiLU()), normal(5, 4)


def medical() -> tuple[nn.Module, Tensor]:
    monai = pytest.importorskip("monai.networks.nets")
    return monai.FullyConnectedNet(4, 3, [8, 8], act=("LEAKYRELU", {"negative_slope": 0.01}), adn_ordering="AN"), normal(5, 4)


def graph() -> tuple[nn.Module, Tensor]:
    nets = pytest.importorskip("torch_geometric.nn")
    return nets.MLP([4, 8, 8, 3], act=nn.ELU(), norm=None), normal(5, 4)


@pytest.mark.parametrize("make", [vision_transformer, mixer, convnext, swin, flow, spikes, medical, graph])
def test_converted_model_computes_the_same(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    torch.manual_seed(0)
    model, x = make()
    model = model.double().eval()
    before, classes = copy.deepcopy(model), [type(part) for part in model.modules()]
    report = torchbp.convert(model)
    assert any("Linear" in what for what in report.replaced.values())
    assert [*model.state_dict()] == [*before.state_dict()]
    for ours, theirs in zip(outcome(model, x), outcome(before, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torchbp.revert(model)
    assert [type(part) for part in model.modules()] == classes


def outcome(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = model(x)
    used = [p for p in model.parameters() if p.requires_grad]
    return [y, *(g for g in torch.autograd.grad(y.square().sum(), [x, *used], allow_unused=True) if g is not None)]
