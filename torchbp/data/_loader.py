"""Rows in memory, handed out in batches by one index operation for many of them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """The rows of consecutive batches: x (N, n0) and y (N, nL), a batch every ``batch_size`` rows; the last may be smaller."""

    x: Tensor
    y: Tensor
    batch_size: int

    @property
    def num_batches(self) -> int:
        return -(-len(self.x) // self.batch_size)


class Rows:
    """Tensors that belong together, row by row; or those of their rows that ``subset`` names, in its order.

    Rows are copied when they are handed out, not before.
    """

    def __init__(self, *tensors: Tensor, subset: Tensor | None = None) -> None:
        self._tensors, self._subset = tensors, subset

    def __len__(self) -> int:
        return len(self._tensors[0] if self._subset is None else self._subset)

    def to(self, device: torch.device) -> "Rows":
        """The rows on a device, as one contiguous tensor each; these same ones if they are there."""
        if self._tensors[0].device == device:
            return self
        return Rows(*(tensor.to(device) for tensor in self.take(torch.arange(len(self)))))

    def order(self, generator: torch.Generator) -> Tensor:
        """A random order of the rows, (N)."""
        return torch.randperm(len(self), generator=generator)

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """The rows of an index (n), in its order."""
        index = (index if self._subset is None else self._subset[index]).to(self._tensors[0].device)
        return tuple(tensor.index_select(0, index) for tensor in self._tensors)

    def chunks(self, values: int = 2**17) -> Iterator[tuple[Tensor, ...]]:
        """All rows in order, so many at a time that x has about so many ``values``: few enough for a processor's cache."""
        for index in torch.arange(len(self)).split(max(values // max(self._tensors[0][0].numel(), 1), 1)):
            yield self.take(index)


class RowLoader:
    """Batches of rows, to be used where a ``DataLoader`` would be.

    Shuffled batches depend on nothing but seed and epoch, as ``torch.utils.data.DistributedSampler`` draws them: all processes
    have the same number of batches, and together the batches that one process would have of ``world_size`` times the size.
    Batches in order are dealt out row by row, none of them twice. Its state says how many batches of an epoch were handed out,
    so that a run resumes in the middle of one.

    Args:
        rows: all rows.
        batch_size: rows in a batch, at least 1; the last batch may be smaller.
        seed: of the order; None keeps the rows' own.
        rank, world_size: which process this is, of how many.
        ahead: asked, with the number of batches handed out in this epoch and their size, how many more may come in one
            :class:`Block`; without it batches are plain tuples of tensors.
    """

    batch_sampler = None  # Lightning looks for a DataLoader's

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        ahead: Callable[[int, int], int] | None = None,
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self._seed, self._rank, self._world_size, self._ahead = seed, rank, world_size, ahead
        self._epoch = self._done = 0
        self._resumes = False

    def __len__(self) -> int:
        """The number of batches, however many come in a block."""
        return -(-self._num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        if not self._resumes:
            self._done = 0
        self._resumes = False
        index = self._index()
        while self._done < len(self):
            batches = 1 if self._ahead is None else self._ahead(self._done, self.batch_size)
            start, self._done = self._done, min(self._done + batches, len(self))
            tensors = self.rows.take(index[start * self.batch_size : self._done * self.batch_size])
            yield tensors if self._ahead is None else Block(tensors[0], tensors[1], self.batch_size)

    @property
    def sampler(self) -> "RowLoader":
        """Itself: it is a loader's sampler that Lightning tells of each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._done, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._epoch, self._done, self._resumes = state_dict["epoch"], state_dict["batches"], True

    @property
    def _num_rows(self) -> int:
        """How many rows this process has."""
        share, rest = divmod(len(self.rows), self._world_size)
        return share + (self._rank < rest if self._seed is None else rest > 0)

    def _index(self) -> Tensor:
        if self._seed is None:
            return torch.arange(self._rank, len(self.rows), self._world_size)
        order = self.rows.order(torch.Generator().manual_seed(self._seed + self._epoch))
        missing = self._num_rows * self._world_size - len(order)
        while missing > 0:  # more than once where there are fewer rows than processes
            order = torch.cat([order, order[:missing]])
            missing = self._num_rows * self._world_size - len(order)
        return order[self._rank :: self._world_size]
