"""The weighted input: equations 2.1 and 2.3 forward, 3.2d to 3.2f backward."""

from typing import Any

from torch import Tensor

from torchbp import equations as eq
from torchbp.functions._base import BPFunction


class Linear(BPFunction):
    """z = x Wᵀ + b for input (B, n_in), weight (n_out, n_in) and bias (n_out) or None. Equation 2.3; backward 3.2d and 3.2e.

    K networks side by side have input (K, B, n_in), weight (K, n_out, n_in) and bias (K, 1, n_out).
    """

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return eq.weighted_input(input, weight.mT, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _ = inputs
        ctx.of_networks = weight.dim() == 3
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        da = eq.activation_gradient(dz, W) if ctx.needs_input_grad[0] else None
        dW = eq.weight_gradient(dz.mT, x) if ctx.needs_input_grad[1] else None
        db = eq.bias_gradient(dz) if ctx.needs_input_grad[2] else None
        return da, dW, db.unsqueeze(-2) if ctx.of_networks and db is not None else db

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dW: Tensor, db: Tensor | None) -> Tensor:
        x, W = ctx.saved_tensors
        return eq.weighted_input(dx, W.mT, db) + eq.weighted_input(x, dW.mT)  # the product rule
