"""The text's network, of any depth."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbp import functional as F
from torchbp.nn._linear import Linear, SigmoidLinear

LARGE = 2**28  # parameters; what fails with fewer fails for another reason


class BPNetwork(nn.Module):
    """Feed-forward network of sigmoid layers (equations 2.1 to 2.4, repeated for every layer).

    Args:
        layer_sizes: [n0, n1, ..., nL], the width of the input and of each layer; at least two.
        output: ``'sigmoid'`` for predictions in (0, 1), ``'linear'`` for a last layer without activation (regression).
        init: ``'glorot'`` draws weights as Glorot and Bengio (2010) do, four times wider where a sigmoid layer is fed by
            another, whose slope of 1/4 it makes up for; biases are zero. ``'normal'`` draws every weight and bias from
            N(0, 1), as networks of the text's time were started. Both use PyTorch's global generator.
        device, dtype: of the parameters, as in ``torch.nn``.

    Shapes: (*, n0) -> (*, nL).

    Raises:
        ValueError: sizes that make no network, or another ``output`` or ``init``.
        MemoryError: parameters that do not fit memory.

    >>> BPNetwork([2, 3, 1])
    BPNetwork(
      (layers): Sequential(
        (0): SigmoidLinear(in_features=2, out_features=3, bias=True)
        (1): SigmoidLinear(in_features=3, out_features=1, bias=True)
      )
    )
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        output: Literal["sigmoid", "linear"] = "sigmoid",
        init: Literal["glorot", "normal"] = "glorot",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = list(layer_sizes)
        if len(sizes) < 2 or any(not isinstance(n, int) or n < 1 for n in sizes):
            raise ValueError(f"layer_sizes is {sizes}; it must be two or more positive integers, such as [30, 16, 1]")
        if output not in ("sigmoid", "linear"):
            raise ValueError(f"output is {output!r}; it must be 'sigmoid' or 'linear'")
        if init not in ("glorot", "normal"):
            raise ValueError(f"init is {init!r}; it must be 'glorot' or 'normal'")
        self.output = output
        kinds = [SigmoidLinear] * (len(sizes) - 2) + [SigmoidLinear if output == "sigmoid" else Linear]
        fed = list(zip(kinds, sizes, sizes[1:], strict=False))
        try:
            self.layers = nn.Sequential(*(kind(n_in, n_out, device=device, dtype=dtype) for kind, n_in, n_out in fed))
        except (RuntimeError, TypeError):  # which is what PyTorch makes of a tensor too large
            if (count := sum((n_in + 1) * n_out for _, n_in, n_out in fed)) < LARGE:
                raise
            raise MemoryError(f"layer_sizes is {sizes}; its {count:.2g} parameters do not fit memory") from None
        if init == "normal":
            for parameter in self.parameters():
                nn.init.normal_(parameter)
        else:
            for layer in self.layers[1:].children():
                if isinstance(layer, SigmoidLinear):
                    nn.init.xavier_uniform_(layer.weight, gain=4)

    def forward(self, input: Tensor) -> Tensor:
        """Prediction ŷ: the last layer's activation."""
        return self.layers(input)

    def logits(self, input: Tensor) -> Tensor:
        """Weighted input z of the last layer, before its activation."""
        last: Any
        *hidden, last = self.layers
        for layer in hidden:
            input = layer(input)
        return F.linear(input, last.weight, last.bias)

    def cost(
        self,
        input: Tensor,
        target: Tensor,
        cost: Literal["cross_entropy", "squared_error"] = "cross_entropy",
        reduction: Literal["mean", "sum", "none"] = "mean",
        pos_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cost of the prediction, and the prediction without a gradient, with one node in the graph.

        See :func:`torchbp.functional.network_cost`; hooks on single layers are not called.
        """
        parameters: list[Tensor] = []
        # From where they are kept, for the attributes take as long as the products of a small network do.
        layers: Any = self._modules["layers"]
        for layer in layers:
            own = layer._parameters
            if "weight" in own and "bias" in own:
                parameters += own["weight"], own["bias"]
            else:  # parametrised or pruned
                parameters += layer.weight, layer.bias
        return F.network_cost(input, target, parameters, cost, self.output, reduction, pos_weight)
