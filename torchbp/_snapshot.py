"""Tells which networks diverged, and keeps the parameters from before."""

import torch
from torch import Tensor, nn

from torchbp.nn import BPNetwork

__all__ = ["Snapshot", "are_finite"]


class Snapshot:
    """A copy of a network's parameters, to put back if training diverges."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [parameter.detach() for parameter in network.parameters()]
        self._values = [parameter.clone() for parameter in self._parameters]

    def put_back(self, which: Tensor | None = None) -> None:
        """Write the copy into the parameters; of K networks side by side only those that ``which``, a mask (K), selects."""
        for parameter, value in zip(self._parameters, self._values, strict=True):
            if which is None:
                parameter.copy_(value)
            else:
                parameter[which] = value[which]


@torch.no_grad()
def are_finite(network: BPNetwork, costs: Tensor) -> Tensor:
    """Whether the costs (K, *) and the parameters of each of K networks are all finite, (K); (1) for a single network.

    A step's cost is from before its update: the parameters tell whether the last update was the one too many.
    """
    k = network.networks or 1
    values = torch.cat([values.reshape(k, -1) for values in (costs, *network.parameters())], 1)
    return values.isfinite().all(1)
