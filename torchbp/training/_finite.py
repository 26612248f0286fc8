"""Finds the layer of a network where numbers are no longer finite, and makes the error."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbp import functional as F
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.recurrence import lengths_of

if TYPE_CHECKING:
    from torchbp.training._module import BPModule


def check_finite(module: "BPModule") -> None:
    """Raise FloatingPointError if a parameter is no longer finite."""
    for name, parameter in module.network.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(f"{name} is no longer finite after step {module.global_step}; {_advice(module)}")


def not_finite(module: "BPModule", cost: float, step: int, x: Tensor, name: str = "cost") -> FloatingPointError:
    """The error for a batch ``x`` whose cost is not finite. The parameters must be those before the step."""
    where = where_not_finite(module.network, module.input_scaling(x))
    return FloatingPointError(f"the {name} became {cost} at step {step}, {where}; {_advice(module)}")


def _advice(module: "BPModule") -> str:
    saved = getattr(module.trainer.checkpoint_callback, "best_model_path", "")
    return "the last checkpoint before that is kept; a smaller lr may help" if saved else "a smaller lr may help"


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
