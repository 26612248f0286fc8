"""Layers with the constructor, parameter names and state_dict of ``torch.nn.Linear``."""

import math

import torch
from torch import Tensor

from torchbp import functional as F
from torchbp.activations import Activation, activation_of


class Linear(torch.nn.Linear):
    """Weighted input z = x Wᵀ + b (equation 2.3), with the gradients of :func:`torchbp.functional.linear`.

    Arguments, initialisation and state_dict are those of ``torch.nn.Linear``. Shapes: (*, in_features) -> (*, out_features).
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)


class ActivatedLinear(torch.nn.Linear):
    """A layer a = g(x Wᵀ + b; θ) (equations 2.1, 2.2 and 4.1), with hand-derived gradients.

    Args:
        in_features, out_features, bias, device, dtype: as for ``torch.nn.Linear``.
        activation: a name of :mod:`torchbp.activations`, an import path ``package.module:name``, or an entry.
        per_unit: whether each unit has its own learnable parameters; otherwise the layer's units share them.

    The state_dict is that of ``torch.nn.Linear``, plus the activation's parameters by name, (C, 1) or (C, out_features).
    Initial weights are those of Glorot and Bengio (2010), uniform in ±sqrt(6 / (in_features + out_features)), or for the ReLU
    family those of He et al. (2015); biases are zero. Shapes: (*, in_features) -> (*, out_features).

    Raises:
        ValueError: there is no such activation.

    >>> ActivatedLinear(3, 2, activation="swish").beta
    Parameter containing:
    tensor([[1.]], requires_grad=True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | Activation = "sigmoid",
        per_unit: bool = False,
    ) -> None:
        self.activation = activation_of(activation)
        super().__init__(in_features, out_features, bias, device, dtype)
        for name, parameter in self.activation.parameters.items():
            start = parameter.start(out_features if per_unit else 1, device=device, dtype=dtype or torch.get_default_dtype())
            self.register_parameter(name, torch.nn.Parameter(start))

    def reset_parameters(self) -> None:
        draw_weights(self.weight, self.activation)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)
        for name, parameter in self.activation.parameters.items():
            theta = getattr(self, name, None)
            if theta is not None:  # torch.nn.Linear's constructor calls this before there is one
                theta.data.copy_(parameter.start(dtype=theta.dtype, device=theta.device))

    @property
    def activation_parameters(self) -> list[Tensor]:
        """The activation's parameters, in the order of its entry."""
        return [getattr(self, name) for name in self.activation.parameters]

    def forward(self, input: Tensor) -> Tensor:
        return F.activated_linear(input, self.weight, self.bias, self.activation, *self.activation_parameters)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation.name}"


class SigmoidLinear(ActivatedLinear):
    """Sigmoid layer a = g(x Wᵀ + b) (equations 2.1 and 2.2), with the gradients of :func:`torchbp.functional.sigmoid_linear`.

    Arguments and state_dict are those of ``torch.nn.Linear``, initial values those of :class:`ActivatedLinear`. Shapes:
    (*, in_features) -> (*, out_features), with values in [0, 1].

    >>> SigmoidLinear(3, 2)(torch.zeros(5, 3))[0]
    tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)

    def extra_repr(self) -> str:
        return super(ActivatedLinear, self).extra_repr()


@torch.no_grad()
def draw_weights(weight: Tensor, g: Activation, gain: float = 1.0) -> None:
    """Draw initial weights of layers with activation ``g``, (n_out, n_in), or (K, n_out, n_in) for K networks.

    ``gain`` is only for Glorot's weights; He's use the activation's own gain.
    """
    if weight.is_meta:  # drawing would do nothing, slowly
        return
    n_out, n_in = weight.shape[-2:]
    bound = g.gain * math.sqrt(3 / n_in) if g.init == "he" else gain * math.sqrt(6 / (n_in + n_out))
    torch.nn.init.uniform_(weight, -bound, bound)
