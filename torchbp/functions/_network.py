"""The whole network and its cost in one node of the graph: equations 2.1 to 3.1 forward, 3.2c to 3.2f backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import equations as eq
from torchbp.functions._costs import reduced, shared


class _SigmoidCrossEntropy:
    """3.1c of a = g(z), whose error is a - y."""

    activation = staticmethod(eq.sigmoid)

    @staticmethod
    def cost(z: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return eq.cross_entropy_of_weighted_input(z, y)

    @staticmethod
    def error(a: Tensor, y: Tensor) -> Tensor:
        return eq.output_error(a, y)

    @staticmethod
    def target_derivative(z: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return -z


class _LinearSquaredError:
    """3.1a of a = z."""

    @staticmethod
    def activation(z: Tensor) -> Tensor:
        return z

    @staticmethod
    def cost(z: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return eq.squared_error(a, y)

    @staticmethod
    def error(a: Tensor, y: Tensor) -> Tensor:
        return eq.squared_error_derivative(a, y)

    @staticmethod
    def target_derivative(z: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return -eq.squared_error_derivative(a, y)


class _SigmoidSquaredError(_LinearSquaredError):
    """3.1a of a = g(z)."""

    activation = staticmethod(eq.sigmoid)

    @staticmethod
    def error(a: Tensor, y: Tensor) -> Tensor:
        return eq.sigmoid_error(eq.squared_error_derivative(a, y), a)


# How the network ends, by its cost and its output: the last activation, the cost and what 3.2 begins with.
ENDS: dict[tuple[str, str], Any] = {
    ("cross_entropy", "sigmoid"): _SigmoidCrossEntropy,
    ("squared_error", "sigmoid"): _SigmoidSquaredError,
    ("squared_error", "linear"): _LinearSquaredError,
}


class NetworkCost(Function):
    """(cost, prediction) of (input, target, end, reduction, W1, b1, ..., WL, bL), for rows (B, n0) and targets (B, nL).

    ``end`` is one of ``ENDS``; the prediction has no gradient. It is written without a ``setup_context``, whose binding of
    arguments takes as long as a small layer, so torch.func refuses it: :func:`torchbp.functional.network_cost` goes by the
    single layers there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, end: Any, reduction: str, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        A = [x]
        for l in range(0, len(parameters) - 2, 2):
            z = eq.weighted_input(A[-1], parameters[l], parameters[l + 1])  # 2.1
            A.append(eq.sigmoid_(z, z))  # 2.2
        z = eq.weighted_input(A[-1], parameters[-2], parameters[-1])  # 2.3
        a = end.activation(z)  # 2.4
        if y.shape != a.shape:
            raise ValueError(f"target has shape {tuple(y.shape)}; it must be that of the prediction, {tuple(a.shape)}")
        ctx.end, ctx.reduction = end, reduction
        ctx.save_for_backward(y, a, *A, *parameters)
        ctx.mark_non_differentiable(a)
        ctx.set_materialize_grads(False)
        return reduced(end.cost(z, a, y), reduction), a  # 3.1

    @staticmethod
    def backward(ctx: Any, dL: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        y, a, *rest = ctx.saved_tensors
        needs_x, needs_y, _, _, *needs = ctx.needs_input_grad
        depth = len(needs) // 2
        A, W, b = rest[:depth], rest[depth::2], rest[depth + 1 :: 2]
        del rest
        if dL is None:
            return (None,) * (4 + 2 * depth)
        if torch.is_grad_enabled():
            # Made anew from the arguments: a second derivative has to see how the activations depend on them.
            a = ctx.end.activation(_weighted_input(A, W, b))
        else:
            # Unless the graph is retained, each activation is given back as soon as its layer is done.
            ctx.maybe_clear_saved_tensors()

        dL = shared(dL, y.numel(), ctx.reduction)
        dx = None
        dy = dL * ctx.end.target_derivative(eq.weighted_input(A[-1], W[-1], b[-1]), a, y) if needs_y else None
        dz = dL * ctx.end.error(a, y)  # 3.2c
        gradients: list[Tensor | None] = [None] * len(needs)
        for l in reversed(range(depth)):
            a = A.pop()
            if needs[2 * l]:
                gradients[2 * l] = eq.weight_gradient(dz, a)  # 3.2d, 3.2f
            if needs[2 * l + 1]:
                gradients[2 * l + 1] = eq.bias_gradient(dz)
            if l == 0:
                dx = eq.activation_gradient(dz, W[0]) if needs_x else None
            elif needs_x or any(needs[: 2 * l]):
                dz = eq.activation_gradient(dz, W[l])
                dz = eq.sigmoid_error(dz, a)  # 3.2e
            else:
                break
        return dx, dy, None, None, *gradients


def _weighted_input(A: list[Tensor], W: list[Tensor], b: list[Tensor]) -> Tensor:
    """The last layer's Z; leaves each layer's input in A, of which the first is given."""
    for l in range(len(W) - 1):
        A[l + 1] = eq.sigmoid(eq.weighted_input(A[l], W[l], b[l]))
    return eq.weighted_input(A[-1], W[-1], b[-1])
