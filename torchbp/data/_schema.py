"""What was seen of a table in training, which is all that is needed to make features of another."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.table import Table as RichTable
from rich.text import Text

from torchbp._plain import refuse_misfit
from torchbp._text import printable
from torchbp.data._cache import Cache, NpyFile, refuse_too_large
from torchbp.data._columns import Column
from torchbp.data._progress import progress
from torchbp.data._rows import Mapped, Rows
from torchbp.data._table import Table
from torchbp.data._target import Target
from torchbp.data._threads import each
from torchbp.data._values import clean, counted

AT_ONCE = 2**24  # values of x and y that are made of a part of a table


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
    """

    target: Target
    columns: list[Column]
    null_values: list[str]

    @property
    def used(self) -> list[str]:
        """The names of the columns that features are made of."""
        return [column.name for column in self.columns if column.type != "ignored"]

    @property
    def feature_names(self) -> list[str]:
        """The names of x's columns."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def exact(self) -> list[str]:
        """The columns whose numbers are names, so that no digit may be lost."""
        return [*self.target.names, *(column.name for column in self.columns if column.type == "categorical")]

    @property
    def texts(self) -> list[str]:
        """The columns of texts, which are to stay texts in a file where all of them look like numbers."""
        columns = [(column.name, column.categories) for column in self.columns]
        columns += [(name, self.target.classes) for name in self.target.names]
        return [name for name, known in columns if known and isinstance(known[0], str)]

    def x(self, rows: pl.DataFrame, first: int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """Features (N, num_features) of rows of which ``first`` came before in their table.

        Raises:
            ValueError: as for :meth:`torchbp.data._columns.Column.encode`.
        """
        if out is None:
            out = np.empty((len(rows), len(self.feature_names)), np.float32)
        start = 0
        for column in self.columns:
            if width := len(column.features):
                values = clean(rows[column.name], self.null_values)
                column.encode(values, out[:, start : start + width], first)
                start += width
        return out

    def y(self, rows: Mapping[str, pl.Series] | pl.DataFrame, first: int = 0) -> np.ndarray:
        """Targets (N, num_outputs), likewise."""
        return self.target.encode({name: clean(rows[name], self.null_values) for name in self.target.names}, first)

    def rows(self, table: Table, memory: float, cache: Cache) -> Rows:
        """All rows of a table, in memory, or in files of a cache where x and y have more than ``memory`` bytes.

        Raises:
            ValueError: as for :meth:`x` and :meth:`y`, or the table's file was changed while it was read.
            NotWrittenError: there is no room for files.
        """
        width, outputs = len(self.feature_names), self.target.num_outputs
        if len(table) * (width + outputs) * 4 > memory:
            return self._cached(table, cache, (len(table), width), (len(table), outputs))
        x, y = np.empty((len(table), width), np.float32), np.empty((len(table), outputs), np.float32)

        def encode(part: tuple[int, pl.DataFrame]) -> None:
            first, columns = part
            rows = slice(first, first + len(columns))
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
                    x.append(self.x(part, first))
                    y.append(self.y(part, first))
                    first += len(part)
                    done(first)

        folder = cache.folder("rows", table.source, self.state_dict(), make)
        return Rows(*(Mapped(folder / name) for name in names))

    def _parts(self, table: Table, start: int = 0) -> Iterator[pl.DataFrame]:
        """The rows from ``start`` on, in parts of which x and y are small."""
        rows = max(AT_ONCE // (len(self.feature_names) + self.target.num_outputs), 1)
        for part in table.parts([*self.used, *self.target.names], start):
            yield from part.iter_slices(rows)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, of which :meth:`from_state_dict` makes the same again."""
        return {
            "target": asdict(self.target),
            "columns": [asdict(column) for column in self.columns],
            "null_values": self.null_values,
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any]) -> "Schema":
        refuse_misfit("what the checkpoint holds of the columns", state_dict, cls)
        columns = [Column(**column) for column in state_dict["columns"]]
        return cls(Target(**state_dict["target"]), columns, state_dict["null_values"])

    def as_table(self, path: Path) -> RichTable:
        """The columns, their types and what the training rows hold, to be printed by rich."""
        features = counted(len(self.feature_names), "feature", "features")
        table = RichTable(title=Text(printable(f"{path}: {self.target.task}, {features}")), title_justify="left")
        for heading in ("column", "type", "missing", "training rows", "features"):
            table.add_column(heading, justify="right" if heading in ("missing", "features") else "left")
        for name in self.target.names:
            seen = ", ".join(self.target.class_names) if self.target.classes else ""
            table.add_row(Text(printable(name)), "target", "", Text(printable(seen)), "")
        for column in self.columns:
            missing = f"{column.missing:.1%}" if column.missing else ""
            name, seen = printable(column.name), printable(column.seen)
            table.add_row(Text(name), Text(printable(column.type)), missing, Text(seen), str(len(column.features)))
        return table
