"""The text's iteration in place for a recurrent network: backpropagation through time without a graph."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from torchbp._sequences import check_network_of_sequences
from torchbp._workspace import Bound, SequenceWorkspace
from torchbp.descent import Descent
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.recurrence import missing, target_rows

__all__ = ["RecurrentDescent"]


class RecurrentDescent(Descent):
    """Gradient descent on a :class:`torchbp.nn.RecurrentNetwork`: every :meth:`step` is one iteration, 5.1 to 5.3 and 3.2g.

    A step equals one of ``torch.optim.SGD`` on the gradient of the mean cost. Sequences x are (B, T, n0), NaN in every channel
    after their end. Targets y are (B, nL); for pooling ``each`` they are (B, T, nL), NaN where there is no target, and the mean
    is over the others. Memory is kept for the latest few batch sizes.

    Args:
        network, cost, lr, reduce, pos_weight, clip_norm: as for :class:`torchbp.descent.Descent`.

    Attributes:
        states: after a call with ``hx``, the states after its last time step, to continue from.

    >>> network = RecurrentNetwork([1, 4, 1], "linear")
    >>> x = torch.randn(8, 5, 1)
    >>> descent = RecurrentDescent(network, lr=0.05)
    >>> costs = [descent.step(x, x.sum(1)).item() for _ in range(100)]
    >>> costs[-1] < costs[0]
    True
    """

    _steps_of_x = _rows_of_each = 1
    _hx: Sequence[Tensor] | None = None
    states: list[Tensor]

    def step(
        self,
        x: Tensor,
        y: Tensor,
        keep_gradients: bool = False,
        weight: Tensor | None = None,
        hx: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """One iteration on a batch; an empty batch changes nothing.

        Args:
            x, y: sequences and targets, with the network's dtype and device.
            keep_gradients: as for :meth:`torchbp.descent.Descent.step`.
            weight: (B), the factor of the costs of each sequence.
            hx: the states before the first step, (B, m) for every layer and direction; None for zeros.

        Returns:
            The batch's cost before the update, a scalar tensor (NaN for an empty batch).

        Raises:
            ValueError: shapes do not fit.
        """
        self._hx = hx
        try:
            costs = self.steps(x, y, max(len(y), 1), keep_gradients, weight=weight)
        finally:
            self._hx = None
        return costs[0] if len(y) else x.new_full((), float("nan"))

    @torch.no_grad()
    def steps(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        keep_gradients: bool = False,
        lrs: Iterable[float | Tensor] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """One iteration on each batch of ``batch_size`` sequences in turn; the last batch may be smaller.

        Arguments, result and errors are those of :meth:`torchbp.descent.Descent.steps`, with sequences instead of rows.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        check_network_of_sequences(self._network, x, y, self._values)
        if weight is not None and weight.shape != y.shape[:1]:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each sequence, {tuple(y.shape[:1])}")
        rows, w = target_rows(y, weight, batch_size)
        self._steps_of_x, self._rows_of_each = x.shape[1], x.shape[1] if y.dim() == 3 else 1
        w = None if w is None else w.squeeze(-1)
        costs = super().steps(x, rows, batch_size * self._rows_of_each, keep_gradients, lrs, w)
        if y.dim() == 3:
            self._prediction = self._prediction.view(y.shape).masked_fill(missing(y), float("nan"))
        return costs

    def _check_kind(self, network: BPNetwork) -> None:
        if not isinstance(network, RecurrentNetwork):
            raise ValueError(f"the network is a {type(network).__name__}; use torchbp.descent.Descent")
        if self._graphs is not None or self._blocks is not None:
            raise ValueError("cuda_graph and compile are not for recurrent networks")

    def _checked(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._rebind_if_moved()
        return x, y

    def _split_inputs(self, x: Tensor, rows: int) -> Sequence[Tensor]:
        return x.split(rows // self._rows_of_each)

    def _new_workspace(self) -> Any:
        return SequenceWorkspace(self._network, self._values)

    def _bound_to(self, rows: int) -> Bound:
        size = rows // self._rows_of_each, self._steps_of_x
        return self._workspace.bound.get(size) or self._workspace.bind(*size)

    def _error(self, x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None, bound: Bound) -> Tensor:
        directions = [one for layer in bound.layers[:-1] for one in getattr(layer, "directions", (layer,))]
        for one, h in zip(directions, repeat(None) if self._hx is None else self._hx, strict=False):
            one.h = h
        dz = super()._error(x, y, z, a, weight, bound)
        if self._hx is not None:
            self.states = [one.a[-1].clone() for one in directions]
        return dz
