"""Standardisation as a module, saved with the network."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from torchbp import equations as eq
from torchbp.recurrence import without_padding


class Standardize(nn.Module):
    """Standardisation (x - mean) / scale of each column; the identity until :meth:`fit` or mean and scale are set.

    Args:
        num_features: the number of columns.
        clip: clamp standardised values to ±clip; None for no limit.

    Shapes: (*, num_features) -> (*, num_features). ``mean`` and ``scale`` are buffers, so they are in the state_dict. NaN,
    which pads sequences, stays NaN.

    Raises:
        ValueError: the input has another width.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int, clip: float | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1:] != self.mean.shape:
            raise ValueError(f"input has shape {tuple(input.shape)}; its last dimension must be {len(self.mean)}")
        return eq.standardized(input, self.mean, self.scale, self.clip)

    def inverse(self, input: Tensor) -> Tensor:
        """Convert standardised values back to the columns' own units."""
        return input * self.scale + self.mean

    @torch.no_grad()
    def fit(self, rows: Tensor | Iterable[Tensor]) -> None:
        """Set mean and scale to the mean and standard deviation of ``rows`` (N, num_features), given whole or in parts.

        In sequences (N, T, num_features) every step is a row; NaN steps, after a sequence's end, are left out. A constant
        column gets scale 1. Parts are merged in float64, after Chan, Golub and LeVeque (1983).
        """
        count, mean, squares = 0, *(torch.zeros_like(self.mean, dtype=torch.float64) for _ in range(2))
        for part in [rows] if isinstance(rows, Tensor) else rows:
            if part.dim() == 3:
                part = without_padding(part)
            part, others = part.to(torch.float64, copy=True), count
            count += len(part)
            part_mean = part.mean(0)
            change = part_mean - mean
            mean += change * (len(part) / count)
            squares += part.sub_(part_mean).square_().sum(0) + change.square() * (len(part) * others / count)
        scale = (squares / count).sqrt()
        self.mean.copy_(mean)
        # The deviation of a constant column is rounding errors only.
        self.scale.copy_(torch.where(scale > 1e-12 * mean.abs(), scale, 1.0))
