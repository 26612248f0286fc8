"""The cost of a whole network: equations 2.1 to 3.2f."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from torchbp import _pytorch, functions
from torchbp.activations import Activation, activation_of
from torchbp.functional._calls import network_cost_call
from torchbp.functional._checks import REDUCTIONS, check_floating, check_network, check_reduction, check_tensors
from torchbp.functional._costs import output_cost
from torchbp.functional._layers import activated_linear, linear
from torchbp.functional._sequences import cost_of_sequences
from torchbp.functions import as_rows, positives_weighted
from torchbp.iteration import Network, layers_of
from torchbp.outputs import Output, output_of


def network_cost(
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    cost: str = "cross_entropy",
    output: str = "sigmoid",
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    activation: str | Activation | Sequence[str | Activation] = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """Cost of a network, and its prediction, with one node in the graph (equations 2.1 to 3.1).

    The values and gradients are those of :func:`activated_linear`, :func:`linear` and the cost in sequence, with less overhead
    and memory. Under torch.compile, torch.func, forward mode and autocast, these functions are called instead.

    Args:
        input: (*, n0); for K networks (K, B, n0), or (B, n0) shared by all.
        target: (*, nL), in the output's range of targets; it is cast to the dtype of ``input``.
        parameters: W1 (n1, n0), b1 (n1), those of its activation, ..., WL, bL, for at least one layer; for K networks, each
            with a leading K.
        cost: ``'cross_entropy'`` (3.1c, 4.2), ``'squared_error'`` (3.1a), or another cost for the output.
        output: the activation of the last layer, as named in :mod:`torchbp.outputs`; ``'linear'`` for none.
        weight: (*), the factor of each row's costs; it gets no gradient.
        reduction: as in :func:`mse_loss`, for softmax as in :func:`cross_entropy`; for K networks, of each network.
        pos_weight: as in :func:`binary_cross_entropy_with_logits`, for sigmoid outputs with cross-entropy.
        activation: of the hidden layers, one for all or one for each.

    Returns:
        The cost: a scalar, (K) for K networks; for ``'none'`` the single costs, (*, nL), or (*, 1) for softmax. And the
        prediction (*, nL), without a gradient.

    Raises:
        ValueError: shapes do not fit, ``cost`` or ``pos_weight`` does not fit ``output``, or there is no such ``reduction``.
        TypeError: a tensor does not have a real floating-point type.

    >>> network_cost(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]), [torch.tensor([[2.0, -1.0]]), torch.tensor([0.0])])
    (tensor(0.6931), tensor([[0.5000]]))
    """
    network = _network(cost, output, activation if isinstance(activation, str | Activation) else tuple(activation), parameters)
    try:
        return cost_of(network, input, target, parameters, weight, reduction, pos_weight)
    except (AttributeError, TypeError):  # only checked after an error, to save time
        tensors = {"input": input, "target": target, "weight": weight, "pos_weight": pos_weight}
        tensors |= {f"parameter {number}": parameter for number, parameter in enumerate(parameters)}
        try:
            check_tensors("weight", "pos_weight", **tensors)
        except TypeError as wrong:
            raise wrong from None
        raise


def cost_of(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`network_cost` for a :class:`torchbp.iteration.Network`.

    For a recurrent network, ``input`` is (B, T, n0), NaN in every channel after a sequence's end. ``target`` is (B, nL); or,
    with a target at each step, (B, T, nL), NaN where there is none: the prediction is then NaN there too.
    """
    if reduction not in REDUCTIONS:
        check_reduction(reduction)
    check_floating("input", input)
    if target.dtype != input.dtype:
        check_floating("target", target)
        target = target.to(input.dtype)
    if network.pooling is not None:
        return cost_of_sequences(network, input, target, parameters, weight, reduction, pos_weight)
    weight_has_gradient = False
    if pos_weight is not None:
        network.output.check_pos_weight()
        weight_has_gradient = target.requires_grad or pos_weight.requires_grad
    if weight is not None:
        if weight.shape not in (input.shape[:-1], target.shape[:-1]):
            raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each row, {tuple(target.shape[:-1])}")
        weight = weight.unsqueeze(-1)
    if (
        reduction == "none"
        or weight_has_gradient
        or _pytorch.more_than_gradients()
        or (parameters and parameters[0].dim() == 3)
    ):
        return _by_single_layers(network, input, target, parameters, weight, reduction, pos_weight)
    if pos_weight is not None:
        u, target = positives_weighted(target, pos_weight)
        weight = u if weight is None else weight * u
    call = network_cost_call if torch.is_grad_enabled() else functions.network_forward
    try:
        if input.dim() == 2:
            return call(input, target, weight, network, reduction == "mean", *parameters)
        weight = None if weight is None else as_rows(weight)
        value, prediction = call(as_rows(input), as_rows(target), weight, network, reduction == "mean", *parameters)
    except (RuntimeError, ValueError, IndexError):
        # Only checked after an error: checking every shape takes a twentieth of a small network's step.
        check_network(network, input, target, parameters)
        raise
    return value, prediction.reshape(target.shape)


@lru_cache(maxsize=256)
def _described(output: Output, hidden: tuple[Activation, ...]) -> Network:
    return Network(hidden, output)


def _network(cost: str, output: str, activation: object, parameters: Sequence[Tensor]) -> Network:
    if isinstance(activation, tuple):
        return _described(output_of(cost, output), tuple(map(activation_of, activation)))
    g = activation_of(activation)  # type: ignore[arg-type]
    return _described(output_of(cost, output), (g,) * ((len(parameters) - 2) // (2 + len(g.parameters))))


def _by_single_layers(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    check_network(network, input, target, parameters)
    z = input
    *hidden, last = layers_of(network, parameters)
    for layer in hidden:
        z = activated_linear(z, layer.W, layer.b, layer.g, *layer.theta)
    z = linear(z, last.W, last.b)
    return output_cost(network.output, z, target.expand_as(z), weight, reduction, pos_weight, last.W.dim() == 3)
