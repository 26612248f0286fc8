"""Reference networks made of PyTorch's operations, with the parameters of a BPNetwork."""

import torch
from torch import Tensor
from torch.nn import functional as TF

from torchbp.functions import reduce
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS, Output


class Reference(torch.nn.Module):
    """A copy of a network, or of one of several side by side, that PyTorch differentiates itself."""

    def __init__(self, network: BPNetwork, number: int | None = None) -> None:
        super().__init__()
        copies = (p.detach() if number is None else p.detach()[number] for p in network.ordered_parameters())
        self.parameters_in_order = torch.nn.ParameterList(torch.nn.Parameter(p.clone()) for p in copies)
        self.activations, self.output = network.activations, network.output_with(None)

    def logits(self, x: Tensor) -> Tensor:
        parameters = iter(self.parameters_in_order)
        for g in self.activations:
            z = TF.linear(x, next(parameters), next(parameters))
            x = g.reference(z, *(next(parameters) for _ in g.parameters)).reshape(z.shape)
        return TF.linear(x, *parameters)

    def forward(self, x: Tensor) -> Tensor:
        activation = self.output.activation_reference or self.output.g.reference
        return activation(self.logits(x))

    def cost(self, x: Tensor, y: Tensor, cost: str, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
        z = self.logits(x)
        costs = OUTPUTS[cost, self.output.name].reference(z.reshape(-1, z.shape[-1]), y.reshape(-1, z.shape[-1]))
        costs = costs.reshape(*z.shape[:-1], costs.shape[-1])
        return reduce(costs if weight is None else costs * weight.unsqueeze(-1), reduction)


def targets(output: Output, *shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """Random targets within an output's range."""
    y = torch.randn(shape, dtype=dtype, device=device)
    low, high = output.targets
    if output.mean == "rows":
        return y.softmax(-1)
    if high < float("inf"):
        return low + (high - low) * y.sigmoid()
    return low + y.exp() if low > -float("inf") else y
