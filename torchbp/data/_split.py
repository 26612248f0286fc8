"""Splits rows into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch
from torch import Tensor

from torchbp.data.rows import where
from torchbp.data.values import as_text, counted, refuse

PARTS = ("train", "val", "test")
NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


def sizes_drawn(
    val_size: float | None, test_size: float | None, val_path: str | None, test_path: str | None, split: str | None = None
) -> tuple[float, float]:
    """The shares of rows to draw for validation and test: 0.2 by default, 0 for a part that a column or a file defines.

    Raises:
        ValueError: a share is given for a part that is not drawn.
    """
    sizes = []
    for part, size, path in (("val", val_size, val_path), ("test", test_size, test_path)):
        if size and (split or path):
            how = f"split {split!r}" if split else f"{part}_path {path!r}"
            raise ValueError(f"{part}_size is {size}; with {how} that part is not drawn: leave {part}_size out")
        sizes.append((0.0 if split or path else 0.2) if size is None else size)
    return sizes[0], sizes[1]


def draw_split(
    classes: Tensor, sizes: Sequence[float], seed: int, names: Sequence[str] = (), units: tuple[str, str] = ("row", "rows")
) -> Tensor:
    """Each row's part, (N) of 0 for train, 1 for val and 2 for test: drawn by ``seed``, the same share of each class.

    Each part with a size above 0, and the training part, has at least one row of each class.

    Args:
        classes: each row's class, (N), of an integer type; all the same if there are no classes.
        sizes: the shares of val and test.
        seed: the seed of the draw.
        names: the names of the classes.
        units: the words for one row and for several, in messages.

    Raises:
        ValueError: a class has too few rows.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = [(part, size) for part, size in enumerate(sizes, 1) if size > 0]
    result = torch.zeros(len(classes), dtype=torch.uint8)
    for kind in torch.bincount(classes).nonzero():
        rows = where(classes == kind)
        if len(rows) <= len(held_out):
            some = counted(len(rows), *units)
            who = f"class {names[int(kind)]!r} has {some}" if len(names) else f"the data has {some}"
            wanted = " and ".join(f"{PARTS[part]} (a {PARTS[part]}_size of {size:g})" for part, size in held_out)
            raise ValueError(f"{who}; train and {wanted} need at least {len(held_out) + 1}")
        rows, count_all = rows[torch.randperm(len(rows), generator=generator)], len(rows)
        for left, (part, size) in zip(range(len(held_out), 0, -1), held_out, strict=True):
            count = min(max(round(size * count_all), 1), len(rows) - left)
            result[rows[:count]], rows = part, rows[count:]
    return result


def parts_named(values: pl.Series) -> Tensor:
    """Each row's part, (N), from a column of names such as ``train``.

    Raises:
        ValueError: a name is unknown or missing, or no row is for training.
    """
    parts = as_text(values).str.to_lowercase().replace_strict(NAMES, default=None, return_dtype=pl.UInt8)
    refuse(values, parts.is_null(), f"the column {values.name!r}, which names the split,", "train, val and test are allowed")
    if not (parts == 0).any():
        raise ValueError(f"the column {values.name!r}, which names the split, has no row of 'train'; at least one is needed")
    return torch.from_numpy(parts.to_numpy().copy())
