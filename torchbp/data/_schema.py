"""How a table's columns become features and targets, fitted in training and applied to any other table."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table as RichTable
from rich.text import Text

from torchbp._plain import refuse_misfit
from torchbp._text import printable
from torchbp.data._cache import Cache, NpyFile, refuse_too_large
from torchbp.data._columns import Column
from torchbp.data._table import Table
from torchbp.data._target import Target
from torchbp.data._threads import each
from torchbp.data._written import Mark
from torchbp.data.progress import progress
from torchbp.data.rows import Mapped, Rows
from torchbp.data.values import clean, counted, label, listed

SHOWN = 50  # maximum columns, or classes, in a printed table

AT_ONCE = 2**24  # maximum values of x and y that are encoded together


def with_first(parts: Iterator[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Each part with the number of rows that came before it."""
    first = 0
    for part in parts:
        yield first, part
        first += len(part)


@dataclass
class Schema:
    """How the columns of a table become x and y.

    Args:
        target: how the target's columns become y.
        columns: how each other column becomes features, or why it does not.
        null_values: the texts that stand for a missing value.
        decimals: the decimal mark of each column, the target's included, with numbers as people write them.
    """

    target: Target
    columns: list[Column]
    null_values: list[str]
    decimals: dict[str, Mark] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unseen: list[tuple[str, Counter[str]]] = []  # a list: several threads append

    @property
    def used(self) -> list[str]:
        """The names of the columns that have features."""
        return [column.name for column in self.columns if column.type != "ignored"]

    @property
    def feature_names(self) -> list[str]:
        """The names of x's columns."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def exact(self) -> list[str]:
        """The columns that need all digits: their numbers are names, or far from 0."""
        columns = [column.name for column in self.columns if column.type == "categorical" or column.offset]
        return [*self.target.names, *columns]

    @property
    def texts(self) -> list[str]:
        """The columns to read as text, also from a file where all their values look like numbers."""
        columns = [(column.name, column.categories) for column in self.columns]
        columns += [(name, self.target.classes) for name in self.target.names]
        dates = [column.name for column in self.columns if column.type == "date"]
        return [name for name, known in columns if known and isinstance(known[0], str)] + [*self.decimals, *dates]

    @property
    def offsets(self) -> list[float]:
        """What was subtracted from each column of x, in float64; 0 unless float32 would lose digits."""
        return [column.offset * (number == 0) for column in self.columns for number in range(len(column.features))]

    def clean(self, values: pl.Series) -> pl.Series:
        """A column's values, cleaned by :func:`torchbp.data.values.clean`."""
        return clean(values, self.null_values, self.decimals.get(values.name))

    def x(self, rows: pl.DataFrame, first: int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """The features of rows, (N, num_features); ``first`` rows of their table came before.

        Raises:
            ValueError: as for :meth:`torchbp.data._columns.Column.encode`.
        """
        if out is None:
            out = np.empty((len(rows), len(self.feature_names)), np.float32)
        start = 0
        for column in self.columns:
            if width := len(column.features):
                if unseen := column.encode(self.clean(rows.get_column(column.name)), out[:, start : start + width], first):
                    self.unseen.append((column.name, unseen))
                start += width
        return out

    def y(self, rows: pl.DataFrame, first: int = 0) -> np.ndarray:
        """The targets of rows, (N, num_outputs); ``first`` rows of their table came before."""
        return self.target.encode({name: self.clean(rows.get_column(name)) for name in self.target.names}, first)

    def xy(self, rows: pl.DataFrame, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Both x and y. A dropped row has NaN in y and the features of another row, because its own may not be encodable."""
        y = self.y(rows, first)
        if self.target.drops and (dropped := np.isnan(y[:, 0])).any():
            if dropped.all():
                return np.zeros((len(rows), len(self.feature_names)), np.float32), y
            rows = rows[np.where(dropped, (~dropped).argmax(), np.arange(len(rows)))]
        return self.x(rows, first), y

    def warn_of_unseen(self) -> None:
        """Warn of each column with categories that training did not see, in the rows encoded since the last call."""
        found: dict[str, Counter[str]] = {}
        for name, unseen in self.unseen:
            found.setdefault(name, Counter()).update(unseen)
        self.unseen.clear()
        for name, unseen in found.items():
            rows = counted(unseen.total(), "row", "rows")
            values = listed([value for value, _ in unseen.most_common()], 3)
            rank_zero_only(warnings.warn)(
                f"column {name!r} holds values that training did not see, in {rows}: {values}; they are 0 in all its features",
                stacklevel=2,
            )

    def rows(self, table: Table, memory: float, cache: Cache) -> Rows:
        """All rows of a table, encoded: in memory, or in files of the cache if x and y take more than ``memory`` bytes.

        Raises:
            ValueError: as for :meth:`x` and :meth:`y`, or the table's file was changed while it was read.
            NotWrittenError: the disk has no room for the files.
        """
        width, outputs = len(self.feature_names), self.target.num_outputs
        if len(table) * (width + outputs) * 4 > memory:
            return self._cached(table, cache, (len(table), width), (len(table), outputs))
        x, y = np.empty((len(table), width), np.float32), np.empty((len(table), outputs), np.float32)

        def encode(part: tuple[int, pl.DataFrame]) -> None:
            first, columns = part
            rows = slice(first, first + len(columns))
            if self.target.drops:
                x[rows], y[rows] = self.xy(columns, first)
            else:
                self.x(columns, first, x[rows])
                y[rows] = self.y(columns, first)

        each(with_first(self._parts(table)), encode)
        table.source.refuse_changed()
        return Rows(torch.from_numpy(x), torch.from_numpy(y))

    def _cached(self, table: Table, cache: Cache, *shapes: tuple[int, int]) -> Rows:
        names = "x.npy", "y.npy"

        def make(folder: Path) -> None:
            there = sum(path.stat().st_size for name in names if (path := folder / name).exists())
            size = sum(rows * width * 4 for rows, width in shapes)
            refuse_too_large(folder, size - there, f"what {table.source.path} holds")
            x, y = (NpyFile(folder / name, shape) for name, shape in zip(names, shapes, strict=True))
            with closing(x), closing(y), progress(f"encoding {table.source.path.name}", len(table)) as done:
                first = min(x.rows, y.rows)
                x.seek(first)
                y.seek(first)
                for part in self._parts(table, first):
                    for file, values in zip((x, y), self.xy(part, first), strict=True):
                        file.append(values)
                    first += len(part)
                    done(first)

        folder = cache.folder("rows", table.source, self.state_dict(), make)
        return Rows(*(Mapped(folder / name) for name in names))

    def _parts(self, table: Table, start: int = 0) -> Iterator[pl.DataFrame]:
        """The rows from ``start`` on, in parts whose x and y have at most about AT_ONCE values."""
        rows = max(AT_ONCE // (len(self.feature_names) + self.target.num_outputs), 1)
        for part in table.parts([*self.used, *self.target.names], start):
            yield from part.iter_slices(rows)

    def state_dict(self) -> dict[str, Any]:
        """The schema as plain values, for :meth:`from_state_dict`."""
        return {
            "target": asdict(self.target),
            "columns": [asdict(column) for column in self.columns],
            "null_values": self.null_values,
            "decimals": self.decimals,
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any]) -> Schema:
        refuse_misfit("the checkpoint's state of the columns", state_dict, cls)
        columns, target = [Column(**column) for column in state_dict["columns"]], Target(**state_dict["target"])
        if target.offsets and len(target.offsets) != len(target.names):
            raise ValueError(f"the checkpoint is damaged: it has {len(target.offsets)} offsets of {len(target.names)} targets")
        return cls(target, columns, state_dict["null_values"], dict(state_dict.get("decimals", {})))

    def as_table(self, path: Path, left_out: int = 0) -> RichTable:
        """The columns, their types and the training rows' values, as a table for rich to print.

        Args:
            path: the table's file.
            left_out: the number of its rows that are in no split.
        """
        features = counted(len(self.feature_names), "feature", "features")
        if left_out:
            which = ["without a target"] if self.target.missing == "drop" else []
            which += ["of rare classes"] if self.target.rare == "drop" else []
            features += f"; {counted(left_out, 'row', 'rows')} {' or '.join(which)} left out"
        table = RichTable(title=Text(printable(f"{path}: {self.target.task}, {features}")), title_justify="left")
        for heading in ("column", "type", "missing", "training rows", "features"):
            table.add_column(heading, justify="right" if heading in ("missing", "features") else "left")
        offsets = self.target.offsets or [0.0] * len(self.target.names)
        for name, offset in zip(self.target.names, offsets, strict=True):
            seen = ", ".join([*map(label, self.target.classes[:SHOWN])])
            if self.target.task == "binary":
                seen += " (positive)"
            elif (rest := len(self.target.classes) - SHOWN) > 0:
                seen += f" and {rest} more"
            elif offset:
                seen = f"far from 0: {offset:.15g} is subtracted"
            seen = f"{seen}{self._written(name)}".removeprefix(", ")
            table.add_row(Text(printable(name)), "target", "", Text(printable(seen)), "")
        for column in self.columns[:SHOWN]:
            missing = f"{column.missing:.1%}" if column.missing else ""
            seen = f"{column.seen}{self._written(column.name)}"
            name, seen = printable(column.name), printable(seen)
            table.add_row(Text(name), Text(printable(column.type)), missing, Text(seen), str(len(column.features)))
        if more := self.columns[SHOWN:]:
            kinds = Counter(column.type for column in more)
            seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            table.add_row(
                f"and {len(more)} more", "", "", Text(printable(seen)), str(sum(len(column.features) for column in more))
            )
        return table

    def _written(self, name: str) -> str:
        marks = {".": "decimal point", ",": "decimal comma"}
        return f", written with a {marks[self.decimals[name]]}" if name in self.decimals else ""
