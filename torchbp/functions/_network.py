"""The whole network and its cost in one node of the graph: equations 2.1 to 3.1 forward, 3.2c to 3.2f backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import equations as eq


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
    """(cost, prediction) of (input, target, weight, end, mean, W1, b1, ..., WL, bL), for rows (B, n0) and targets (B, nL).

    ``weight`` (B, nL) multiplies each single cost and its error, None is 1 for all; ``end`` is one of ``ENDS``; ``mean`` says
    whether the cost is the mean or the sum of all. Weight and prediction have no gradient.
    The gradients are computed in ``forward``, where all that they need is at hand, and handed over in ``backward``; where
    there is no gradient to compute, :func:`network_forward` is the one to call.

    There is no ``setup_context``, since with it the binding of arguments takes as long as a small layer; so torch.func refuses
    this Function, and :func:`torchbp.functional.network_cost` goes by the single layers there.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, weight: Tensor | None, end: Any, mean: bool, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        A, z, a = _activations(x, end, parameters)
        cost = _cost(end, z, a, y, weight, mean)
        share = 1 / max(y.numel(), 1) if mean else 1
        ctx.gradients = _gradients(ctx.needs_input_grad, end, _weighted(share, weight), A, z, a, y, parameters[::2])
        ctx.end, ctx.mean = end, mean
        ctx.save_for_backward(x, y, weight, *parameters)
        ctx.mark_non_differentiable(a)
        ctx.set_materialize_grads(False)
        return cost, a

    @staticmethod
    def backward(ctx: Any, dL: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        x, y, weight, *parameters = ctx.saved_tensors
        if dL is None:
            return (None,) * len(needs)
        if torch.is_grad_enabled():
            # Made anew from the arguments: a second derivative has to see how all depends on them.
            A, z, a = _activations(x, ctx.end, parameters)
            share = dL / y.numel() if ctx.mean else dL
            gradients = _gradients(needs, ctx.end, _weighted(share, weight), A, z, a, y, parameters[::2])
        else:
            gradients = ctx.gradients
            keep = torch._C._autograd._get_current_graph_task_keep_graph()
            if not keep:
                ctx.gradients = None  # held by nobody else, they become .grad as they are
            if keep or not _is_one(dL):
                gradients = [None if g is None else dL * g for g in gradients]
        dx, dy, *of_parameters = gradients
        return dx, dy, None, None, None, *of_parameters


def network_forward(
    x: Tensor, y: Tensor, weight: Tensor | None, end: Any, mean: bool, *parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """What :class:`NetworkCost` gives, without gradients."""
    _, z, a = _activations(x, end, parameters)
    return _cost(end, z, a, y, weight, mean), a


def _activations(x: Tensor, end: Any, parameters: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """What each layer is given; Z and A of the last one."""
    A = [x]
    for l in range(0, len(parameters) - 2, 2):
        z = eq.weighted_input(A[-1], parameters[l], parameters[l + 1])  # 2.1
        A.append(eq.sigmoid(z) if torch.is_grad_enabled() else eq.sigmoid_(z, z))  # 2.2
    z = eq.weighted_input(A[-1], parameters[-2], parameters[-1])  # 2.3
    return A, z, end.activation(z)  # 2.4


def _cost(end: Any, z: Tensor, a: Tensor, y: Tensor, weight: Tensor | None, mean: bool) -> Tensor:
    if y.shape != a.shape:
        raise ValueError(f"target has shape {tuple(y.shape)}; it must be that of the prediction, {tuple(a.shape)}")
    cost = _weighted(end.cost(z, a, y), weight)  # 3.1
    return cost.mean() if mean else cost.sum()


def _gradients(
    needs: Sequence[bool],
    end: Any,
    share: Tensor | float,
    A: list[Tensor],
    z: Tensor,
    a: Tensor,
    y: Tensor,
    W: Sequence[Tensor],
) -> list[Tensor | None]:
    """By x, y, W1, b1, ..., WL, bL, each only where it is needed; each of A is given back as soon as its layer is done."""
    needs_x, needs_y, _, _, _, *needs = needs
    dx = None
    dy = share * end.target_derivative(z, a, y) if needs_y else None
    dz = share * end.error(a, y)  # 3.2c
    of_parameters: list[Tensor | None] = [None] * len(needs)
    for l in reversed(range(len(W))):
        a = A.pop()
        if needs[2 * l]:
            of_parameters[2 * l] = eq.weight_gradient(dz, a)  # 3.2d, 3.2f
        if needs[2 * l + 1]:
            of_parameters[2 * l + 1] = eq.bias_gradient(dz)
        if l == 0:
            dx = eq.activation_gradient(dz, W[0]) if needs_x else None
        elif needs_x or any(needs[: 2 * l]):
            dz = eq.activation_gradient(dz, W[l])
            dz = eq.sigmoid_error(dz, a)  # 3.2e
        else:
            break
    return [dx, dy, *of_parameters]


def _weighted(share: Any, weight: Tensor | None) -> Any:
    return share if weight is None else share * weight


def _is_one(dL: Tensor) -> bool:
    """Whether this is the gradient that ``cost.backward()`` begins with, where asking costs nothing."""
    try:
        return dL.is_cpu and dL.item() == 1  # any other device would have to be waited for
    except RuntimeError:  # a batch of gradients, or a tensor without values
        return False
