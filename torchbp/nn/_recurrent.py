"""Recurrent layers with the constructor, parameter names and state_dict of ``torch.nn.RNN``."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from torchbp import functional as F
from torchbp.activations import Activation, activation_of


class RNN(nn.Module):
    """Stacked recurrent (Elman) layers (equations 5.1 to 5.3), with the gradients of :func:`torchbp.functional.elman`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as for ``torch.nn.RNN``.
        nonlinearity: a name of :mod:`torchbp.activations`, an import path ``package.module:name``, or an entry.
        per_unit: whether each unit has its own learnable parameters; otherwise a layer's units share them.

    Initial values and the state_dict are those of ``torch.nn.RNN``. The activation's learnable parameters follow in the
    state_dict, with names such as ``beta_l0`` and ``beta_l0_reverse``.

    Raises:
        ValueError: a size is not a positive integer, ``dropout`` is not from 0 to 1, or there is no such activation.

    >>> output, h_n = RNN(3, 4, nonlinearity="sigmoid")(torch.zeros(5, 2, 3))
    >>> output.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str | Activation = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        per_unit: bool = False,
    ) -> None:
        super().__init__()
        for what, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{what} is {size!r}; it must be a positive integer")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is {dropout}; it must be from 0 to 1")
        self.activation = activation_of(nonlinearity)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        factory: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        width, names = input_size, self._layer_names()
        for number, layer in enumerate(names):
            if number == 1 + bidirectional:
                width = hidden_size * (1 + bidirectional)
            shapes = {"weight_ih": (hidden_size, width), "weight_hh": (hidden_size, hidden_size)}
            if bias:
                shapes |= {"bias_ih": (hidden_size,), "bias_hh": (hidden_size,)}  # type: ignore[dict-item]
            for name, shape in shapes.items():
                self.register_parameter(name + layer, nn.Parameter(torch.empty(shape, **factory)))
        for layer in names:
            for name, parameter in self.activation.parameters.items():
                start = parameter.start(hidden_size if per_unit else 1, **factory)
                self.register_parameter(name + layer, nn.Parameter(start))
        self.reset_parameters()

    def _layer_names(self) -> list[str]:
        """The suffix of each layer's parameter names, in the order of ``hx``."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights and biases like ``torch.nn.RNN``, uniform in ±1/sqrt(hidden_size); reset the activation's parameters."""
        starts = {name + layer: p for layer in self._layer_names() for name, p in self.activation.parameters.items()}
        bound = 1 / math.sqrt(self.hidden_size)
        for name, value in self.named_parameters():
            if name in starts:
                value.copy_(starts[name].start(dtype=value.dtype, device=value.device))
            else:
                nn.init.uniform_(value, -bound, bound)

    @property
    def activation_parameters(self) -> list[Tensor]:
        """The activation's parameters in the first layer's first direction, in the order of its entry."""
        return [getattr(self, f"{name}_l0") for name in self.activation.parameters]

    def flatten_parameters(self) -> None:
        """Do nothing: only for code written for ``torch.nn.RNN``, which needs it for cuDNN."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Any, Tensor]:
        """All states of the last layer, and the last state of every layer.

        Args:
            input: (T, B, input_size), (B, T, input_size) with ``batch_first``, (T, input_size), or a PackedSequence; padding
                with ``lengths`` is faster than a PackedSequence.
            hx: the initial states, (num_layers * directions, B, hidden_size), or without B for one sequence; zeros by default.
            lengths: the number of steps of each sequence, (B); the states after its end are 0.

        Raises:
            ValueError: shapes do not fit, or lengths are not from 1 to T.
        """
        if not isinstance(input, PackedSequence):
            return self._layers(input, hx, lengths, self.batch_first)
        if lengths is not None:
            raise ValueError("lengths are given with a PackedSequence, which has its own; leave them out")
        padded, lengths = pad_packed_sequence(input)
        output, last = self._layers(padded, hx, lengths, False)
        if input.sorted_indices is not None:
            output, lengths = output.index_select(1, input.sorted_indices), lengths[input.sorted_indices.cpu()]
        data, batch_sizes, *_ = pack_padded_sequence(output, lengths)
        return PackedSequence(data, batch_sizes, input.sorted_indices, input.unsorted_indices), last

    def _layers(
        self, x: Tensor, hx: Tensor | None, lengths: Tensor | Sequence[int] | None, batch_first: bool
    ) -> tuple[Tensor, Tensor]:
        names = self._layer_names()
        if hx is not None and (hx.dim() != x.dim() or hx.shape[0] != len(names)):
            batch = "" if x.dim() == 2 else "B, "
            raise ValueError(f"hx has shape {tuple(hx.shape)}; it must be ({len(names)}, {batch}{self.hidden_size})")
        directions = 2 if self.bidirectional else 1
        outputs: list[Tensor] = []
        last: list[Tensor] = []
        for number, name in enumerate(names):
            if outputs and number % directions == 0:  # the next layer
                x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
                x, outputs = nn.functional.dropout(x, self.dropout, self.training) if self.dropout else x, []
            output, h = F.elman(
                x,
                None if hx is None else hx[number],
                getattr(self, f"weight_ih{name}"),
                getattr(self, f"weight_hh{name}"),
                getattr(self, f"bias_ih{name}", None),
                getattr(self, f"bias_hh{name}", None),
                self.activation,
                *(getattr(self, parameter + name) for parameter in self.activation.parameters),
                lengths=lengths,
                batch_first=batch_first,
                backwards=name.endswith("_reverse"),
            )
            outputs.append(output)
            last.append(h)
        return torch.cat(outputs, -1) if directions == 2 else outputs[0], torch.stack(last)

    def extra_repr(self) -> str:
        given = {"num_layers": (self.num_layers, 1), "nonlinearity": (self.activation.name, "tanh"), "bias": (self.bias, True)}
        given |= {"batch_first": (self.batch_first, False), "dropout": (self.dropout, 0.0)}
        given |= {"bidirectional": (self.bidirectional, False)}
        others = [f"{name}={value}" for name, (value, default) in given.items() if value != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *others])
