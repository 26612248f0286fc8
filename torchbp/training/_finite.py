"""Finds the layer of a network where numbers are no longer finite."""

from typing import Any

import torch
from torch import Tensor

from torchbp import functional as F
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.recurrence import lengths_of


@torch.no_grad()
def where_not_finite(network: BPNetwork, a: Tensor) -> str:
    """The first layer, in words, where W, b or the weighted input is not finite, for inputs (B, n0).

    For a recurrent layer it looks at the state instead of the weighted input, for sequences (B, T, n0).
    """
    layer: Any
    if isinstance(network, RecurrentNetwork):
        lengths = lengths_of(a)
        for number, layer in enumerate(network.layers[:-1], 1):
            if not all(parameter.isfinite().all() for parameter in layer.parameters()):
                return f"where W or b of layer {number} is not finite"
            a, _ = layer(a, lengths=lengths)
            if not a.isfinite().all():
                return f"where a state of layer {number} is not finite"
        if all(parameter.isfinite().all() for parameter in network.layers[-1].parameters()):
            return f"though the states of layer {number} are finite"
        return f"where W or b of layer {number + 1} is not finite"
    for number, layer in enumerate(network.layers, 1):
        if not all(parameter.isfinite().all() for parameter in layer.parameters()):
            return f"where W or b of layer {number} is not finite"
        if not F.linear(a, layer.weight, layer.bias).isfinite().all():
            return f"where the weighted input of layer {number} is not finite"
        a = layer(a)
    return f"though the weighted input of the last, layer {number}, is finite"
