"""``torchbp.convert`` on models of published packages: outputs and gradients do not change, and ``revert`` undoes it."""

import copy
from collections.abc import Callable

import pytest
import torch
from published import normal
from torch import Tensor, nn

import torchbp


def dense() -> tuple[nn.Module, Tensor]:
    pyro = pytest.importorskip("pyro.nn")
    return pyro.DenseNN(4, [8, 8], [3], nonlinearity=nn.SiLU()), normal(5, 4)


def fully_connected() -> tuple[nn.Module, Tensor]:
    nets = pytest.importorskip("monai.networks.nets")
    return nets.FullyConnectedNet(4, 3, [8, 8], act=("LEAKYRELU", {"negative_slope": 0.01}), adn_ordering="AN"), normal(5, 4)


def vision_transformer() -> tuple[nn.Module, Tensor]:
    blocks = pytest.importorskip("monai.networks.blocks")
    return nn.Sequential(*(blocks.TransformerBlock(8, 16, 2) for _ in range(2))), normal(2, 5, 8)


def table_network() -> tuple[nn.Module, Tensor]:
    tabnet = pytest.importorskip("pytorch_tabnet.tab_network")

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tabnet.TabNetNoEmbeddings(4, 3, n_d=4, n_a=4)
            encoder = self.net.encoder  # whose matrix is no buffer, and stays float32 otherwise
            encoder.group_attention_matrix = encoder.group_attention_matrix.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)[0]

    return First(), normal(5, 4)


def performer() -> tuple[nn.Module, Tensor]:
    performers = pytest.importorskip("performer_pytorch")
    return performers.Performer(dim=8, depth=2, heads=2, dim_head=4, causal=False), normal(2, 6, 8)


@pytest.mark.parametrize("make", [dense, fully_connected, vision_transformer, table_network, performer])
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
