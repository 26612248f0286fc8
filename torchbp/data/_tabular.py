"""The data module of tables from CSV and Parquet files."""

from __future__ import annotations

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
from typing_extensions import Self

from torchbp._plain import fits
from torchbp.data._cache import Cache
from torchbp.data._columns import CoarseError, Column, ColumnType, Dates, Missing, fit_column
from torchbp.data._csv import Dialect
from torchbp.data._file import FileDataModule
from torchbp.data._fingerprints import Fingerprints, as_digits, fingerprints, from_digits, seen_among
from torchbp.data._leak import SAMPLE, warn_of_leaks
from torchbp.data._memory import GIB
from torchbp.data._schema import Schema
from torchbp.data._split import PARTS, draw_split, parts_named, sizes_drawn
from torchbp.data._table import Table, TableInMemory, read, refuse_unknown, stream
from torchbp.data._target import MissingTarget, RareClasses, Target, fit_target
from torchbp.data._threads import num_threads
from torchbp.data._written import Mark
from torchbp.data.base import BatchSize, Split
from torchbp.data.rows import Rows, where, with_target
from torchbp.data.values import clean, listed
from torchbp.tasks import Task

NULL_VALUES = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "?")
DROPPED = 255  # the part of rows that are in no split


class TabularDataModule(FileDataModule):
    """The rows of a CSV or Parquet file, encoded as numbers; the encoding is fitted to the training split.

    Numbers become float32, with their median subtracted first if float32's seven digits would lose their differences
    (:attr:`offsets`); booleans become 0 and 1, categories one-hot, dates days. Column types are inferred: constant columns,
    columns without a value, row numbers and texts that nearly all differ (identifiers) are ignored; numbers that begin with 0,
    such as 01234, are categories. A checkpoint holds the encoding and the classes: rows of another file, with or without the
    target, are encoded in the same way.

    Args:
        path: the file, ``.csv``, ``.tsv`` or ``.parquet``. The first line of a CSV file names its columns.
        target: the target column, or several: columns of 0 and 1 for ``multilabel``, of numbers for ``regression``. Booleans
            ignore case: Yes and yes are one class.
        task: the task. Inferred if None: two distinct values are ``binary``; a few integers (20 at most) or texts are
            ``multiclass``; other numbers are ``regression``; several targets of 0 and 1 are ``multilabel``.
        positive: of two classes, the one whose probability is predicted, and that F1, precision and recall are about; None for
            1, true or yes, else the rarer.
        missing_target: how to handle rows without a target: ``refuse`` is an error, ``drop`` leaves them out.
        rare_classes: how to handle classes with too few rows for each part of the split: ``refuse`` is an error, ``drop``
            leaves their rows out, ``merge`` makes them one class, ``other``.
        types: column types that are not to be inferred: ``numeric``, ``boolean``, ``categorical``, ``date`` or ``ignored``.
        dates: how to encode a date: ``ordinal`` as days since 1970, with the time as a fraction; ``cyclic`` adds sine and
            cosine of its place in the year, in the week and, if there are times, in the day.
        missing: how to handle a missing value: ``impute`` takes the training rows' median, or their most frequent value if the
            column is neither numeric nor a date; ``indicator`` adds a feature that marks it; ``refuse`` is an error.
        ignore: columns not to use; it overrides ``types``.
        split: a column that names each row's part, ``train``, ``val`` or ``test``; it replaces the random split.
        val_path: a file of rows to validate on, instead of a part of ``path``.
        test_path: a file of rows to test on, instead of a part of ``path``.
        val_size, test_size: the shares of all rows held out for validation and test; 0.2 if there is no ``split`` and no file
            for that part.
        batch_size, standardize, seed: as for :class:`RowsDataModule`.
        max_categories: the most features for the categories of a column. Rarer categories and those that training did not see
            share the last one; if there are no rarer ones, an unseen category is 0 in every feature.
        null_values: the texts that stand for a missing value, besides ``nan``.
        separator: the character between the values of a CSV file, or ``tab``; None for a comma, or a tab in ``.tsv``.
        decimal: the decimal mark in texts, ``.`` or ``,``; None to infer it from the file's numbers. The other mark may
            separate thousands. Currencies and per cent are read too ($1,234.50, 45% for 0.45).
        encoding: a CSV file's encoding, such as ``cp1252`` or ``utf-16``; None for UTF-8.
        memory: GiB up to which a CSV file, or features and targets, are held in memory. Larger ones are converted once to files
            in ``cache_dir`` and read from there, so that a table may be larger than memory.
        cache_dir: the folder of these files. They are kept for the next run of the same user on the same content.
        keep_cache: False removes them at the end of each run, when no other run uses them.

    Raises:
        ValueError: an argument is outside its range; when the rows are first needed, the file or a column cannot be read or
            learned from.
        FileNotFoundError: when the rows are first needed, the file does not exist.
    """

    def __init__(
        self,
        path: str | Path,
        target: list[str] | str | None,
        task: Task | None = None,
        positive: str | None = None,
        missing_target: MissingTarget = "refuse",
        rare_classes: RareClasses = "refuse",
        types: dict[str, ColumnType] | None = None,
        missing: Missing = "impute",
        ignore: Sequence[str] = (),
        dates: Dates = "ordinal",
        split: str | None = None,
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        batch_size: BatchSize = 32,
        val_size: float | None = None,
        test_size: float | None = None,
        standardize: bool = True,
        seed: int = 0,
        max_categories: int = 250,
        null_values: Sequence[str] = NULL_VALUES,
        separator: str | None = None,
        decimal: Mark | None = None,
        encoding: str | None = None,
        memory: float = 1.0,
        cache_dir: str | Path = "logs/cache",
        keep_cache: bool = True,
    ) -> None:
        # Plain values, because they are saved with the checkpoint.
        path, types, ignore, null_values = str(path), dict(types or {}), list(ignore), list(null_values)
        val_path, test_path = (None if other is None else str(other) for other in (val_path, test_path))
        cache_dir = str(cache_dir)
        val_size, test_size = sizes_drawn(val_size, test_size, val_path, test_path, split)
        super().__init__(path, val_path, test_path, task, batch_size, val_size, test_size, standardize, seed)
        for option, value, allowed in (
            ("missing", missing, Missing),
            ("missing_target", missing_target, MissingTarget),
            ("rare_classes", rare_classes, RareClasses),
            ("dates", dates, Dates),
        ):
            if value not in get_args(allowed):
                raise ValueError(f"{option} is {value!r}; it must be one of {', '.join(get_args(allowed))}")
        if max_categories < 2:
            raise ValueError(f"max_categories is {max_categories}; it must be at least 2")
        if not memory >= 0:
            raise ValueError(f"memory is {memory}; it must be 0 GiB or more")
        if split is not None and (val_path or test_path):
            raise ValueError(f"split is {split!r}; with a column that names the parts there can be no val_path or test_path")
        self.targets = [target] if isinstance(target, str) else list(target or ())
        self.types: dict[str, ColumnType] = {**types, **dict.fromkeys(ignore, "ignored")}
        self.missing, self.max_categories = missing, max_categories
        self.split, self.dialect = split, Dialect(separator, decimal, encoding)
        self.positive, self.missing_target, self.rare_classes, self.dates = positive, missing_target, rare_classes, dates
        self.memory, self.keep_cache = memory, keep_cache
        self._cache = Cache(Path(cache_dir), keep_cache)
        self._null_values = null_values
        self._exact: set[str] = set()  # columns that need float64
        self._schema: Schema | None = None
        self._trained_on: str | None = None  # fingerprints of the rows trained on, in hexadecimal digits
        self._trained_before: Tensor | None = None  # the fingerprints in a checkpoint
        for name, type in self.types.items():
            if type not in get_args(ColumnType):
                raise ValueError(f"types has {type!r} for {name!r}; it must be one of {', '.join(get_args(ColumnType))}")
        if target is None:
            raise ValueError("target is null; it must name one or more columns; for a column called null use '[\"null\"]'")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target is {target!r}; it must name at least one column, each once")
        for what, names in (("types or ignore", self.types), ("split", [split])):
            if clash := [name for name in self.targets if name in names]:
                raise ValueError(f"column {clash[0]!r} is the target; it cannot be in {what} too")

    @property
    def schema(self) -> Schema:
        """How the columns are encoded; fitted when first needed, unless a checkpoint has it."""
        if self._schema is None:
            _ = self.rows
        assert self._schema is not None
        return self._schema

    @property
    def fitted_target(self) -> Target:  # type: ignore[override]
        return self.schema.target

    @property
    def feature_names(self) -> list[str]:  # type: ignore[override]
        return self.schema.feature_names

    @property
    def has_validation(self) -> bool:
        if self.split:
            return bool((self.part_of() == PARTS.index("val")).any())  # type: ignore[union-attr]
        return super().has_validation

    @property
    def offsets(self) -> list[float]:
        """What was subtracted from each column of x in float64; 0 unless float32 would lose digits."""
        return self.schema.offsets

    def load(self) -> Rows:
        while True:
            table = self._read(self.path)
            try:
                rows = self._load(table)
            except CoarseError as found:  # in rows that types were not inferred from
                self._exact.update(found.names)
            else:
                table.warn()
                return rows

    def _load(self, table: Table) -> Rows:
        decimals = self._schema.decimals if self._schema else {}
        targets = {name: self._cleaned(table, name, decimals) for name in self.targets}
        self._part_of = parts_named(clean(table.column(self.split), self._null_values)) if self.split else None
        dropped = None
        if (self._schema.target.missing if self._schema else self.missing_target) == "drop":
            dropped = pl.Series(np.logical_or.reduce([values.is_null().to_numpy() for values in targets.values()]))
        # A split by seed is stratified over all rows, so each class has training rows.
        train = self._training_rows(table, dropped)
        target = self._schema.target if self._schema else self._fit_target(targets, train)
        if target.classes and target.drops:
            dropped = pl.Series(target.codes(targets) < 0)
        if not self.split:
            self._part_of = self._draw(target, targets, dropped)
        if dropped is not None and self._part_of is not None:
            self._part_of[dropped.to_numpy()] = DROPPED
        if self._schema is None:
            return self._fitted(table, target, decimals, dropped)
        rows = self._schema.rows(table, self.memory * GIB, self._cache)
        if self._part_of is None:  # the whole file is tested or validated
            self._schema.warn_of_unseen()
        return rows

    def with_parts(self, part_of: Tensor | None, fewest: int = 1) -> Self:
        data = super().with_parts(part_of, fewest)
        data._rows, data._schema, data._part_of, data._exact = None, None, None, set(self._exact)
        data.split, data.other_paths, data._others = None, {"val": None, "test": None}, {}
        return data

    def column(self, name: str) -> pl.Series:
        """A column's values in all rows of the file, null where one is missing.

        Raises:
            ValueError: there is no such column.
        """
        table = self._read(self.path)
        refuse_unknown(self.path, [name], [*table.schema])
        return self._cleaned(table, name, dict(self._schema.decimals) if self._schema else {})

    def split_rows(self, name: Split) -> Rows:
        path, schema = self.other_paths.get(name), self.schema
        if path is None:
            rows = super().split_rows(name)
            if name == "predict" or self._part_of is not None or not schema.target.drops:
                return rows
            path = str(self.path)  # every split is the whole file, without dropped rows
        else:
            rows = None
        if name not in self._others:
            if rows is None:
                table = self._read(Path(path))
                rows = schema.rows(table, self.memory * GIB, self._cache)
                table.warn()
                schema.warn_of_unseen()
            self._others[name] = with_target(rows) if schema.target.drops else rows
        return self._others[name]

    def split_numbers(self, name: Split) -> Tensor:
        numbers = super().split_numbers(name)
        if self._part_of is None and name != "predict" and self.schema.target.drops:
            (y,) = self.rows.only(1).all()
            return where(~y[:, 0].isnan())
        return numbers

    def predict_dataloader(self) -> Iterable[tuple[Tensor, pl.DataFrame]]:  # type: ignore[override]
        """The rows of ``path``, part by part: x (B, num_features), and the columns that are neither feature nor target.

        The file is read part by part, and needs no target.
        """
        return _PartsToPredict(self)

    def _read(self, path: Path) -> Table:
        exact = [*self.targets, *self._exact, *(name for name, type in self.types.items() if type == "categorical")]
        wanted, texts = [*self.targets, *self.types], []
        if self._schema is not None:
            exact, texts, wanted = self._schema.exact, self._schema.texts, [*self._schema.used, *self.targets]
        table = read(path, self.dialect, self._null_values, exact, texts, self.memory * GIB, self._cache)
        refuse_unknown(path, [*wanted, *([self.split] if self.split else [])], [*table.schema])
        return table

    def _cleaned(self, table: Table, name: str, decimals: dict[str, Mark]) -> pl.Series:
        """A column's cleaned values; before the schema is fitted, adds the column's decimal mark to ``decimals``."""
        values = table.column(name)
        if self._schema is None and values.dtype == pl.String and self.types.get(name) in (None, "numeric"):
            mark = self.dialect.decimal_of(clean(values, self._null_values).drop_nulls(), table.file)
            if mark is not None:
                decimals[name] = mark
        return clean(values, self._null_values, decimals.get(name))

    def _training_rows(self, table: Table, dropped: pl.Series | None) -> pl.Series:
        """Whether each row is a training row; all kept rows are, before the split is drawn."""
        part_of = torch.zeros(len(table)) if self._part_of is None else self._part_of
        train = pl.Series((part_of == 0).numpy())
        return train if dropped is None else train & ~dropped

    def _fit_target(self, targets: Mapping[str, pl.Series], train: pl.Series) -> Target:
        fewest = 1 if self.split else 1 + (self.val_size > 0) + (self.test_size > 0)
        fewest = self._given_split[1] if self._given_split else fewest
        return fit_target(
            targets, self.targets, self._given_task, train, self.positive, self.missing_target, self.rare_classes, fewest
        )

    def _draw(self, target: Target, targets: Mapping[str, pl.Series], dropped: pl.Series | None) -> Tensor | None:
        """Each row's part, as :meth:`part_of` returns it, drawn by the seed."""
        length = len(targets[self.targets[0]])
        if self._given_split:
            return None if self._given_split[0] is None else self._given_split[0].clone()
        if self.val_size == self.test_size == 0:  # each split is the whole set, or another file
            return torch.zeros(length, dtype=torch.uint8) if any(self.other_paths.values()) else None
        codes = target.codes(targets) if target.classes else np.zeros(length, np.uint8)
        kept = slice(None) if dropped is None else ~dropped.to_numpy()
        result = torch.full((length,), DROPPED, dtype=torch.uint8)
        sizes = (self.val_size, self.test_size)
        try:
            result[kept] = draw_split(torch.from_numpy(codes[kept]), sizes, self.seed, target.class_names)
        except ValueError as error:
            options = "; --data.rare_classes drop leaves out the rows of rare classes, merge makes these one class"
            if self._given_task is None and target.classes and not isinstance(target.classes[0], str):
                options += "; if the target is a quantity, set --data.task regression"
            raise ValueError(f"{error}{options if target.classes else ''}") from None
        return result

    def _fitted(self, table: Table, target: Target, decimals: dict[str, Mark], dropped: pl.Series | None) -> Rows:
        """Fit the schema to the training rows; return all rows, encoded."""
        train = self._training_rows(table, dropped)
        columns = self._fit(table, train, decimals, dropped)
        self._schema = Schema(target, columns, self._null_values, dict(sorted(decimals.items())))
        rows = self._schema.rows(table, self.memory * GIB, self._cache)
        self._schema.unseen.clear()  # held-out rows of the same file: no warning
        training = rows.part(train.arg_true().to_torch())
        x, y = training.take(training.order(torch.Generator().manual_seed(0))[:SAMPLE])
        rank_zero_only(warn_of_leaks)(x, y, target.task, self._schema.columns, self.targets)
        return rows

    def _fit(self, table: Table, train: pl.Series, decimals: dict[str, Mark], dropped: pl.Series | None) -> list[Column]:
        coarse = set[str]()

        def fit(name: str) -> Column:
            if name == self.split:
                return Column(name, "ignored", "names the split")
            if self.types.get(name) == "ignored":
                return Column(name, "ignored", "as requested")
            values = self._cleaned(table, name, decimals)
            if dropped is not None:
                values = values.set(dropped, None)
            try:
                return fit_column(values, train, self.types.get(name), self.missing, self.max_categories, self.dates)
            except CoarseError:
                coarse.add(name)
                return Column(name, "numeric", "")

        # In parallel, but one column at a time if the table may not fit into memory.
        with ThreadPoolExecutor(num_threads() if isinstance(table, TableInMemory) else 1) as threads:
            columns = list(threads.map(fit, [name for name in table.schema if name not in self.targets]))
        if coarse:
            raise CoarseError(coarse)
        if all(column.type == "ignored" for column in columns):
            why = ", ".join(f"{column.name!r} ({column.seen})" for column in columns[:5]) or "there is none besides the target"
            raise ValueError(f"{self.path} has no column to learn from; ignored: {why}; set --data.types to use a column")
        return columns

    def teardown(self, stage: str) -> None:
        if not self.keep_cache:
            self._cache.leave()
            self._rows, self._parts, self._others = None, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """The schema, and fingerprints of the rows trained on, as plain values; empty before the schema is fitted."""
        if self._schema is None:
            return {}
        if self._trained_on is None:
            rows = [fingerprints(self.split_rows("train")), *([] if self._trained_before is None else [self._trained_before])]
            self._trained_on = as_digits(torch.cat(rows))
        return {**self._schema.state_dict(), "trained_on": self._trained_on}

    def seen_in_training(self, name: Split) -> tuple[int, int] | None:
        """How many rows of a split are equal, in all columns used, to rows that a checkpoint was trained on.

        Returns:
            That number, and the number of rows that were compared: all of them, or a sample if there were more than 32,768
            different training rows. None if no checkpoint was loaded.
        """
        if self._trained_before is None:
            return None
        return seen_among(self.split_rows(name), self._trained_before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Use the encoding of the run that saved this state; it overrides settings such as ``types`` and ``missing``.

        Raises:
            ValueError: that run had another target or task.
        """
        state_dict = dict(state_dict)
        if not fits(trained_on := state_dict.pop("trained_on", ""), Fingerprints):
            raise ValueError("the checkpoint is damaged: its trained_on holds no fingerprints of rows")
        schema = Schema.from_state_dict(state_dict)
        if schema.target.names != self.targets:
            raise ValueError(f"the checkpoint's target is {listed(schema.target.names)}, here it is {listed(self.targets)}")
        if self._given_task not in (None, schema.target.task):
            raise ValueError(f"the checkpoint's task is {schema.target.task}, here it is {self._given_task}")
        if self.missing_target == "drop":
            schema.target.missing = "drop"
        if decimal := self.dialect.decimal:  # given for this file
            numbers = [column.name for column in schema.columns if column.type == "numeric"]
            numbers += schema.target.names if schema.target.task == "regression" else []
            schema.decimals = dict.fromkeys(sorted({*numbers, *schema.decimals}), decimal)
        if schema != self._schema:
            self._rows, self._parts, self._others = None, {}, {}
            self._schema, self._null_values = schema, schema.null_values
        self._trained_before, self._trained_on = from_digits(trained_on) if trained_on else None, None

    def schema_table(self) -> RichTable:
        """The columns, their types and the training rows' values, as a table for rich to print."""
        rows = self.rows
        left_out = 0 if self._part_of is None else int((self._part_of == DROPPED).sum())
        if self._part_of is None and self.schema.target.drops:
            left_out = len(rows) - len(with_target(rows))
        return self.schema.as_table(self.path, left_out)


class _PartsToPredict:
    """A data module's rows to predict, read anew for each iteration."""

    def __init__(self, data: TabularDataModule) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[Tensor, pl.DataFrame]]:
        data, schema, first = self._data, self._data.schema, 0
        used = {*schema.used, *schema.target.names}
        for part in stream(data.path, data.dialect, schema.used):
            rest = part.select(pl.selectors.by_name(*(name for name in part.columns if name not in used)))
            yield torch.from_numpy(schema.x(part, first)), rest
            first += len(part)
        schema.warn_of_unseen()
