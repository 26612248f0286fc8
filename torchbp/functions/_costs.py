"""The costs: equation 3.1 forward, 3.2a or 3.2c backward; one Function for each output, of its weighted input."""

from typing import Any

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.functions._base import BPFunction
from torchbp.outputs import Output


def cost_function(output: Output) -> type[BPFunction]:
    """The Function L of an output. It takes weighted inputs (B, n), targets (B, n) and ``reduction``."""
    # Plain functions: Dynamo cannot follow a dataclass into a backward.
    value, error, target_derivative, activation = output.value, output.error, output.target_derivative, output.activation
    of_rows = output.mean == "rows"

    class Cost(BPFunction):
        @staticmethod
        def forward(input: Tensor, target: Tensor, reduction: str) -> Tensor:
            return reduce(value(input, activation(input), target), reduction)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], cost: Tensor) -> None:
            z, y, ctx.reduction = inputs
            ctx.save_for_backward(z, y)
            ctx.save_for_forward(z, y)

        @staticmethod
        def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
            z, y = ctx.saved_tensors
            a = activation(z)  # computed again: a second derivative needs its dependence on z
            if ctx.reduction == "mean":
                dL = dL / (y.numel() // y.shape[-1] if of_rows else y.numel())
            dz = dL * error(z, a, y) if ctx.needs_input_grad[0] else None
            dy = dL * target_derivative(z, a, y) if ctx.needs_input_grad[1] else None
            return dz, dy, None

        @staticmethod
        def jvp(ctx: Any, dz: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
            z, y = ctx.saved_tensors
            a = activation(z)
            changes = [] if dz is None else [dz * error(z, a, y)]
            changes += [] if dy is None else [dy * target_derivative(z, a, y)]
            change = changes[0] if len(changes) == 1 else changes[0] + changes[1]
            return reduce(change.sum(-1, keepdim=True) if of_rows else change, ctx.reduction)

    names = (*output.name.split("_"), *output.cost.split("_"))
    Cost.__name__ = Cost.__qualname__ = "".join(word.title() for word in names)
    return Cost


def reduce(cost: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of the single costs, or the costs themselves."""
    if reduction == "none":
        return cost
    return cost.mean() if reduction == "mean" else cost.sum()


def positives_weighted(target: Tensor, pos_weight: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`torchbp.equations.positives_weighted`: each cost's weight and target, in the shape of ``target``.

    Raises:
        ValueError: ``pos_weight`` cannot be broadcast to the target.
    """
    check_broadcast("pos_weight", pos_weight, target.shape)
    return eq.positives_weighted(target, pos_weight.to(target.dtype))


def check_broadcast(name: str, weight: Tensor, to: torch.Size) -> None:
    """Check that a weight is broadcast to this shape.

    Raises:
        ValueError: it cannot be, or only to a larger one.
    """
    shape = weight.shape
    if len(shape) > len(to) or any(n not in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False)):
        raise ValueError(f"{name} has shape {tuple(shape)}; it must broadcast to {tuple(to)}")
