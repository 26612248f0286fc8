"""The cost of a recurrent network: equations 5.1 to 5.3 with 2.3 to 3.2f."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp import _pytorch, functions
from torchbp._sequences import check_network_of_sequences
from torchbp.elman import Padding
from torchbp.functional._calls import network_cost_call
from torchbp.functional._costs import output_cost
from torchbp.functional._layers import linear
from torchbp.functional._recurrent import read
from torchbp.functions import as_rows, positives_weighted
from torchbp.iteration import Network, layers_of
from torchbp.recurrence import missing, pooled, target_rows


def cost_of_sequences(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if reduction == "none" or _pytorch.more_than_gradients():
        cost, prediction, _ = cost_in_time(network, input, target, parameters, None, weight, reduction, pos_weight)
        return cost.reshape(*target.shape[:-1], -1) if reduction == "none" else cost, prediction
    y, w = _sequence_rows(network, input, target, parameters, weight, reduction, pos_weight)
    call = network_cost_call if torch.is_grad_enabled() else functions.network_forward
    cost, prediction = call(input, y, w, network, reduction == "mean", *parameters)
    return cost, _where_asked(prediction, target)


def cost_in_time(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    hx: Sequence[Tensor] | None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """:func:`cost_of` for a recurrent network from states ``hx``, layer by layer; also returns its last states, detached."""
    y, w = _sequence_rows(network, input, target, parameters, weight, reduction, pos_weight)
    rows, last = states_of(network, input, parameters, hx)
    top = layers_of(network, parameters)[-1]
    cost, prediction = output_cost(network.output, linear(rows, top.W, top.b), y, w, reduction)
    return cost, _where_asked(prediction, target), [h.detach() for h in last]


def _sequence_rows(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Targets as rows, and the weight of each row's cost."""
    check_network_of_sequences(network, input, target, parameters)
    if weight is not None and weight.shape != input.shape[:1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each sequence, {tuple(input.shape[:1])}")
    y, w = target_rows(target, weight, len(input) if reduction == "mean" else None)
    if pos_weight is None:
        return y, w
    network.output.check_pos_weight()
    u, y = positives_weighted(y, pos_weight)
    return y, u if w is None else w * u


def _where_asked(prediction: Tensor, target: Tensor) -> Tensor:
    """Predictions in the shape of targets, NaN where a step has none."""
    prediction = prediction.reshape(target.shape)
    return prediction if target.dim() == 2 else prediction.masked_fill(missing(target), float("nan"))


def states_of(
    network: Network, input: Tensor, parameters: Sequence[Tensor], hx: Sequence[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The input rows of a recurrent network's last layer, and the last states of every layer.

    Args:
        network, input, parameters: as for :func:`cost_of`.
        hx: the states of every layer before the first step, (B, m) each; None for zeros.

    Returns:
        The rows, (B, m), or (B T, m) for pooling ``each``; and the last state read of each layer and direction, (B, m). With
        ``hx``, the last states are those after step T, 0 for a sequence that has ended.
    """
    batch = Padding()
    last: list[Tensor] = []
    x = batch.read(input)
    for layer in layers_of(network, parameters)[:-1]:
        outputs = []
        for one in getattr(layer, "directions", (layer,)):
            h = None if hx is None else hx[len(last)]
            own = one.Wi, one.Wh, one.bi, one.bh, *one.theta
            a, end = read(x, h, own, one.g, batch.lengths, batch.ended, one.backwards)
            last.append(end if hx is None else a[-1])
            outputs.append(end if one.pooling == "last" else a)
        x = torch.cat(outputs, -1)
    if network.pooling == "mean":
        x = pooled(x, batch.lengths, "mean")
    return as_rows(x.transpose(0, 1) if network.pooling == "each" else x), last
