"""Reads a file of sequences according to its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import polars as pl

from torchbp.data._cache import Cache
from torchbp.data._csv import Dialect
from torchbp.data._long_tables import Forecast, channels_of, grouped
from torchbp.data._sequence_files import Filling, Sequences, read_npz, read_ts
from torchbp.data._table import Table, read, refuse_unknown
from torchbp.data.suffixes import SEQUENCES, TABLES
from torchbp.data.values import clean, counted, listed


@dataclass
class Reader:
    """Reads files of sequences.

    Args:
        targets, series, time, channels, gaps, null_values: as for :class:`torchbp.data.SequenceDataModule`.
        forecast: how a single series becomes sequences; None if the file has sequences.
        arrays: the names of x, y and lengths in an ``.npz`` file.
        dialect: how a CSV file is written.
    """

    targets: list[str]
    series: str | None
    time: str | None
    channels: list[str] | None
    forecast: Forecast | None
    gaps: Filling
    arrays: Sequence[str]
    null_values: list[str]
    dialect: Dialect

    def check(self, path: Path) -> None:
        """Refuse options that do not fit the file or each other.

        Raises:
            ValueError: the extension is unknown, or options are missing or do not fit.
        """
        suffix = path.suffix.lower()
        if suffix not in SEQUENCES:
            raise ValueError(f"{path} has the extension {suffix!r}; it must be one of {', '.join(SEQUENCES)}")
        if suffix not in TABLES:
            options: list[tuple[str, Any]] = [("target", self.targets), ("series", self.series), ("time", self.time)]
            for name, value in [*options, ("channels", self.channels), ("window or horizon", self.forecast)]:
                if value:
                    raise ValueError(f"{name} is for the columns of a table, .csv, .tsv or .parquet; {path} has none")
            return
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target is {self.targets or 'null'}; for a table it must name one or more columns, each once")
        if self.channels is not None and (not self.channels or len(set(self.channels)) < len(self.channels)):
            raise ValueError(f"channels is {self.channels}; it must name at least one column, each once")
        if self.forecast is None and self.series is None:
            raise ValueError(
                "series is null; for a table it must name the column that holds each row's sequence; or set --data.window "
                "or --data.horizon to forecast a single series"
            )
        if self.forecast and self.series is not None:
            raise ValueError(f"series is {self.series!r}; a forecast, with window or horizon, needs a single series")
        others: dict[str, Sequence[str | None]] = {
            "series": [self.series],
            "time": [self.time],
            "channels": [] if self.forecast else self.channels or [],
        }
        for what, names in others.items():
            if clash := [name for name in self.targets if name in names]:
                raise ValueError(f"column {clash[0]!r} is the target; it cannot be in {what} too")

    def read(self, path: Path, with_targets: bool, each: bool | None, channels: list[str] | None) -> Sequences:
        """The sequences of a file that :meth:`check` allows, with their targets if they are wanted.

        Args:
            path: the file.
            with_targets: whether targets are wanted.
            each: whether each step has a target, or each sequence; None to infer it from the file.
            channels: the network's channels; None if there is no network yet.

        Raises:
            FileNotFoundError: the file does not exist.
            ModuleNotFoundError: a ``.ts`` file, and sktime is not installed.
            ValueError: the file cannot be read, or lacks targets or channels.
        """
        suffix = path.suffix.lower()
        if suffix == ".npz":
            found = read_npz(path, self.arrays, each, with_targets)
        elif suffix == ".ts":
            if each:
                raise ValueError(f"sequences is each; {path} has a target for each sequence, not for each step")
            found = read_ts(path)
        else:
            found = self._read_table(path, with_targets, each, channels)
        if channels is not None and len(found.channels) != len(channels):
            some = counted(len(found.channels), "channel", "channels")
            raise ValueError(f"{path} has {some}; the network takes {len(channels)}")
        found.fill(self.gaps)
        if with_targets:
            if not found.targets:
                raise ValueError(f"{path} has no targets; without them one can only predict")
            found.targets = {name: clean(values, self.null_values) for name, values in found.targets.items()}
            found.refuse_gaps()
        return found

    def _read_table(self, path: Path, with_targets: bool, each: bool | None, channels: list[str] | None) -> Sequences:
        exact = [*self.targets, *([self.series] if self.series else [])]
        table = read(path, self.dialect, self.null_values, exact, [], inf, Cache(Path()))  # always in memory
        channels = channels or self.channels or (self.targets if self.forecast else None)
        targets = self.targets if with_targets or self.forecast else []
        wanted = [*targets, *(name for name in (self.series, self.time) if name), *(channels or ())]
        refuse_unknown(path, wanted, [*table.schema])
        column = self._columns(table)
        left_out: list[str] = []
        if channels is None:
            channels, left_out = channels_of({name: column(name) for name in table.schema if name not in wanted})
            if not channels:
                some = f": {listed(left_out)} are not numbers" if left_out else ""
                raise ValueError(f"{path} has no column of numbers besides target, series and time{some}")
        if self.forecast:
            found = self.forecast.sequences(column, self.time, targets, channels, self.gaps, with_targets)
        else:
            found = grouped(column, str(self.series), self.time, targets, channels, each)
        found.left_out = left_out
        return found

    def _columns(self, table: Table) -> Callable[[str], pl.Series]:
        """A function that returns a table's column by name, cleaned, with numbers as Python writes them."""
        known: dict[str, pl.Series] = {}

        def column(name: str) -> pl.Series:
            if name not in known:
                values = clean(table.column(name), self.null_values)
                if values.dtype == pl.String and name not in (self.series, self.time):
                    mark = self.dialect.decimal_of(values.drop_nulls(), table.file)
                    values = values if mark is None else clean(values, self.null_values, mark)
                if name == self.time and values.dtype.is_float():  # write 1709 as in the file, not 1709.0
                    whole = values.cast(pl.Int64, strict=False)
                    values = whole if whole.cast(values.dtype).equals(values) else values
                known[name] = values
            return known[name]

        return column
