"""Operations of torch.nn.functional as Functions with written-out derivatives, all correct."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


class Real(Function):
    """A Function of x, and of others in which it is linear or not differentiated; saves inputs and output."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


def real(x: Tensor) -> Tensor:
    if x.is_complex():
        raise TypeError(f"x is {x.dtype}; it must be real")
    return x


def rows(x: Tensor) -> Tensor:
    if x.dim() != 2:
        raise ValueError(f"x has {x.dim()} dimensions; it must have 2")
    return real(x)


class Linear(Real):
    @staticmethod
    def forward(x: Tensor, W: Tensor) -> Tensor:
        return F.linear(rows(x), W)

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
        difference = x - y
        dx = dL * 2 * difference / difference.numel()
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
        return F.cross_entropy(rows(x), y)

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
    """Layer normalisation of each row without weight and bias; the second output is the rows' means."""

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
        """The normalised row's derivative along a direction; its Jacobian is symmetric."""
        centred = x - x.mean(-1, keepdim=True)
        inverse = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        n = centred * inverse
        return inverse * (direction - direction.mean(-1, keepdim=True) - n * (n * direction).mean(-1, keepdim=True))


def wrapped(operation: Callable[..., Any]) -> type[Function]:
    """An operation of PyTorch as a Function whose derivatives come from torch.func.vjp."""

    class Wrapped(Real):
        @staticmethod
        def forward(*inputs: Tensor) -> Any:
            return operation(*map(real, inputs))

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
            _, pull_back = vjp(ctx.saved_tensors, ctx.needs_input_grad)
            gradients = iter(pull_back(upstream if len(upstream) > 1 else upstream[0]))
            return tuple(next(gradients) if needed else None for needed in ctx.needs_input_grad)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            # The pull-back is linear: its derivative is the Jacobian itself, instead of its transpose.
            outputs, pull_back = vjp(ctx.saved_tensors, [tangent is not None for tangent in tangents])
            at = torch.zeros_like(outputs) if isinstance(outputs, Tensor) else tuple(map(torch.zeros_like, outputs))
            _, push_forward = torch.func.vjp(pull_back, at)
            return push_forward(tuple(tangent for tangent in tangents if tangent is not None))[0]

    def vjp(inputs: Sequence[Tensor], wanted: Sequence[bool]) -> Any:
        def of_wanted(*some: Tensor) -> Any:
            given = iter(some)
            return operation(*(next(given) if w else t for t, w in zip(inputs, wanted, strict=True)))

        return torch.func.vjp(of_wanted, *(t for t, w in zip(inputs, wanted, strict=True) if w))

    return Wrapped
