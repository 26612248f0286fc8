"""Tables from CSV and Parquet files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table as RichTable
from torch import Tensor

from torchbp.data._base import BatchSize, RowsDataModule, Split
from torchbp.data._cache import Cache
from torchbp.data._columns import Column, ColumnType, Missing, fit_column
from torchbp.data._leak import SAMPLE, warn_of_leaks
from torchbp.data._rows import Rows
from torchbp.data._schema import Schema
from torchbp.data._split import PARTS, draw_split, parts_named
from torchbp.data._table import Table, TableInMemory, read, refuse_unknown, stream
from torchbp.data._target import Target, fit_target
from torchbp.data._threads import num_threads
from torchbp.data._values import clean, listed
from torchbp.tasks import Task, check_task

NULL_VALUES = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "?")
GIB = 2**30


class TabularDataModule(RowsDataModule):
    """The rows of a CSV or Parquet file, encoded as numbers by what their training split holds.

    Numeric columns are taken as they are, in float32's seven digits, booleans as 0 and 1, categories one-hot. Column types are
    inferred: constant columns, columns without a value, counts of the rows and texts that nearly all differ (identifiers) are
    ignored. Columns and classes are part of a checkpoint: rows of another file, with or without the target, are encoded as
    those trained on.

    Args:
        path: the file, ``.csv``, ``.tsv`` or ``.parquet``. The first line of a CSV file names its columns.
        target: the column to learn, or several: of 0 and 1 for ``multilabel``, of any numbers for ``regression``.
        task: what is learned. Inferred if None: two distinct values are ``binary``; a few integers (20 at most) or texts
            are ``multiclass``; other numbers are ``regression``; several targets of 0 and 1 are ``multilabel``.
        types: the types of columns not to be inferred, ``numeric``, ``boolean``, ``categorical`` or ``ignored``.
        missing: what a missing value gets: ``impute``, the training rows' median, or their most frequent value where the column
            is not numeric; ``indicator``, the same and a feature that says so; ``refuse``, an error.
        ignore: columns not to be used, whatever ``types`` says.
        split: a column that names each row's part, ``train``, ``val`` or ``test``, in place of a split by seed.
        val_path: a file of rows to validate on, in place of a part of ``path``.
        test_path: a file of rows to test on, likewise.
        batch_size, val_size, test_size, standardize, seed: as for :class:`RowsDataModule`.
        max_categories: the most features that one column's categories get. Rarer categories share the last of them, with those
            that training did not see; where there are none that rare, an unseen category is 0 in every feature.
        null_values: the texts that stand for a missing value, besides ``nan``.
        separator: what is between the values of a CSV file; None for a comma, or a tab in ``.tsv``.
        memory: so many GiB, of a CSV file or of features and targets, are held in memory; what is larger is made a file in
            ``cache_dir`` first, once, and read from there, so that tables may be larger than memory.
        cache_dir: where such files are. They are kept for the next run of the same user on the same content.
        keep_cache: False removes them at the end of each run, when no other run uses them.

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
        split: str | None = None,
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        batch_size: BatchSize = 32,
        val_size: float = 0.2,
        test_size: float = 0.2,
        standardize: bool = True,
        seed: int = 0,
        max_categories: int = 250,
        null_values: Sequence[str] = NULL_VALUES,
        separator: str | None = None,
        memory: float = 1.0,
        cache_dir: str | Path = "logs/cache",
        keep_cache: bool = True,
    ) -> None:
        # Plain values, because they are saved with the checkpoint.
        path, types, ignore, null_values = str(path), dict(types or {}), list(ignore), list(null_values)
        val_path, test_path = (None if other is None else str(other) for other in (val_path, test_path))
        cache_dir = str(cache_dir)
        super().__init__(batch_size, val_size, test_size, standardize, seed)
        if task is not None:
            check_task(task)
        if missing not in get_args(Missing):
            raise ValueError(f"missing is {missing!r}; it must be one of {', '.join(get_args(Missing))}")
        if max_categories < 2:
            raise ValueError(f"max_categories is {max_categories}; it must be at least 2")
        if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '"\r\n'):
            raise ValueError(f"separator is {separator!r}; it must be a single ASCII character, and no quote or line break")
        if not memory >= 0:
            raise ValueError(f"memory is {memory}; it must be 0 GiB or more")
        if split is not None and (val_path or test_path):
            raise ValueError(f"split is {split!r}; with a column that names the parts there can be no val_path or test_path")
        self.path: Path = Path(path)
        self.targets = [target] if isinstance(target, str) else list(target)
        self.types: dict[str, ColumnType] = {**types, **dict.fromkeys(ignore, "ignored")}
        self.missing, self.max_categories = missing, max_categories
        self.split, self.other_paths = split, {"val": val_path, "test": test_path}
        self.separator = separator
        if split or val_path:
            self.val_size = 0.0
        if split or test_path:
            self.test_size = 0.0
        self.memory, self.keep_cache = memory, keep_cache
        self._cache = Cache(Path(cache_dir), keep_cache)
        self._null_values = null_values
        self._given_task = task
        self._schema: Schema | None = None
        self._part_of: Tensor | None = None
        self._others: dict[str, Rows] = {}
        for name, type in self.types.items():
            if type not in get_args(ColumnType):
                raise ValueError(f"types has {type!r} for {name!r}; it must be one of {', '.join(get_args(ColumnType))}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target is {target!r}; it must name at least one column, and each once")
        for what, names in (("types or ignore", self.types), ("split", [split])):
            if clash := [name for name in self.targets if name in names]:
                raise ValueError(f"column {clash[0]!r} is the target; it can have no place in {what}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.stem

    @property
    def schema(self) -> Schema:
        """How the columns are encoded; fitted when first needed, if no checkpoint has told."""
        if self._schema is None:
            _ = self.rows
        assert self._schema is not None
        return self._schema

    @property
    def task(self) -> Task:  # type: ignore[override]
        return self.schema.target.task

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        return self.schema.target.class_names

    @property
    def feature_names(self) -> list[str]:
        """The names of x's columns."""
        return self.schema.feature_names

    @property
    def num_features(self) -> int:
        return len(self.feature_names)

    @property
    def num_outputs(self) -> int:
        return self.schema.target.num_outputs

    @property
    def has_validation(self) -> bool:
        if self.split:
            return bool((self.part_of() == PARTS.index("val")).any())  # type: ignore[union-attr]
        return bool(self.other_paths["val"]) or self.val_size > 0 or (self.test_size == 0 and not self.other_paths["test"])

    def load(self) -> Rows:
        table = self._read(self.path)
        targets = {name: clean(table.column(name), self._null_values) for name in self.targets}
        self._part_of = parts_named(clean(table.column(self.split), self._null_values)) if self.split else None
        # A split that is drawn is drawn by the classes of all rows, and has some of each to train on.
        train = self._to_train_on(table)
        target = self._schema.target if self._schema else fit_target(targets, self.targets, self._given_task, train)
        if not self.split:
            self._part_of = self._draw(target, targets)
        return self._schema.rows(table, self.memory * GIB, self._cache) if self._schema else self._fitted(table, target)

    def part_of(self) -> Tensor | None:
        _ = self.rows  # it is settled as they are loaded
        return self._part_of

    def split_rows(self, name: Split) -> Rows:
        path = self.other_paths.get(name)
        if path is None:
            return super().split_rows(name)
        if name not in self._others:
            schema = self.schema
            self._others[name] = schema.rows(self._read(Path(path)), self.memory * GIB, self._cache)
        return self._others[name]

    def predict_dataloader(self) -> Iterable[tuple[Tensor, pl.DataFrame]]:  # type: ignore[override]
        """The rows of ``path``, part by part: x (B, num_features), and their columns that are neither features nor target.

        The file is read as the parts are asked for, and needs no target.
        """
        return _PartsToPredict(self)

    def _read(self, path: Path) -> Table:
        exact = [*self.targets, *(name for name, type in self.types.items() if type == "categorical")]
        wanted, texts = [*self.targets, *self.types], []
        if self._schema is not None:
            exact, texts, wanted = self._schema.exact, self._schema.texts, [*self._schema.used, *self.targets]
        table = read(path, self._separator(path), self._null_values, exact, texts, self.memory * GIB, self._cache)
        refuse_unknown(path, [*wanted, *([self.split] if self.split else [])], [*table.schema])
        return table

    def _separator(self, path: Path) -> str:
        return self.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")

    def _to_train_on(self, table: Table) -> pl.Series:
        """Whether each row is one to train on, as far as parts are known."""
        part_of = torch.zeros(len(table)) if self._part_of is None else self._part_of
        return pl.Series((part_of == 0).numpy())

    def _draw(self, target: Target, targets: Mapping[str, pl.Series]) -> Tensor | None:
        """Each row's part, as :meth:`part_of` gives it, drawn by the seed."""
        if self.val_size == self.test_size == 0:  # each split is the whole set, or what another file has
            return torch.zeros(len(targets[self.targets[0]]), dtype=torch.uint8) if any(self.other_paths.values()) else None
        codes = target.codes(targets) if target.classes else np.zeros(len(targets[self.targets[0]]), np.uint8)
        return draw_split(torch.from_numpy(codes), (self.val_size, self.test_size), self.seed, target.class_names)

    def _fitted(self, table: Table, target: Target) -> Rows:
        """All rows, by what those to train on say of the columns."""
        train = self._to_train_on(table)
        self._schema = Schema(target, self._fit(table, train), self._null_values)
        rows = self._schema.rows(table, self.memory * GIB, self._cache)
        to_train_on = rows.part(train.arg_true().to_torch())
        x, y = to_train_on.take(to_train_on.order(torch.Generator().manual_seed(0))[:SAMPLE])
        rank_zero_only(warn_of_leaks)(x, y, target.task, self._schema.columns)
        return rows

    def _fit(self, table: Table, train: pl.Series) -> list[Column]:
        def fit(name: str) -> Column:
            if name == self.split:
                return Column(name, "ignored", "names the split")
            if self.types.get(name) == "ignored":
                return Column(name, "ignored", "as told")
            values = clean(table.column(name), self._null_values)
            return fit_column(values, train, self.types.get(name), self.missing, self.max_categories)

        # A column each; one at a time of a table that need not fit memory.
        with ThreadPoolExecutor(num_threads() if isinstance(table, TableInMemory) else 1) as threads:
            columns = list(threads.map(fit, [name for name in table.schema if name not in self.targets]))
        if all(column.type == "ignored" for column in columns):
            why = ", ".join(f"{column.name!r} ({column.seen})" for column in columns[:5]) or "there is none besides the target"
            raise ValueError(f"{self.path} has no column to learn from; ignored: {why}; the argument types overrules that")
        return columns

    def teardown(self, stage: str) -> None:
        if not self.keep_cache:
            self._cache.leave()
            self._rows, self._parts, self._others = None, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """What was fitted: plain values, empty as long as nothing was."""
        return {} if self._schema is None else self._schema.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Encode as the run did that saved this; ``types``, ``missing`` and the like were settled there.

        Raises:
            ValueError: it was trained for another target or task.
        """
        schema = Schema.from_state_dict(state_dict)
        if schema.target.names != self.targets:
            raise ValueError(f"the checkpoint's target is {listed(schema.target.names)}, here it is {listed(self.targets)}")
        if self._given_task not in (None, schema.target.task):
            raise ValueError(f"the checkpoint's task is {schema.target.task}, here it is {self._given_task}")
        if schema != self._schema:
            self._rows, self._parts, self._others = None, {}, {}
            self._schema, self._null_values = schema, schema.null_values

    def schema_table(self) -> RichTable:
        """The columns, their types and what the training rows hold, to be printed by rich."""
        return self.schema.as_table(self.path)


class _PartsToPredict:
    """A data module's rows to predict, read anew each time."""

    def __init__(self, data: TabularDataModule) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[Tensor, pl.DataFrame]]:
        data, schema, first = self._data, self._data.schema, 0
        used = {*schema.used, *schema.target.names}
        for part in stream(data.path, data._separator(data.path), schema.used):
            yield torch.from_numpy(schema.x(part, first)), part.select(pl.exclude(used))
            first += len(part)
