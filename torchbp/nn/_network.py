"""The text's network, of any depth."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbp import functional as F
from torchbp._memory import number_of_parameters, refuse_beyond_memory
from torchbp._pytorch import parameters_of
from torchbp.activations import Activation, activation_of
from torchbp.iteration import Network
from torchbp.nn._linear import ActivatedLinear, Linear, SigmoidLinear, draw_weights
from torchbp.outputs import OUTPUTS, Output

LARGE = 2**28  # parameters; with fewer, an error has another reason than memory


class BPNetwork(nn.Module):
    """Feed-forward network (equations 2.1 to 2.4, repeated for every layer), by default with sigmoid layers.

    Args:
        layer_sizes: [n0, n1, ..., nL], the width of the input and of each layer; at least two.
        output: ``'sigmoid'`` for predictions in (0, 1), ``'softmax'`` for ones that add up to 1, ``'linear'`` for a last layer
            without activation (regression), or another name in :mod:`torchbp.outputs`, such as ``'exp'`` for counts.
        init: ``'glorot'`` draws weights as Glorot and Bengio (2010), or for the ReLU family as He et al. (2015); biases are
            zero. A sigmoid layer above another layer has four times larger weights, to make up for the sigmoid's slope of 1/4.
            ``'normal'`` draws every weight and bias from N(0, 1), as was usual at the text's time. Both use PyTorch's global
            generator.
        activation: of the hidden layers, one for all or one for each: a name, an import path ``package.module:name`` or an
            entry of :mod:`torchbp.activations`.
        per_unit: whether each hidden unit has its own learnable parameters of its activation.
        networks: K such networks side by side, for :class:`torchbp.descent.Descent`; every parameter then has a leading K.
        device, dtype: of the parameters, as in ``torch.nn``.

    Shapes: (*, n0) -> (*, nL); with ``networks`` (K, B, n0), or (B, n0) shared by all, -> (K, B, nL).

    Raises:
        ValueError: ``layer_sizes`` are not two or more positive integers, there is no such ``output``, ``init`` or
            ``activation``, or not one activation for each hidden layer.
        MemoryError: the parameters do not fit in memory.

    >>> BPNetwork([2, 3, 1])
    BPNetwork(
      output=sigmoid
      (layers): Sequential(
        (0): SigmoidLinear(in_features=2, out_features=3, bias=True)
        (1): Linear(in_features=3, out_features=1, bias=True)
      )
    )
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        output: str = "sigmoid",
        init: Literal["glorot", "normal"] = "glorot",
        activation: str | Activation | Sequence[str | Activation] = "sigmoid",
        per_unit: bool = False,
        networks: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = checked_sizes(layer_sizes, 2)
        entry = self._take_output(output)
        if init not in ("glorot", "normal"):
            raise ValueError(f"init is {init!r}; it must be 'glorot' or 'normal'")
        if networks is not None and networks < 1:
            raise ValueError(f"networks is {networks}; it must be 1 or more, or None")
        self.networks = networks
        self.activations = activations_of(activation, len(sizes) - 2)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        with self._fitting_memory(sizes, (networks or 1) * number_of_parameters(sizes), torch.empty(0, **factory)):
            hidden = [
                SigmoidLinear(n_in, n_out, **factory)
                if g.name == "sigmoid"
                else ActivatedLinear(n_in, n_out, activation=g, per_unit=per_unit, **factory)
                for g, n_in, n_out in zip(self.activations, sizes, sizes[1:], strict=False)
            ]
            self.layers = nn.Sequential(*hidden, Linear(sizes[-2], sizes[-1], **factory))
            if networks is not None:
                self._repeat(networks)
        self._draw(init, entry)

    def _take_output(self, output: str) -> Output:
        """Set the network's output; returns the first entry of this name."""
        outputs = [entry for entry in OUTPUTS.values() if entry.name == output]
        if not outputs:
            names = dict.fromkeys(repr(name) for _, name in OUTPUTS)
            raise ValueError(f"output is {output!r}; it must be {' or '.join(names)}")
        self.output = output
        return outputs[0]

    @staticmethod
    @contextmanager
    def _fitting_memory(sizes: Sequence[int], count: int, like: Tensor) -> Iterator[None]:
        """Raise MemoryError if memory does not suffice for the block, which makes ``count`` parameters like ``like``."""
        if like.device.type == "cpu":  # the system would end the process
            refuse_beyond_memory(sizes, count, like.element_size())
        try:
            yield
        except (RuntimeError, TypeError):  # PyTorch's errors for a tensor that is too large
            if count < LARGE:
                raise
            raise MemoryError(f"layer_sizes is {sizes}; its {count:.2g} parameters do not fit memory") from None

    def _repeat(self, networks: int) -> None:
        """Give every parameter a leading K, with each network's values drawn anew."""
        layer: Any
        for layer in self.layers:
            for name, value in list(layer.named_parameters(recurse=False)):
                layer.register_parameter(name, nn.Parameter(value.new_empty((networks, *value.shape))))
            if isinstance(layer, ActivatedLinear):
                layer.reset_parameters()
            else:  # as torch.nn.Linear's, which takes K for a width
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.uniform_(layer.bias, -bound, bound)

    def _draw(self, init: str, output: Output) -> None:
        layer: Any
        last: Any
        *hidden, last = self.layers
        if init == "normal":
            for layer in self.layers:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
            return
        for layer in hidden[1:]:  # the first keeps its constructor's weights
            draw_weights(layer.weight, layer.activation, layer.activation.gain)
        if output.gain is not None:
            draw_weights(last.weight, activation_of("sigmoid"), output.gain if hidden else 1.0)
            nn.init.zeros_(last.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Prediction ŷ: the last layer's activation."""
        output = self.output_with(None)
        z = self.logits(input)
        return output.activation(z) if output.g is None else F.activate(z, output.g)

    def logits(self, input: Tensor) -> Tensor:
        """Weighted input z of the last layer, before its activation."""
        return self.layers(input)

    def output_with(self, cost: str | None) -> Output:
        """The entry of this network's output with a cost; the first one for None.

        Raises:
            ValueError: the cost does not fit the output.
        """
        allowed = {entry.cost: entry for entry in OUTPUTS.values() if entry.name == self.output}
        if cost is not None and cost not in allowed:
            raise ValueError(
                f"cost is {cost!r}; for a network with {self.output} outputs it must be {' or '.join(map(repr, allowed))}"
            )
        return allowed[cost] if cost is not None else next(iter(allowed.values()))

    def iteration(self, cost: str | None = None) -> Network:
        """The description of this network for :mod:`torchbp.iteration`."""
        return Network(self.activations, self.output_with(cost))

    def ordered_parameters(self) -> list[Tensor]:
        """All parameters in the order of :func:`torchbp.functional.network_cost`: W1, b1, those of its activation, W2, ..."""
        parameters: list[Tensor] = []
        layers: Any = self._modules["layers"]
        for layer in layers:
            own = parameters_of(layer)
            if "weight" in own and "bias" in own:
                parameters += own.values()
            else:  # parametrised or pruned
                parameters += layer.weight, layer.bias, *getattr(layer, "activation_parameters", ())
        return parameters

    def cost(
        self,
        input: Tensor,
        target: Tensor,
        cost: str | None = None,
        weight: Tensor | None = None,
        *,
        reduction: Literal["mean", "sum", "none"] = "mean",
        pos_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The cost, and the prediction without a gradient, with one node in the graph.

        See :func:`torchbp.functional.network_cost`. Hooks of single layers are not called.
        """
        return F.cost_of(self._iteration(cost), input, target, self.ordered_parameters(), weight, reduction, pos_weight)

    def _iteration(self, cost: str | None) -> Network:
        """:meth:`iteration`, made once for each cost."""
        made = self.__dict__.setdefault("_iterations", {})
        if cost not in made:
            made[cost] = self.iteration(cost)
        return made[cost]

    def extra_repr(self) -> str:
        return f"output={self.output}" + (f", networks={self.networks}" if self.networks else "")


def checked_sizes(layer_sizes: Sequence[int], least: int) -> list[int]:
    """The widths of layers as a list.

    Raises:
        ValueError: there are fewer than ``least``, or one is not a positive integer.
    """
    sizes = list(layer_sizes)
    if len(sizes) < least or any(not isinstance(n, int) or n < 1 for n in sizes):
        words = {2: "two", 3: "three"}[least]
        raise ValueError(f"layer_sizes is {sizes}; it must be {words} or more positive integers, such as [30, 16, 1]")
    return sizes


def activations_of(activation: str | Activation | Sequence[str | Activation], hidden_layers: int) -> tuple[Activation, ...]:
    """The activation of each hidden layer.

    Raises:
        ValueError: there is no such activation, or the list has another length.
    """
    if isinstance(activation, str) or not isinstance(activation, Iterable):
        return (activation_of(activation),) * hidden_layers
    if len(activation) != hidden_layers:
        raise ValueError(f"activation is {list(activation)}; it must be one for all, or a list of {hidden_layers}, one a layer")
    return tuple(map(activation_of, activation))
