"""Standardisation that travels with the network."""

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """(x - mean) / scale, column by column, the identity until it is given the columns' mean and scale.

    Shapes: (*, num_features) -> (*, num_features). ``mean`` and ``scale`` are buffers, so they are part of the state_dict.

    Raises:
        ValueError: an input of another width.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1:] != self.mean.shape:
            raise ValueError(f"input has shape {tuple(input.shape)}; its last dimension must be {len(self.mean)}")
        return (input - self.mean) / self.scale

    def inverse(self, input: Tensor) -> Tensor:
        """From standardised values back to the columns' own units."""
        return input * self.scale + self.mean

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Take mean and standard deviation from ``rows`` (N, num_features); a constant column keeps scale 1."""
        rows = rows.double()
        scale = rows.std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        # A constant column has a deviation of rounding errors at most.
        self.scale.copy_(torch.where(scale > 1e-12 * rows.abs().amax(0), scale, 1.0))
