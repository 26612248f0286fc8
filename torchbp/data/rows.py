"""Rows of several arrays, in memory or in files that may be larger than it."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchbp.recurrence import without_padding

CHUNK = 1024  # consecutive rows of a file that stay together: the system reads about a MiB at a time
WINDOW = 2**16  # rows that are shuffled with each other, in chunks from anywhere in the file
FEW, SPARSE = 64, 64  # read FEW rows at a time if less than one of SPARSE rows is wanted


class Mapped:
    """The rows of an array in a ``.npy`` file; only the rows taken are in memory.

    Args:
        path: the file.
        divide_by: the values are divided by this.
    """

    def __init__(self, path: Path, divide_by: float = 1.0) -> None:
        self.path, self.divide_by = path, divide_by
        rows, *values = self._open().shape
        self.shape = rows, math.prod(values)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, index: Tensor) -> Tensor:
        """The rows of an index (n), as float32 (n, width)."""
        # Open the file again each time: its pages stay in memory as long as it is mapped. For rows that are far apart, the
        # system reads much of the file, so take a few rows at a time.
        wanted = index.numpy()
        far = len(wanted) > FEW and int(wanted.max()) - int(wanted.min()) > SPARSE * len(wanted)
        parts = np.array_split(wanted, len(wanted) // FEW) if far else [wanted]
        taken = [np.take(self._open(), part, 0) for part in parts]
        rows = (np.concatenate(taken) if far else taken[0]).reshape(len(index), -1)
        with np.errstate(over="ignore"):  # infinity is refused later
            rows = rows.astype(np.float32, copy=False)
        return torch.from_numpy(rows if self.divide_by == 1 else rows / np.float32(self.divide_by))

    def _open(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


class Rows:
    """Rows of several tensors, such as x and y; all rows, or those of ``subset`` in its order.

    Rows are copied only when they are taken.

    Args:
        sources: tensors (N, ...), or files with one array each.
        subset: the indices of the rows; None for all.
        device: the device for rows taken from files.
    """

    def __init__(self, *sources: Tensor | Mapped, subset: Tensor | None = None, device: torch.device | None = None) -> None:
        self._sources, self._subset, self._device = sources, subset, device

    def __len__(self) -> int:
        return len(self._sources[0] if self._subset is None else self._subset)

    @property
    def mapped(self) -> bool:
        """Whether rows are read from files."""
        return any(isinstance(source, Mapped) for source in self._sources)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each source, with all its rows."""
        return [tuple(source.shape) for source in self._sources]

    def only(self, number: int) -> "Rows":
        """The rows of a single source."""
        return Rows(self._sources[number], subset=self._subset, device=self._device)

    def with_source(self, values: Tensor) -> "Rows":
        """The same rows with one more source, ``values`` (N, ...)."""
        of_all = values
        if self._subset is not None:
            of_all = values.new_zeros(self.shapes[0][0], *values.shape[1:])
            of_all[self._subset] = values
        return Rows(*self._sources, of_all, subset=self._subset, device=self._device)

    def part(self, subset: Tensor | None) -> "Rows":
        """The rows with these indices among all rows; None for all."""
        return Rows(*self._sources, subset=subset, device=self._device)

    def to(self, device: torch.device) -> "Rows":
        """The rows on a device, as contiguous tensors; itself if they are there already. Files stay files."""
        if self.mapped:
            return Rows(*self._sources, subset=self._subset, device=device)
        if all(isinstance(source, Tensor) and source.device == device for source in self._sources):
            return self
        return Rows(*(tensor.to(device) for tensor in self.all()))

    def order(self, generator: torch.Generator, parts: int = 1) -> Tensor:
        """A random order of the rows, (N).

        For files, rows that are near each other in the file stay near each other, and every ``parts``-th row is from the same
        part of the file, so that each of ``parts`` processes reads its own part. Shorter parts then give a row twice.
        """
        if not self.mapped:
            return torch.randperm(len(self), generator=generator)
        of_parts = [part[near(len(part), generator)] for part in torch.arange(len(self)).tensor_split(parts) if len(part)]
        longest = len(of_parts[0])
        return torch.stack([part[torch.arange(longest) % len(part)] for part in of_parts], 1).flatten()

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """The rows with the indices (n), in that order."""
        index = index if self._subset is None else self._subset[index]
        rows = [s.take(index) if isinstance(s, Mapped) else s.index_select(0, index.to(s.device)) for s in self._sources]
        return tuple(rows if self._device is None else [tensor.to(self._device) for tensor in rows])

    def all(self) -> tuple[Tensor, ...]:
        """All rows, in order."""
        return self.take(torch.arange(len(self)))

    def chunks(self, values: int = 2**19) -> Iterator[tuple[Tensor, ...]]:
        """All rows in order, in chunks whose x has about ``values`` values."""
        for index in torch.arange(len(self)).split(max(values // max(math.prod(self.shapes[0][1:]), 1), 1)):
            yield self.take(index)


def targets(rows: Rows) -> Iterator[Tensor]:
    """The targets of rows (x, y), chunk by chunk, (n, num_outputs); for a target at each step, without padding."""
    for (y,) in rows.only(1).chunks():
        yield y if y.dim() == 2 else without_padding(y)


def with_target(rows: Rows) -> Rows:
    """The rows (x, y) whose y is not NaN."""
    return rows.part(where(torch.cat([~y[:, 0].isnan() for (y,) in rows.only(1).chunks()])))


def evenly_spaced(count: int, at_most: int) -> Tensor:
    """The indices of up to ``at_most`` of ``count`` rows, evenly spaced, the first and the last included."""
    n = min(count, at_most)  # integers: linspace in float32 goes beyond the last of more than 2**24 rows
    return torch.arange(n) * (count - 1) // max(n - 1, 1)


def where(mask: Tensor) -> Tensor:
    """The indices where a mask (N) is true; NumPy takes a fifth of the time of torch.nonzero."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def near(n: int, generator: torch.Generator) -> Tensor:
    """A random order of n rows of a file that reads the file chunk by chunk."""
    chunks = torch.randperm(-(-n // CHUNK), generator=generator)
    order = (chunks.unsqueeze(1) * CHUNK + torch.arange(CHUNK)).flatten()
    order = order[order < n]
    for window in order.split(WINDOW):
        window.copy_(window[torch.randperm(len(window), generator=generator)])
    return order
