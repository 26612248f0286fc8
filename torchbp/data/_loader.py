"""Loads rows in batches, with one index operation for many batches."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from torchbp._plain import Count, refuse_misfit
from torchbp.data.rows import Rows


class Block(NamedTuple):
    """The rows of consecutive batches: x (N, n0), y (N, nL), and their costs' weights: (N), (N, K) for K networks, or None.

    Every ``batch_size`` rows are a batch; the last batch may be smaller.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None
    batch_size: int

    @property
    def num_batches(self) -> int:
        return -(-len(self.x) // self.batch_size)


class Progress(TypedDict):
    """The epoch, and how many of its batches were loaded."""

    epoch: Count
    batches: Count


class RowLoader:
    """Batches of rows, in place of a ``DataLoader``.

    The order depends only on seed and epoch, as with ``torch.utils.data.DistributedSampler``: all processes have the same
    number of batches, and together the batches that one process would have with ``world_size`` times the size. Without a seed,
    each process has a range of consecutive rows, and no row comes twice. The state holds the number of batches loaded in this
    epoch, so that a run resumes in the middle of one.

    Args:
        rows: all rows.
        batch_size: rows in a batch, at least 1; the last batch may be smaller.
        seed: the seed of the order; None keeps the order of the rows.
        rank, world_size: the number of this process, and the number of processes.
        ahead: called with the number of batches loaded in this epoch and their size, it returns how many may come in the next
            :class:`Block`. Without it, batches are tuples of tensors.
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

    @property
    def seed(self) -> int | None:
        """The seed of the order."""
        return self._seed

    def __len__(self) -> int:
        """The number of batches, not of blocks."""
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
            if self._ahead is None:
                yield tensors
            else:
                x, y, *weight = tensors
                yield Block(x, y, weight[0] if weight else None, self.batch_size)

    @property
    def sampler(self) -> "RowLoader":
        """Itself: Lightning calls ``set_epoch`` of a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._done, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        refuse_misfit("the checkpoint's state of the batches", state_dict, Progress)
        self._epoch, self._done, self._resumes = state_dict["epoch"], state_dict["batches"], True

    @property
    def _num_rows(self) -> int:
        """The number of rows of this process."""
        share, rest = divmod(len(self.rows), self._world_size)
        return share + (self._rank < rest if self._seed is None else rest > 0)

    def _index(self) -> Tensor:
        if self._seed is None:
            return torch.arange(len(self.rows)).tensor_split(self._world_size)[self._rank]
        order = self.rows.order(torch.Generator().manual_seed(self._seed + self._epoch), self._world_size)
        missing = self._num_rows * self._world_size - len(order)
        while missing > 0:  # more than once if there are fewer rows than processes
            order = torch.cat([order, order[:missing]])
            missing = self._num_rows * self._world_size - len(order)
        return order[self._rank :: self._world_size]
