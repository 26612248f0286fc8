"""The memory of an in-place iteration: one workspace, and for each batch size the layers bound to its first rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.iteration import Network, layers_of


class Subtract:
    """Subtracts each gradient as it is computed: W ← W - α/m dZᵀ X. Equation 3.2g.

    Args:
        parameters: the parameters of all layers, in order.
        ones: as many ones as a batch has rows.
    """

    __slots__ = ("alpha", "ones", "parameters")

    def __init__(self, parameters: Sequence[Tensor], ones: Tensor) -> None:
        self.parameters, self.ones, self.alpha = parameters, ones, 0.0

    def wants(self, slot: int) -> bool:
        return True

    def product(self, slot: int, dzt: Tensor, x: Tensor) -> None:
        eq.descend_weight(self.parameters[slot], dzt, x, self.alpha)

    def rows(self, slot: int, dz: Tensor, dzt: Tensor) -> None:
        eq.descend_bias(self.parameters[slot], dzt, self.ones, self.alpha)

    def other(self, slot: int, gradient: Tensor) -> None:
        eq.descend(self.parameters[slot], gradient, self.alpha)


class SubtractInTime(Subtract):
    """The same for gradients over several time steps. Equations 5.3 and 3.2g.

    Args:
        parameters: the parameters of all layers, in order.
        ones: maps a number of rows to that many ones.
    """

    __slots__ = ("ones_of",)

    def __init__(self, parameters: Sequence[Tensor], ones: dict[int, Tensor]) -> None:
        super().__init__(parameters, next(iter(ones.values())))
        self.ones_of = ones

    def rows(self, slot: int, dz: Tensor, dzt: Tensor) -> None:
        eq.descend_bias(self.parameters[slot], dzt, self.ones_of[len(dz)], self.alpha)


@dataclass(frozen=True, slots=True)
class Bound:
    """An iteration's objects for one batch size: layers with memory, memory for the error, and the sink of gradients."""

    layers: list[Any]
    dz: Tensor
    subtract: Subtract
    count: int  # m, the number of costs in the mean


class Workspace:
    """The memory of an iteration on a network's parameters, for the largest batch so far.

    Attributes:
        rows: the number of rows of that batch.
        bound: a :class:`Bound` for each number of rows so far; :meth:`bind` adds others.
    """

    def __init__(self, network: Network, parameters: Sequence[Tensor]) -> None:
        self.network, self.parameters = network, parameters
        self.widths = [layer.W.shape[-2] for layer in layers_of(network, parameters)]
        self.bound: dict[int, Bound] = {}
        self._reserve(0)

    def bind(self, rows: int) -> Bound:
        """The layers for batches of this many rows; allocates more memory if it is too small."""
        if rows > self.rows:
            self._reserve(rows)
        with torch.no_grad():
            layers = layers_of(self.network, self.parameters)
        for layer, z, a, below in zip(layers, self._Z, self._A, [0, *self.widths], strict=False):
            layer.z_memory = z[..., :rows, :]
            layer.a_memory = layer.dz_memory = layer.z_memory if a is z else a[..., :rows, :]
            layer.dzt = layer.dz_memory.mT
            if below:
                leading = z.shape[:-2]
                layer.da_memory = self._dA[: leading.numel() * rows * below].view(*leading, rows, below)
        bound = self.bound[rows] = Bound(
            layers,
            dz=layers[-1].dz_memory,
            subtract=Subtract(self.parameters, self._ones[..., :rows]),
            count=rows * (self.widths[-1] if self.network.output.mean == "elements" else 1),
        )
        return bound

    def _reserve(self, rows: int) -> None:
        W = self.parameters[0]
        leading = W.shape[:-2]
        self.rows = rows
        self.bound.clear()
        self._A = [W.new_empty(*leading, rows, n) for n in self.widths]
        # If the slope needs only a, a overwrites z.
        self._Z = [a if g.keeps == "a" else torch.empty_like(a) for a, (g, _) in zip(self._A, self.network.layers, strict=True)]
        self._dA = W.new_empty(leading.numel() * rows * max(self.widths[:-1], default=0))
        self._ones = W.new_ones(rows) if not leading else W.new_ones(*leading, 1, rows)


class SequenceWorkspace:
    """The memory of an iteration on a recurrent network's parameters, for the latest few batch sizes.

    Attributes:
        bound: a :class:`Bound` for each number of sequences and steps that is kept; :meth:`bind` adds others.
    """

    MAX_SIZES = 4  # sizes that are kept: sequences may have many lengths, too many to keep memory for each

    def __init__(self, network: Network, parameters: Sequence[Tensor]) -> None:
        self.network, self.parameters = network, parameters
        self.bound: dict[tuple[int, int], Bound] = {}

    def bind(self, sequences: int, steps: int) -> Bound:
        """The layers for batches of this many sequences and steps, with memory."""
        if len(self.bound) == self.MAX_SIZES:
            del self.bound[next(iter(self.bound))]
        with torch.no_grad():
            *hidden, last = layers_of(self.network, self.parameters)
        for layer in hidden:
            for one in getattr(layer, "directions", (layer,)):
                one.reserve(steps, sequences)
        rows = sequences * steps if self.network.pooling == "each" else sequences
        n_out, below = last.W.shape
        last.dz_memory, last.da_memory = (last.W.new_empty(rows, n) for n in (n_out, below))
        last.dzt = last.dz_memory.mT
        bound = self.bound[sequences, steps] = Bound(
            [*hidden, last],
            dz=last.dz_memory,
            subtract=SubtractInTime(self.parameters, {n: last.W.new_ones(n) for n in (rows, sequences * steps)}),
            count=rows * (n_out if self.network.output.mean == "elements" else 1),
        )
        return bound
