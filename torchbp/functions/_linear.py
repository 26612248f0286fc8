"""Linear and sigmoid-linear layers: equations 2.1 to 2.4 forward, 3.2d to 3.2f backward."""

from typing import Any

from torch import Tensor

from torchbp import equations as eq
from torchbp.functions._base import BPFunction, as_rows


def _weighted_input(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    z = eq.weighted_input(as_rows(input), weight, bias)
    return z if input.dim() == 2 else z.reshape(*input.shape[:-1], weight.shape[0])


def _gradients(ctx: Any, dz: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What 3.2d to 3.2f give for (input, weight, bias), each only where it is asked for."""
    rows = as_rows(dz)
    da = eq.activation_gradient(rows, weight).reshape(input.shape) if ctx.needs_input_grad[0] else None
    dW = eq.weight_gradient(rows, as_rows(input)) if ctx.needs_input_grad[1] else None
    db = eq.bias_gradient(rows) if ctx.needs_input_grad[2] else None
    return da, dW, db


def _tangent(input: Tensor, weight: Tensor, dx: Tensor, dW: Tensor, db: Tensor | None) -> Tensor:
    """The change of X Wᵀ + b as its arguments change by (dx, dW, db), zeros where one does not: the product rule."""
    return _weighted_input(dx, weight, db) + _weighted_input(input, dW, None)


class Linear(BPFunction):
    """z = x Wᵀ + b for input (*, n_in), weight (n_out, n_in), bias (n_out) or None. Equation 2.3; backward 3.2d."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _weighted_input(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _ = inputs
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        return _gradients(ctx, dz, input, weight)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dW: Tensor, db: Tensor | None) -> Tensor:
        input, weight = ctx.saved_tensors
        return _tangent(input, weight, dx, dW, db)


class SigmoidLinear(BPFunction):
    """a = g(x Wᵀ + b), shapes as for :class:`Linear`. Equations 2.1 and 2.2; backward 3.2e and 3.2f."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return eq.sigmoid(_weighted_input(input, weight, bias))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _ = inputs
        ctx.save_for_backward(input, weight, output)
        ctx.save_for_forward(input, weight, output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, a = ctx.saved_tensors
        return _gradients(ctx, da * eq.sigmoid_derivative(a), input, weight)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dW: Tensor, db: Tensor | None) -> Tensor:
        input, weight, a = ctx.saved_tensors
        return _tangent(input, weight, dx, dW, db) * eq.sigmoid_derivative(a)
