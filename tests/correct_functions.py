"""torch.nn.functional's own operations as Functions with derivatives written out, and nothing wrong."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


class Real(Function):
    """A Function of x (and others, for which it is linear or which it does not differentiate), saved with the output."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


def real(x: Tensor) -> Tensor:
    if x.is_complex():
        raise TypeError(f"x is {x.dtype}; it must be real")
    return x


class Linear(Real):
    @staticmethod
    def forward(x: Tensor, W: Tensor) -> Tensor:
        return F.linear(real(x), W)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        dz = dz.to(W.dtype)
        return dz.mm(W) if ctx.needs_input_grad[0] else None, dz.t().mm(x) if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dW: Tensor | None) -> Tensor:
        x, W = ctx.saved_tensors
        terms = ([] if dx is None else [F.linear(dx, W)]) + ([] if dW is None else [F.linear(x, dW)])
        return sum(terms[1:], start=terms[0])


class Sigmoid(Real):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(real(x))

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        return torch.sigmoid(x) * torch.sigmoid(-x)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        return da * Sigmoid.slope(*ctx.saved_tensors)

    jvp = backward


class SiLU(Real):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.silu(real(x))

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return da * torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))

    jvp = backward


class SquaredError(Real):
    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(real(x), y)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        dx = dL * 2 * (x - y) / x.numel()
        return dx if ctx.needs_input_grad[0] else None, -dx if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None) -> Tensor:
        x, y = ctx.saved_tensors
        change = (0 if dx is None else dx) - (0 if dy is None else dy)
        return (2 * (x - y) * change).mean()


class SoftmaxCrossEntropy(Real):
    """Of class indices."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(real(x), y)

    @staticmethod
    def slope(x: Tensor, y: Tensor) -> Tensor:
        y_is_class = y.unsqueeze(-1) == torch.arange(x.shape[-1], device=x.device)
        return (torch.softmax(x, -1) - y_is_class.to(x.dtype)) / x.shape[0]

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        return dL * SoftmaxCrossEntropy.slope(*ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        return (dx * SoftmaxCrossEntropy.slope(*ctx.saved_tensors)).sum()


class Normalize(Real):
    """Layer normalisation of each row, without weight and bias, and the rows' means: two outputs."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return F.layer_norm(real(x), x.shape[-1:]), x.mean(-1)

    @staticmethod
    def backward(ctx: Any, dn: Tensor, dm: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return Normalize.change(x, dn) + (dm / x.shape[-1]).unsqueeze(-1).expand(x.shape)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        return Normalize.change(x, dx), dx.mean(-1)

    @staticmethod
    def change(x: Tensor, direction: Tensor) -> Tensor:
        """The normalised row's derivative along a direction; the matrix behind it is symmetric."""
        centred = x - x.mean(-1, keepdim=True)
        inverse = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        n = centred * inverse
        return inverse * (direction - direction.mean(-1, keepdim=True) - n * (n * direction).mean(-1, keepdim=True))
