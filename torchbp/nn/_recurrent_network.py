"""A recurrent network for sequences, of any depth."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchbp import functional as F
from torchbp.activations import Activation, activation_of
from torchbp.iteration import Network
from torchbp.nn._linear import Linear, draw_weights
from torchbp.nn._network import BPNetwork, activations_of, checked_sizes
from torchbp.nn._recurrent import RNN
from torchbp.recurrence import lengths_of, padding

POOLINGS = ("last", "mean", "each")


class RecurrentNetwork(BPNetwork):
    """Recurrent (Elman) layers (equations 5.1 to 5.3) with a last layer like that of :class:`BPNetwork`.

    Sequences are (B, T, n0), at least one step long; those that end before T are NaN in every channel after their end. Costs
    are means over the sequences, or over all steps that have a target.

    Args:
        layer_sizes: [n0, n1, ..., nL], the width of a step, the units of each recurrent layer, and the outputs; three or more.
        output, activation, per_unit, device, dtype: as for :class:`BPNetwork`.
        pooling: what the last layer sees: the ``last`` state of a sequence (in each direction, the last that it reads), the
            ``mean`` of its states, or ``each`` state, for a prediction at each step.
        bidirectional: whether each layer has as many units again that read from the end to the start.
        init: ``glorot`` draws Wi and Wh as :class:`BPNetwork` draws weights. ``orthogonal`` draws an orthogonal Wh: where the
            slope is steepest, neither states nor errors grow or vanish with time. ``normal`` draws everything from N(0, 1).

    Shapes: (B, T, n0) -> (B, nL), or for ``each`` (B, T, nL), NaN after a sequence's end.

    Each recurrent layer is a :class:`torchbp.nn.RNN` with one layer, and has the state_dict of ``torch.nn.RNN``.

    Raises:
        ValueError: ``layer_sizes`` are not three or more positive integers, or there is no such ``output``, ``init``,
            ``pooling`` or ``activation``.
        MemoryError: the parameters do not fit in memory.

    >>> RecurrentNetwork([3, 8, 2], "softmax")(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 2])
    """

    layers: Any

    def __init__(
        self,
        layer_sizes: Sequence[int],
        output: str = "sigmoid",
        init: Literal["glorot", "orthogonal", "normal"] = "glorot",
        activation: str | Activation | Sequence[str | Activation] = "tanh",
        per_unit: bool = False,
        pooling: Literal["last", "mean", "each"] = "last",
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        sizes = checked_sizes(layer_sizes, 3)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; it must be {', '.join(map(repr, POOLINGS))}")
        if init not in ("glorot", "orthogonal", "normal"):
            raise ValueError(f"init is {init!r}; it must be 'glorot', 'orthogonal' or 'normal'")
        entry = self._take_output(output)
        self.networks, self.pooling, self.bidirectional = None, pooling, bidirectional
        self.activations = activations_of(activation, len(sizes) - 2)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        how: dict[str, Any] = {**factory, "batch_first": True, "bidirectional": bidirectional, "per_unit": per_unit}
        widths = [sizes[0], *(n * (1 + bidirectional) for n in sizes[1:-1])]
        counts = [(1 + bidirectional) * n * (n_in + n + 2) for n_in, n in zip(widths, sizes[1:-1], strict=False)]
        with self._fitting_memory(sizes, sum(counts) + (widths[-1] + 1) * sizes[-1], torch.empty(0, **factory)):
            layers: list[nn.Module] = [
                RNN(n_in, n_out, nonlinearity=g, **how)
                for g, n_in, n_out in zip(self.activations, widths, sizes[1:], strict=False)
            ]
            self.layers = nn.ModuleList([*layers, Linear(widths[-1], sizes[-1], **factory)])
        self._draw(init, entry)

    @torch.no_grad()
    def _draw(self, init: str, output: Any) -> None:
        last = self.layers[-1]
        for number, layer in enumerate(self.layers):
            for name, parameter in layer.named_parameters():
                if init == "normal" and name.startswith(("weight", "bias")):
                    nn.init.normal_(parameter)
                elif name.startswith("weight_ih"):
                    draw_weights(parameter, layer.activation, layer.activation.gain if number else 1.0)
                elif name.startswith("weight_hh") and init == "orthogonal":
                    nn.init.orthogonal_(parameter, layer.activation.gain)
                elif name.startswith("weight_hh"):
                    draw_weights(parameter, layer.activation, layer.activation.gain)
                elif name.startswith("bias"):
                    nn.init.zeros_(parameter)
        if init != "normal" and output.gain is not None:
            draw_weights(last.weight, activation_of("sigmoid"), output.gain)

    def logits(self, input: Tensor) -> Tensor:
        """Weighted input z of the last layer, before its activation: (B, nL), or for ``each`` (B, T, nL)."""
        z = self.layers[-1](F.states_of(self.iteration(), self._checked(input), self.ordered_parameters())[0])
        return z if self.pooling != "each" else z.reshape(*input.shape[:2], -1)

    def forward(self, input: Tensor) -> Tensor:
        """Prediction ŷ, for ``each`` NaN after a sequence's end."""
        prediction = super().forward(input)
        if self.pooling != "each" or (lengths := lengths_of(input)) is None:
            return prediction
        return prediction.masked_fill(padding(lengths, input.shape[1]).transpose(0, 1), float("nan"))

    def iteration(self, cost: str | None = None) -> Network:
        return Network(self.activations, self.output_with(cost), self.pooling, self.bidirectional)

    def ordered_parameters(self) -> list[Tensor]:
        """All parameters: Wi1, Wh1, bi1, bh1, those of its activation, the same for a second direction; Wi2, ...; WL, bL."""
        parameters: list[Tensor] = []
        *hidden, last = self.layers
        for layer in hidden:
            for direction in ("", "_reverse") if self.bidirectional else ("",):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *layer.activation.parameters)
                parameters += [getattr(layer, f"{name}_l0{direction}") for name in names]
        return [*parameters, last.weight, last.bias]

    def first_states(self, input: Tensor) -> list[Tensor]:
        """The states before the first step, zeros (B, m) for every layer: for the first call of :meth:`cost_from`."""
        like = self.layers[-1].weight
        return [like.new_zeros(len(input), layer.hidden_size) for layer in self.layers[:-1]]

    def cost_from(
        self,
        states: Sequence[Tensor],
        input: Tensor,
        target: Tensor,
        cost: str | None = None,
        weight: Tensor | None = None,
        *,
        pos_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Train on long sequences in parts: the mean cost of some steps, the predictions, and the states for the next part.

        Args:
            states: the states before these steps, (B, m) for every layer; they get no gradient.
            input, target, cost, weight, pos_weight: as for :meth:`cost`.

        Raises:
            ValueError: as there, or the network is bidirectional.
        """
        if self.bidirectional:
            raise ValueError("the network is bidirectional; cost_from needs one that reads in one direction")
        network = self._iteration(cost)
        return F.cost_in_time(network, input, target, self.ordered_parameters(), states, weight, pos_weight=pos_weight)

    def _checked(self, input: Tensor) -> Tensor:
        n = self.layers[0].input_size
        if input.dim() != 3 or input.shape[2] != n or not input.shape[1]:
            raise ValueError(f"input has shape {tuple(input.shape)}; it must be (B, T, {n}), T above 0")
        return input

    def extra_repr(self) -> str:
        return f"output={self.output}, pooling={self.pooling}"
