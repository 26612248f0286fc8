"""Layers with the constructor, parameter names and state_dict of ``torch.nn.Linear``."""

import torch
from torch import Tensor

from torchbp import functional as F


class Linear(torch.nn.Linear):
    """Weighted input z = x Wᵀ + b (equation 2.3), with the gradients of :func:`torchbp.functional.linear`.

    Arguments, initialisation and state_dict as ``torch.nn.Linear``. Shapes: (*, in_features) -> (*, out_features).
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)


class SigmoidLinear(torch.nn.Linear):
    """Sigmoid layer a = g(x Wᵀ + b) (equations 2.1 and 2.2), with the gradients of :func:`torchbp.functional.sigmoid_linear`.

    Arguments and state_dict as ``torch.nn.Linear``. Shapes: (*, in_features) -> (*, out_features), with values in [0, 1].
    Weights start uniform in ±sqrt(6 / (in_features + out_features)), biases at zero (Glorot and Bengio, 2010).

    >>> SigmoidLinear(3, 2)(torch.zeros(5, 3))[0]
    tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    def reset_parameters(self) -> None:
        torch.nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid_linear(input, self.weight, self.bias)
