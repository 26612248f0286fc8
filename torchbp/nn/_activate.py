"""An activation as a module."""

import torch
from torch import Tensor

from torchbp import functional as F
from torchbp.activations import Activation, activation_of


class Activate(torch.nn.Module):
    """Activation a = g(z; θ) (equations 2.2 and 4.1), with the gradients of :func:`torchbp.functional.activate`.

    Args:
        activation: a name of :mod:`torchbp.activations`, an import path ``package.module:name``, or an entry.
        units: the number of sets of learnable parameters: 1, shared by all units, or one for each of the n units.
        device, dtype: of the learnable parameters.

    Shapes: (*, n) -> (*, n). The state_dict has the activation's parameters by name, (C, units).

    Raises:
        ValueError: there is no such activation.

    >>> Activate("tanh")(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7616])
    """

    def __init__(
        self,
        activation: str | Activation = "sigmoid",
        units: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation_of(activation)
        for name, parameter in self.activation.parameters.items():
            start = parameter.start(units, device=device, dtype=dtype or torch.get_default_dtype())
            self.register_parameter(name, torch.nn.Parameter(start))

    def forward(self, input: Tensor) -> Tensor:
        return F.activate(input, self.activation, *(getattr(self, name) for name in self.activation.parameters))

    def extra_repr(self) -> str:
        return self.activation.name
