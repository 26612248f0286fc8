"""Rows that belong together, in memory or in files that are larger than it."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchbp.recurrence import without_padding

CHUNK = 1024  # rows in a file that stay together when it is shuffled: systems map a MiB at a time
WINDOW = 2**16  # rows that are shuffled among one another, of chunks from anywhere in the file
FEW, SPARSE = 64, 64  # rows that are read at a time where, on the average, one of so many is wanted


class Mapped:
    """The rows of an array in a ``.npy`` file, of which only what is taken is ever in memory.

    Args:
        path: the file.
        divide_by: what the values are divided by.
    """

    def __init__(self, path: Path, divide_by: float = 1.0) -> None:
        self.path, self.divide_by = path, divide_by
        rows, *values = self._open().shape
        self.shape = rows, math.prod(values)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, index: Tensor) -> Tensor:
        """The rows of an index (n), as float32 (n, width)."""
        # Opened anew each time: pages that were read would stay resident as long as the file is mapped. Of rows far apart the
        # system reads much of the file, so that a few are read at a time.
        wanted = index.numpy()
        far = len(wanted) > FEW and int(wanted.max()) - int(wanted.min()) > SPARSE * len(wanted)
        parts = np.array_split(wanted, len(wanted) // FEW) if far else [wanted]
        taken = [np.take(self._open(), part, 0) for part in parts]
        rows = (np.concatenate(taken) if far else taken[0]).reshape(len(index), -1)
        with np.errstate(over="ignore"):  # infinity is refused, where it is used
            rows = rows.astype(np.float32, copy=False)
        return torch.from_numpy(rows if self.divide_by == 1 else rows / np.float32(self.divide_by))

    def _open(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


class Rows:
    """Tensors that belong together, row by row; or those of their rows that ``subset`` names, in its order.

    Rows are copied when they are handed out, not before.

    Args:
        sources: tensors (N, ...), or files that hold one.
        subset: the index of the rows that count; None for all.
        device: where rows of files are handed out.
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
        """The shape of each, all rows counted."""
        return [tuple(source.shape) for source in self._sources]

    def only(self, number: int) -> "Rows":
        """The rows of one of the sources."""
        return Rows(self._sources[number], subset=self._subset, device=self._device)

    def beside(self, values: Tensor) -> "Rows":
        """The same rows, each with its own of these values, (N, ...)."""
        of_all = values
        if self._subset is not None:
            of_all = values.new_zeros(self.shapes[0][0], *values.shape[1:])
            of_all[self._subset] = values
        return Rows(*self._sources, of_all, subset=self._subset, device=self._device)

    def part(self, subset: Tensor | None) -> "Rows":
        """Those of all rows that an index names."""
        return Rows(*self._sources, subset=subset, device=self._device)

    def to(self, device: torch.device) -> "Rows":
        """The rows on a device, as one contiguous tensor each; these same ones if they are there. Files stay files."""
        if self.mapped:
            return Rows(*self._sources, subset=self._subset, device=device)
        if all(isinstance(source, Tensor) and source.device == device for source in self._sources):
            return self
        return Rows(*(tensor.to(device) for tensor in self.all()))

    def order(self, generator: torch.Generator, parts: int = 1) -> Tensor:
        """A random order of the rows, (N).

        In files, rows that lie together come near one another, and every ``parts``-th row is of the same part of the file, so
        that each of so many processes reads its own part. The shorter parts then give a row twice.
        """
        if not self.mapped:
            return torch.randperm(len(self), generator=generator)
        of_parts = [part[near(len(part), generator)] for part in torch.arange(len(self)).tensor_split(parts) if len(part)]
        longest = len(of_parts[0])
        return torch.stack([part[torch.arange(longest) % len(part)] for part in of_parts], 1).flatten()

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """The rows of an index (n), in its order."""
        index = index if self._subset is None else self._subset[index]
        rows = [s.take(index) if isinstance(s, Mapped) else s.index_select(0, index.to(s.device)) for s in self._sources]
        return tuple(rows if self._device is None else [tensor.to(self._device) for tensor in rows])

    def all(self) -> tuple[Tensor, ...]:
        """All rows, in order."""
        return self.take(torch.arange(len(self)))

    def chunks(self, values: int = 2**19) -> Iterator[tuple[Tensor, ...]]:
        """All rows in order, so many at a time that x has about so many ``values``."""
        for index in torch.arange(len(self)).split(max(values // max(math.prod(self.shapes[0][1:]), 1), 1)):
            yield self.take(index)


def targets(rows: Rows) -> Iterator[Tensor]:
    """The targets of rows (x, y) part by part, (n, num_outputs), of sequences with one at each step those that are there."""
    for (y,) in rows.only(1).chunks():
        yield y if y.dim() == 2 else without_padding(y)


def with_target(rows: Rows) -> Rows:
    """All rows x and y but those of which y is NaN."""
    return rows.part(where(torch.cat([~y[:, 0].isnan() for (y,) in rows.only(1).chunks()])))


def where(mask: Tensor) -> Tensor:
    """The index of the rows that a mask (N) holds for; NumPy's takes a fifth of the time of torch.nonzero."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def near(n: int, generator: torch.Generator) -> Tensor:
    """A random order of n rows in a file, which reads it chunk by chunk."""
    chunks = torch.randperm(-(-n // CHUNK), generator=generator)
    order = (chunks.unsqueeze(1) * CHUNK + torch.arange(CHUNK)).flatten()
    order = order[order < n]
    for window in order.split(WINDOW):
        window.copy_(window[torch.randperm(len(window), generator=generator)])
    return order


def fingerprints(rows: Rows) -> Tensor:
    """A number for each row's content, (N) int64, the same for equal x and y on every machine.

    Those of different rows are equal with a chance of about 2**-63: sums of the values' bits, each multiplied by an odd number
    of its place, mixed as SplitMix64 does.
    """
    width = sum(shape[1] for shape in rows.shapes)
    odd = _mixed(np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
    parts = [np.empty(0, np.uint64)]
    for chunk in rows.chunks():
        values = np.column_stack([tensor.cpu().numpy() for tensor in chunk]) + np.float32(0)  # -0.0 is 0.0
        bits = _mixed(values.view(np.uint32).astype(np.uint64) + odd)
        parts.append(_mixed((bits * odd).sum(1, dtype=np.uint64)))
    return torch.from_numpy(np.concatenate(parts).view(np.int64))


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
