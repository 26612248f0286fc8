"""Measures how far back in time an error reaches: the norm of ∂L/∂A_t in each recurrent layer, from the last step back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbp.elman import Elman
from torchbp.iteration import Collect, backward, forward, layers_of
from torchbp.nn import RecurrentNetwork
from torchbp.recurrence import missing, reverse
from torchbp.training._curves import GRID, HEIGHT, NOW, START, WHITE, WIDTH, line

DECADES = 8  # powers of ten that a picture shows, down from the largest norm
REACHED = 0.01  # an error reaches a step if its norm is at least this share of that at the end


class _Timed(Elman):
    """Keeps ∂L/∂A_t of every step."""

    da: Tensor

    def pass_back(self, da: Any, kept: Any, out: Any) -> tuple[list[Tensor], list[Tensor]]:
        gradients, errors = super().pass_back(da, kept, None)
        self.da = torch.stack(gradients)
        return gradients, errors


@torch.no_grad()
def errors_back(network: RecurrentNetwork, x: Tensor, y: Tensor, cost: str | None = None) -> list[Tensor]:
    """For each recurrent layer the norm of ∂L/∂A at the last step, the step before it, and so on, (T).

    It is the root mean square over the sequences that have that many steps. With a target at each step, L is the cost of each
    sequence's last target alone, so that every error has come back through time. In a bidirectional layer it is the forward
    direction's.

    Args:
        network: the network, which is not changed.
        x, y: sequences and targets, as the network's cost takes them.
        cost: as for :meth:`torchbp.nn.BPNetwork.cost`.
    """
    described = network.iteration(cost)
    layers: list[Any] = layers_of(described, [p.detach() for p in network.ordered_parameters()], recurrent=_Timed)
    timed: list[_Timed] = []
    for layer in layers[:-1]:
        each = getattr(layer, "directions", (layer,))
        timed.append(each[0])
        for one in each:
            one.reuses = False  # keep each ∂L/∂A
    z = forward(layers, x)
    counts = torch.ones_like(z[:, :1])
    if y.dim() == 3:
        there = ~missing(y).squeeze(-1)
        last = there & (there.cumsum(1) == there.sum(1, keepdim=True))
        counts, y = last.reshape(-1, 1).to(z.dtype), y.nan_to_num(0.0).flatten(0, 1)
    dz = described.output.error(z, described.output.activation(z), y) * counts
    backward(layers, dz, Collect([False] * len(network.ordered_parameters())))
    padding = timed[0].padding
    from_end = [reverse(layer.da, padding.lengths).square().sum(-1) for layer in timed]  # (T, B) each
    steps, sequences = from_end[0].shape
    there_are = torch.full((steps,), sequences) if padding.ended is None else (~padding.ended).sum((1, 2))
    return [(squares.sum(1) / there_are.clamp(min=1).to(squares)).sqrt() for squares in from_end]


def reach(norms: Tensor) -> int:
    """How many steps an error reaches back: until its norm, (T) from the end, is below a hundredth of that at the end."""
    felt = (norms >= REACHED * norms[0]).cumprod(0).sum() if norms[0] > 0 else norms.new_zeros(())
    return int(felt.item())


def reach_image(norms: Tensor, start: Tensor) -> np.ndarray:
    """The norms over t as pixels (3, height, width): the last step is at the right edge, the scale is logarithmic.

    Args:
        norms: the current norms, (T) from the end.
        start: the norms at the start of the run, drawn in grey.
    """
    logs = [n.double().clamp(min=1e-300).log10().flip(0).cpu().numpy() for n in (start, norms)]
    top = np.ceil(max(log.max() for log in logs))
    image = np.full((HEIGHT, WIDTH, 3), WHITE, np.uint8)

    def rows_of(values: Sequence[float] | np.ndarray) -> np.ndarray:
        return np.round((top - np.clip(values, top - DECADES, top)) / DECADES * (HEIGHT - 2)).astype(int)

    image[rows_of(top - np.arange(DECADES + 1))] = GRID
    for log, colour in zip(logs, (START, NOW), strict=True):
        place = np.linspace(0, len(log) - 1, WIDTH)
        line(image, rows_of(np.interp(place, np.arange(len(log)), log)), colour)
    return image.transpose(2, 0, 1)
