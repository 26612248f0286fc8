"""spikingjelly 2.0.0, and any surrogate: torch.func.grad inside torch.compile, and torch.export, leave the surrogate out.

The cause is PyTorch (issue 193279): there it differentiates forward itself, whose derivative is 0.
"""

import torch
from published import normal, published

surrogate = published("spikingjelly", "2.0.0", "spikingjelly.activation_based.surrogate")


def test_func_grad_in_compile() -> None:
    def slope(x):
        return torch.func.grad(lambda v: surrogate.sigmoid.apply(v, 4.0).sum())(x)

    x = normal(4)
    assert (slope(x) > 0).all()
    assert torch.equal(torch.compile(slope, backend="aot_eager")(x), torch.zeros_like(x))


def test_export() -> None:
    class Spike(torch.nn.Module):
        def forward(self, x):
            return surrogate.sigmoid.apply(x, 4.0)

    x = normal(4).requires_grad_()
    assert Spike()(x).requires_grad
    assert not torch.export.export(Spike(), (x,)).module()(x).requires_grad
