"""The memory of an iteration in place: one workspace, and for batches of each size views of its first rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# A layer of this many units or more is carried back in two halves, so that dA is never larger than half of it.
WIDE = 1024


@dataclass(frozen=True, slots=True)
class Views:
    """What an iteration on batches of one size reads and writes: the workspace's first rows, and the parameters."""

    hidden: list[tuple[Tensor, Tensor, Tensor]]  # A, Wᵀ, b of each hidden layer, upwards
    last: tuple[Tensor, Tensor]  # Wᵀ, b of the last layer
    error: Tensor  # its dZ
    upper: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]  # W, dZ, dZᵀ, A and dA of the layer below; downwards
    first: tuple[Tensor, Tensor]  # W, dZᵀ of the first layer
    biases: list[tuple[Tensor, Tensor]]  # b, dZᵀ of every layer
    ones: Tensor
    count: int  # m, the number of costs whose mean the cost is


class Workspace:
    """What an iteration on parameters ``W`` and ``b`` needs beside them, for the largest batch so far.

    Attributes:
        rows: how many that batch had.
        views: those made so far, by the number of rows; :meth:`views_of` makes others.
    """

    def __init__(self, W: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        self.W, self.b = W, b
        self.views: dict[int, Views] = {}
        self._reserve(0)

    def views_of(self, rows: int) -> Views:
        """The views for batches of so many rows; the memory is made anew where it is too small for them."""
        if rows > self.rows:
            self._reserve(rows)
        A = [a[:rows] for a in self._A]
        dZ = [*A, self._dZ[:rows]]
        dZt = [dz.t() for dz in dZ]
        Wt = [W.t() for W in self.W]
        # Columns of W, A and dA go together: each half of a wide layer has an iteration of its own.
        upper = [
            (W_part, dz, dzt, a_part, self._dA[: a_part.numel()].view(a_part.shape))
            for W, dz, dzt, a in zip(self.W[1:], dZ[1:], dZt[1:], A, strict=True)
            for W_part, a_part in zip(_parts(W), _parts(a), strict=True)
        ]
        views = self.views[rows] = Views(
            hidden=list(zip(A, Wt, self.b, strict=False)),
            last=(Wt[-1], self.b[-1]),
            error=dZ[-1],
            upper=upper[::-1],
            first=(self.W[0], dZt[0]),
            biases=list(zip(self.b, dZt, strict=True)),
            ones=self._ones[:rows],
            count=rows * self._dZ.shape[1],
        )
        return views

    def _reserve(self, rows: int) -> None:
        *hidden, n_out = [len(b) for b in self.b]
        new = self.b[0].new_empty
        self.rows = rows
        self.views.clear()
        self._A = [new(rows, n) for n in hidden]
        self._dA = new(rows * max((n - n // 2 if n >= WIDE else n for n in hidden), default=0))
        self._dZ = new(rows, n_out)
        self._ones = self.b[0].new_ones(rows)


def _parts(t: Tensor) -> tuple[Tensor, ...]:
    """The columns of a wide layer as two halves, the larger one first; those of a narrow one whole."""
    return t.chunk(2, 1) if t.shape[1] >= WIDE else (t,)
