"""The whole network and its cost in one node of the graph: equations 2.1 to 3.1 forward, 3.2c to 3.2f backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import _pytorch
from torchbp.iteration import Collect, Network, backward, forward, layers_of


class NetworkCost(Function):
    """(cost, prediction) of (input, target, weight, network, mean, W1, b1, θ1..., W2, b2, ...).

    Input is (B, n0), target (B, nL). ``weight``, broadcast to the single costs, multiplies each cost; None means 1. ``mean``
    says whether the cost is the mean of all costs or their sum. Weight and prediction get no gradient.

    ``forward`` computes the gradients too, while all that they need is in memory, and saves them instead of the activations;
    ``backward`` returns them. A second derivative computes them again from the arguments. If no gradient is needed, call
    :func:`network_forward`.

    There is no ``setup_context``: with it, binding the arguments takes as long as a small layer. torch.func therefore refuses
    this Function, and :func:`torchbp.functional.network_cost` calls the single layers there.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, weight: Tensor | None, network: Network, mean: bool, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers = layers_of(network, parameters)
        z, a = _prediction(layers, network, x, y)
        cost = _cost(network, z, a, y, weight, mean)
        share = 1 / max(network.output.count(y), 1) if mean else 1
        gradients = _gradients(ctx.needs_input_grad, layers, network, share if weight is None else share * weight, z, a, y)
        ctx.how = network, mean
        ctx.claims = [True]
        ctx.save_for_backward(x, y, weight, *parameters, *gradients)
        ctx.mark_non_differentiable(a)
        ctx.set_materialize_grads(False)
        return cost, a

    @staticmethod
    def backward(ctx: Any, dL: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        if dL is None:
            return (None,) * len(needs)
        x, y, weight, *saved = ctx.saved_tensors
        keeps_graph = _pytorch.keeps_graph()
        if not keeps_graph:
            try:
                ctx.claims.pop()  # if two threads run this backward, only one gets the gradients
            except IndexError:
                raise RuntimeError("Trying to backward through the graph a second time, in two threads at once.") from None
        count = len(needs) - 5
        gradients = saved[count:]
        if torch.is_grad_enabled():
            network, mean = ctx.how
            layers = layers_of(network, saved[:count])
            z, a = _prediction(layers, network, x, y)
            share = dL / network.output.count(y) if mean else dL
            gradients = _gradients(needs, layers, network, share if weight is None else share * weight, z, a, y)
        elif keeps_graph or not _pytorch.is_one(dL):
            gradients = [None if g is None else dL * g for g in gradients]
        dx, dy, *of_parameters = gradients
        return dx, dy, None, None, None, *of_parameters


def network_forward(
    x: Tensor, y: Tensor, weight: Tensor | None, network: Network, mean: bool, *parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs of :class:`NetworkCost`, without gradients."""
    z, a = _prediction(layers_of(network, parameters), network, x, y)
    return _cost(network, z, a, y, weight, mean), a


def _prediction(layers: Sequence[Any], network: Network, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Z and A of the last layer."""
    z = forward(layers, x)
    if y.shape != z.shape:
        raise ValueError(f"target has shape {tuple(y.shape)}; it must be that of the prediction, {tuple(z.shape)}")
    return z, network.output.activation(z)  # 2.4


def _cost(network: Network, z: Tensor, a: Tensor, y: Tensor, weight: Tensor | None, mean: bool) -> Tensor:
    cost = network.output.value(z, a, y)  # 3.1
    cost = cost if weight is None else weight * cost
    return cost.mean() if mean else cost.sum()


def _gradients(
    needs: Sequence[bool],
    layers: Sequence[Any],
    network: Network,
    share: Tensor | float,
    z: Tensor,
    a: Tensor,
    y: Tensor,
) -> list[Tensor | None]:
    """The gradients of x, y and each parameter; None for those that are not needed."""
    needs_x, needs_y, _, _, _, *wanted = needs
    dy = share * network.output.target_derivative(z, a, y) if needs_y else None
    dz = share * network.output.error(z, a, y)  # 3.2c
    sink = Collect(wanted)
    lowest = 0
    if not (needs_x or wanted[0]):
        ends = [layer.slot for layer in layers[1:]]
        lowest = next((number for number, end in enumerate(ends) if any(wanted[:end])), len(ends))
    dx = backward(layers, dz, sink, lowest, needs_x)
    return [dx, dy, *sink.gradients]
