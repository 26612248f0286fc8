"""The costs 3.1a and 3.1c, and 3.1c with the output's activation put into it, whose backward is a - y (3.2c)."""

from typing import Any

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.functions._base import BPFunction


class _Cost(BPFunction):
    """A cost of (input, target, reduction). Each subclass gives its forward, and its derivatives in ``derivatives``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, target, ctx.reduction = inputs
        ctx.save_for_backward(input, target)
        ctx.save_for_forward(input, target)


def reduce(cost: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of the single costs, or all of them."""
    if reduction == "none":
        return cost
    return cost.mean() if reduction == "mean" else cost.sum()


def positives_weighted(target: Tensor, pos_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each single cost's weight, and the target that goes with it, both of the shape of ``target``."""
    shape = pos_weight.shape
    if len(shape) > target.dim() or any(n not in (1, m) for n, m in zip(shape[::-1], target.shape[::-1], strict=False)):
        raise ValueError(f"pos_weight has shape {tuple(shape)}; it must be one that is broadcast to {tuple(target.shape)}")
    return eq.positives_weighted(target, pos_weight.to(target.dtype))


def _spread(dL: Tensor, cost_count: int, reduction: str) -> Tensor:
    """Each single cost's share of the gradient that reaches the reduced one."""
    return dL / cost_count if reduction == "mean" else dL


def _tangent(*terms: tuple[Tensor | None, Any]) -> Tensor:
    """Σ tangent * derivative over the arguments that have a tangent; the derivative is a function, called only then."""
    products = [tangent * derivative() for tangent, derivative in terms if tangent is not None]
    return products[0] if len(products) == 1 else products[0] + products[1]


class SquaredError(_Cost):
    """(a - y)² for activations and targets of one shape. Equation 3.1a; backward 2(a - y)."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        return reduce(eq.squared_error(input, target), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        a, y = ctx.saved_tensors
        da = _spread(dL, a.numel(), ctx.reduction) * eq.squared_error_derivative(a, y)
        return da if ctx.needs_input_grad[0] else None, -da if ctx.needs_input_grad[1] else None, None

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        a, y = ctx.saved_tensors
        tangent = _tangent((da, lambda: eq.squared_error_derivative(a, y)), (dy, lambda: -eq.squared_error_derivative(a, y)))
        return reduce(tangent, ctx.reduction)


class CrossEntropy(_Cost):
    """-[y ln a + (1 - y) ln(1 - a)] for activations and targets of one shape. Equation 3.1c; backward 3.2a."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        return reduce(eq.cross_entropy(input, target), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        a, y = ctx.saved_tensors
        dL = _spread(dL, a.numel(), ctx.reduction)
        da = dL * eq.cross_entropy_derivative(a, y) if ctx.needs_input_grad[0] else None
        dy = dL * eq.cross_entropy_target_derivative(a, y) if ctx.needs_input_grad[1] else None
        return da, dy, None

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        a, y = ctx.saved_tensors
        tangent = _tangent(
            (da, lambda: eq.cross_entropy_derivative(a, y)), (dy, lambda: eq.cross_entropy_target_derivative(a, y))
        )
        return reduce(tangent, ctx.reduction)


class SigmoidCrossEntropy(_Cost):
    """Cross-entropy of g(z), for weighted inputs and targets of one shape. Equations 2.4 and 3.1c; backward 3.2c."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        return reduce(eq.cross_entropy_of_weighted_input(input, target), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        z, y = ctx.saved_tensors
        dL = _spread(dL, z.numel(), ctx.reduction)
        # a is computed anew from z, not kept: a second derivative has to see how it depends on z.
        dz = dL * eq.output_error(eq.sigmoid(z), y) if ctx.needs_input_grad[0] else None
        dy = dL * -z if ctx.needs_input_grad[1] else None
        return dz, dy, None

    @staticmethod
    def jvp(ctx: Any, dz: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        z, y = ctx.saved_tensors
        tangent = _tangent((dz, lambda: eq.output_error(eq.sigmoid(z), y)), (dy, lambda: -z))
        return reduce(tangent, ctx.reduction)


class SoftmaxCrossEntropy(_Cost):
    """-Σ y ln softmax(z) of each row, for weighted inputs (B, C) and target probabilities (B, C); backward a - y."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        return reduce(eq.softmax_cross_entropy(input, target), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        z, y = ctx.saved_tensors
        dL = _spread(dL, z.shape[0], ctx.reduction)
        dL = dL.unsqueeze(-1)
        dz = dL * eq.softmax_cross_entropy_derivative(z, y) if ctx.needs_input_grad[0] else None
        dy = dL * -torch.log_softmax(z, -1) if ctx.needs_input_grad[1] else None
        return dz, dy, None

    @staticmethod
    def jvp(ctx: Any, dz: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        z, y = ctx.saved_tensors
        tangent = _tangent((dz, lambda: eq.softmax_cross_entropy_derivative(z, y)), (dy, lambda: -torch.log_softmax(z, -1)))
        return reduce(tangent.sum(-1), ctx.reduction)
