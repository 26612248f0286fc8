"""Reversible blocks of reformer_pytorch 1.4.4, performer_pytorch 1.1.4 and revtorch 0.2.4: backward calls backward.

``torch.autograd.backward`` inside a Function's backward adds to the ``.grad`` of all parameters even if ``torch.autograd.grad``
is called for another gradient, and leaves no graph for a second derivative.
"""

import importlib.metadata

import pytest
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error
from torch import Tensor, nn


def layer(width: int) -> nn.Module:
    linear = nn.Linear(width, width).double()
    nn.init.normal_(linear.weight)
    return nn.Sequential(linear, nn.Tanh())


def reformer() -> tuple[nn.Module, Tensor]:
    from reformer_pytorch.reversible import ReversibleSequence

    return ReversibleSequence(nn.ModuleList([nn.ModuleList([layer(4), layer(4)])])), normal(1, 3, 8)


def performer() -> tuple[nn.Module, Tensor]:
    from performer_pytorch.reversible import ReversibleSequence

    return ReversibleSequence(nn.ModuleList([nn.ModuleList([layer(8), layer(8)])])), normal(1, 3, 8)


def revtorch() -> tuple[nn.Module, Tensor]:
    from revtorch import ReversibleBlock, ReversibleSequence

    return ReversibleSequence(nn.ModuleList([ReversibleBlock(layer(4), layer(4), split_along_dim=1)])), normal(3, 8)


@pytest.mark.parametrize(
    ("package", "version", "build"),
    [("reformer_pytorch", "1.4.4", reformer), ("performer_pytorch", "1.1.4", performer), ("revtorch", "0.2.4", revtorch)],
)
class TestReversible:
    @pytest.fixture(autouse=True)
    def _version(self, package: str, version: str) -> None:
        pytest.importorskip(package)
        if (found := importlib.metadata.version(package)) != version:
            pytest.skip(f"speaks of {package} {version}, not of {found}")

    def test_grad_writes_into_the_parameters(self, package: str, version: str, build) -> None:
        module, x = build()

        def loss(v):
            return module(v).square().sum()

        assert error(gradient(loss, x), finite_differences(loss, x)) < RIGHT
        assert all(p.grad is not None for p in module.parameters())  # after torch.autograd.grad by x alone

    def test_second_derivatives(self, package: str, version: str, build) -> None:
        module, x = build()
        assert penalty_error(lambda v: module(v).sum(), x) > WRONG
