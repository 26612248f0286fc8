"""Tables from CSV and Parquet files."""

import csv
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from torchbp.data._arrays import ArraysDataModule, BatchSize, Task
from torchbp.data._encoding import Column, ColumnType, Missing, Target, fit_column, fit_target
from torchbp.data._loader import RowLoader, Rows
from torchbp.data._values import clean, listed, unsupported

SUFFIXES = (".csv", ".tsv", ".parquet")
NULL_VALUES = ("", "NA", "N/A", "NULL", "null")


class TabularDataModule(ArraysDataModule):
    """The rows of a CSV or Parquet file, encoded as numbers by what their training split holds.

    Numeric columns are taken as they are, booleans as 0 and 1, and categories one-hot. Column types are inferred: constant
    columns, columns without a value, counts of the rows and texts that nearly all differ (identifiers) are ignored. Columns
    and classes are part of a checkpoint: rows of another file, with or without the target, are encoded as those trained on.

    Args:
        path: the file, ``.csv``, ``.tsv`` or ``.parquet``. The first line of a CSV file names its columns.
        target: the column to learn, or several: of 0 and 1 for ``multilabel``, of any numbers for ``regression``.
        task: what is learned. Inferred if None: two distinct values are ``binary``; a few integers (20 at most) or texts
            ``multiclass``; several columns of 0 and 1 ``multilabel``; other numbers ``regression``.
        types: the types of columns not to be inferred, ``numeric``, ``boolean``, ``categorical`` or ``ignored``.
        missing: what a missing value gets: ``impute``, the training rows' median, or their most frequent value where the column
            is not numeric; ``indicator``, the same and a feature that says so; ``refuse``, an error.
        ignore: columns not to be used, whatever ``types`` says.
        batch_size, val_size, test_size, standardize, seed: as for :class:`ArraysDataModule`.
        max_categories: the most features that one column's categories get. Rarer categories share the last of them, with those
            that training did not see; where there are none that rare, an unseen category is 0 in every feature.
        null_values: the texts that stand for a missing value, besides ``nan``.
        separator: what is between the values of a CSV file; None for a comma, or a tab in ``.tsv``.

    Raises:
        ValueError: an argument outside what is said above; when the rows are first needed, a file or a column that cannot be
            read or learned from.
        FileNotFoundError: when the rows are first needed, no such file.
    """

    def __init__(
        self,
        path: str | Path,
        target: list[str] | str,
        task: Task | None = None,
        types: dict[str, ColumnType] | None = None,
        missing: Missing = "impute",
        ignore: Sequence[str] = (),
        batch_size: BatchSize = 32,
        val_size: float = 0.2,
        test_size: float = 0.2,
        standardize: bool = True,
        seed: int = 0,
        max_categories: int = 50,
        null_values: Sequence[str] = NULL_VALUES,
        separator: str | None = None,
    ) -> None:
        # Plain values, because they are saved with the checkpoint.
        path, types, ignore, null_values = str(path), dict(types or {}), list(ignore), list(null_values)
        super().__init__(batch_size, val_size, test_size, standardize, seed)
        if task is not None and task not in get_args(Task):
            raise ValueError(f"task is {task!r}; it must be one of {', '.join(get_args(Task))}")
        if missing not in get_args(Missing):
            raise ValueError(f"missing is {missing!r}; it must be one of {', '.join(get_args(Missing))}")
        if max_categories < 2:
            raise ValueError(f"max_categories is {max_categories}; it must be at least 2")
        if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '"\r\n'):
            raise ValueError(f"separator is {separator!r}; it must be a single ASCII character, and no quote or line break")
        self.path = Path(path)
        self.targets = [target] if isinstance(target, str) else list(target)
        self.types: dict[str, ColumnType] = {**types, **dict.fromkeys(ignore, "ignored")}
        self.missing, self.max_categories = missing, max_categories
        self.separator = separator or ("\t" if self.path.suffix.lower() == ".tsv" else ",")
        self._null_values = null_values
        self._given_task = task
        self._target: Target | None = None
        self._columns: list[Column] | None = None
        for name, type in self.types.items():
            if type not in get_args(ColumnType):
                raise ValueError(f"types has {type!r} for {name!r}; it must be one of {', '.join(get_args(ColumnType))}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target is {target!r}; it must name at least one column, and each once")
        if clash := [name for name in self.targets if name in self.types]:
            raise ValueError(f"column {clash[0]!r} is the target; it can have no place in types or ignore")

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.stem

    @property
    def columns(self) -> list[Column]:
        """How each column, bar the target's, is encoded; fitted when first needed, if no checkpoint has told."""
        if self._columns is None:
            self._rows = None
            _ = self.rows
        assert self._columns is not None
        return self._columns

    @property
    def _fitted_target(self) -> Target:
        if self._target is None:
            _ = self.columns
        assert self._target is not None
        return self._target

    @property
    def task(self) -> Task:  # type: ignore[override]
        return self._fitted_target.task

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        return self._fitted_target.class_names

    @property
    def feature_names(self) -> list[str]:
        """The names of x's columns."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def num_features(self) -> int:
        return len(self.feature_names)

    @property
    def num_outputs(self) -> int:
        return self._fitted_target.num_outputs

    def load(self) -> tuple[Tensor, Tensor]:
        if self._columns is None:
            table = self._read(None)
            # The classes are those of all rows: the split is stratified by them, and each needs an output.
            target = self._target = fit_target(table, self.targets, self._given_task)
            y = torch.from_numpy(target.encode(table))
            split = self._split(y)["train"]
            train = np.arange(len(y)) if split is None else split.numpy()
            self._columns = self._fit(table, train)
        else:
            table = self._read([*self._used, *self.targets])
            y = torch.from_numpy(self._fitted_target.encode(table))
        return self._encode(table), y

    def _fit(self, table: dict[str, pl.Series], train: np.ndarray) -> list[Column]:
        columns = []
        for name, values in table.items():
            if name not in self.targets:
                columns.append(fit_column(values, train, self.types.get(name), self.missing, self.max_categories))
        if all(column.type == "ignored" for column in columns):
            why = ", ".join(f"{column.name!r} ({column.seen})" for column in columns[:5]) or "there is none besides the target"
            raise ValueError(f"{self.path} has no column to learn from; ignored: {why}; the argument types overrules that")
        return columns

    @property
    def _used(self) -> list[str]:
        return [column.name for column in self.columns if column.type != "ignored"]

    def _encode(self, table: dict[str, pl.Series]) -> Tensor:
        columns = [column for column in self.columns if column.type != "ignored"]
        return torch.from_numpy(np.column_stack([column.encode(table[column.name]) for column in columns]))

    def _read(self, names: list[str] | None) -> dict[str, pl.Series]:
        """The named columns, or all that are not to be ignored, as :func:`clean` gives them."""
        frame = scan(self.path, self.separator)
        there = frame.collect_schema().names()
        for name in [*self.targets, *self.types] if names is None else names:
            if name not in there:
                raise ValueError(f"{self.path} has no column {name!r}; it has {listed(closest_first(name, there))}")
        if names is None:
            names = [name for name in there if self.types.get(name) != "ignored"]
        with in_one_line(self.path):
            rows = frame.select(names).collect()
        if rows.is_empty():
            raise ValueError(f"{self.path} has no rows; at least one is needed")
        return {name: clean(rows[name], self._null_values) for name in names}

    def predict_dataloader(self) -> RowLoader:
        """All rows' x, in the file's order; the file needs no target."""
        x = self._encode(self._read(self._used)) if self._rows is None else self._rows[0]
        return self._evaluation_loader(Rows(x))

    def unused_columns(self) -> pl.DataFrame:
        """The file's columns that are neither features nor target, row for row: what tells its rows apart is among them."""
        frame = scan(self.path, self.separator)
        used = {*self._used, *self.targets}
        names = [name for name, type in frame.collect_schema().items() if name not in used and not unsupported(type)]
        return frame.select(names).collect()

    def state_dict(self) -> dict[str, Any]:
        """What was fitted: plain values, empty as long as nothing was."""
        if self._target is None or self._columns is None:
            return {}
        columns = [asdict(column) for column in self._columns]
        return {"target": asdict(self._target), "columns": columns, "null_values": self._null_values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Encode as the run did that saved this; ``types``, ``missing`` and the like were settled there.

        Raises:
            ValueError: it was trained for another target or task.
        """
        target = Target(**state_dict["target"])
        if target.names != self.targets:
            raise ValueError(f"the checkpoint's target is {listed(target.names)}, here it is {listed(self.targets)}")
        if self._given_task not in (None, target.task):
            raise ValueError(f"the checkpoint's task is {target.task}, here it is {self._given_task}")
        if state_dict != self.state_dict():
            self._rows, self._splits = None, {}
            self._target, self._columns = target, [Column(**column) for column in state_dict["columns"]]
            self._null_values = state_dict["null_values"]

    def schema_table(self) -> Table:
        """The columns, their types and what the training rows hold, to be printed by rich."""
        target = self._fitted_target
        table = Table(title=Text(f"{self.path}: {target.task}, {self.num_features} features"), title_justify="left")
        for heading in ("column", "type", "missing", "training rows", "features"):
            table.add_column(heading, justify="right" if heading in ("missing", "features") else "left")
        for name in target.names:
            seen = ", ".join(target.class_names) if target.classes else ""
            table.add_row(Text(name), "target", "", Text(seen), "")
        for column in self.columns:
            missing = f"{column.missing:.1%}" if column.missing else ""
            table.add_row(Text(column.name), column.type, missing, Text(column.seen), str(len(column.features)))
        return table


def scan(path: Path, separator: str) -> pl.LazyFrame:
    """The file as a lazy frame; a CSV file's values are all text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: of another kind, not readable, or with two columns of one name.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} has the extension {suffix!r}; it must be one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; it needs column names and rows")
    with in_one_line(path):
        if suffix == ".parquet":
            frame = pl.scan_parquet(path, glob=False)
        else:
            refuse_duplicates(path, separator)
            # Read whole: where only some columns are, polars passes over lines with too many values.
            lines = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False).collect()
            # Polars takes blank lines, at the end as anywhere, for rows without a value.
            filled = lines.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
            frame = lines.head(filled[-1] + 1 if len(filled) else 0).lazy()
        if not frame.collect_schema():
            raise ValueError(f"{path} has no columns")
    return frame


def refuse_duplicates(path: Path, separator: str) -> None:
    """Polars would give the second column of a name another name."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next((line for line in csv.reader(file, delimiter=separator) if line), [])
    name, count = Counter(header).most_common(1)[0] if header else ("", 0)
    if count > 1:
        raise ValueError(f"{path} has {count} columns named {name!r}; each name must be there once")


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Turn what polars says of a file that it cannot read into one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as {path.suffix[1:].upper()}: {reason}") from None


def closest_first(name: str, names: Sequence[str]) -> list[str]:
    """The names, those that are spelled much like ``name`` first."""
    folded = [other.casefold() for other in names]
    close = difflib.get_close_matches(name.casefold(), folded, n=3)
    return sorted(names, key=lambda other: close.index(other.casefold()) if other.casefold() in close else len(close))
