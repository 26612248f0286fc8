"""Makes y from the target columns of a table, with task and classes fitted to the training rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from lightning.pytorch.utilities import rank_zero_only

from torchbp.data._memory import refuse_one_hot
from torchbp.data.values import (
    TRUTHS,
    are_truths,
    as_categories,
    as_text,
    booleans,
    by_frequency,
    codes,
    counted,
    counted_values,
    is_boolean,
    label,
    listed,
    needs_float64,
    not_numeric,
    numbers,
    refuse_unsupported,
    shown,
)
from torchbp.tasks import Task

FEW_INTEGERS, FEW_TEXTS = 20, 1000  # maximum distinct values that are taken for classes
OTHER = "other"

MissingTarget = Literal["refuse", "drop"]
RareClasses = Literal["refuse", "drop", "merge"]


@dataclass
class Target:
    """How the target's columns become y.

    Args:
        names: the names of the columns.
        task: the task.
        classes: for ``binary`` and ``multiclass``: numbers if all are numbers, else texts; sorted, but for ``binary`` the
            positive one is last.
        offsets: for ``regression``, what is subtracted from each target in float64, before it becomes y in float32.
        missing: a row without a value is an error (``refuse``), or in no split (``drop``).
        rare: a row of another class is an error (``refuse``), in no split (``drop``), or of the last class, ``other``
            (``merge``).
    """

    names: list[str]
    task: Task
    classes: Sequence[float | str] = ()
    offsets: Sequence[float] = ()
    missing: MissingTarget = "refuse"
    rare: RareClasses = "refuse"

    @property
    def class_names(self) -> list[str]:
        return self.names if self.task == "multilabel" else [label(value) for value in self.classes]

    @property
    def num_outputs(self) -> int:
        return len(self.classes) if self.task == "multiclass" else len(self.names)

    @property
    def drops(self) -> bool:
        """Whether rows may be dropped, that is be in no split."""
        return self.missing == "drop" or self.rare == "drop"

    def codes(self, table: Mapping[str, pl.Series], first: int = 0) -> np.ndarray:
        """The index of each row's class, (N), -1 for a dropped row; ``first`` rows of the table came before.

        Raises:
            ValueError: a value is missing, or is not among ``classes``.
        """
        values = table[self.names[0]]
        refuse_unsupported(values)
        if self.missing == "refuse":
            refuse_gap(values, first)
        code = codes(as_text(values) if isinstance(self.classes[0], str) else as_categories(values), self.classes)
        if self.rare == "merge":
            code[(code < 0) & values.is_not_null().to_numpy()] = len(self.classes) - 1
        elif self.rare == "refuse" and (bad := (code < 0) & values.is_not_null().to_numpy()).any():
            row = int(bad.argmax())
            raise ValueError(
                f"the target {self.names[0]!r} holds {shown(values[row])} in row {first + row + 1}; "
                f"the classes are {listed(self.classes)}"
            )
        return code

    def encode(self, table: Mapping[str, pl.Series], first: int = 0) -> np.ndarray:
        """y (N, num_outputs): 0 or 1 for ``binary``, one column per class for ``multiclass``, else one per target.

        It is NaN in dropped rows.

        Raises:
            ValueError: as for :meth:`codes`; or a value is not a number, or not a boolean.
        """
        if self.classes:
            code = self.codes(table, first)
            refuse_one_hot(len(code), len(self.classes))
            y = (code[:, None] if self.task == "binary" else code[:, None] == np.arange(len(self.classes))).astype("f4")
            y[code < 0] = np.nan
            return y
        convert, columns = booleans if self.task == "multilabel" else numbers, []
        for number, values in enumerate(table[name] for name in self.names):
            refuse_unsupported(values)
            if self.missing == "refuse":
                refuse_gap(values, first)
            column = convert(values, f"the target {values.name!r}", first)
            columns.append(column - self.offsets[number] if self.offsets else column)
        y = np.column_stack([column.to_numpy() for column in columns]).astype(np.float32)
        y[np.isnan(y).any(1)] = np.nan
        return y


def fit_target(
    table: Mapping[str, pl.Series],
    names: list[str],
    task: Task | None,
    train: pl.Series,
    positive: str | None = None,
    missing: MissingTarget = "refuse",
    rare: RareClasses = "refuse",
    fewest: int = 1,
) -> Target:
    """Fit the task and the classes to the target's values in the training rows.

    Args:
        table: the target's columns, with all rows.
        names: the names of the columns.
        task: the task; None to infer it.
        train: whether each row is a training row.
        positive: the positive one of two classes; None for true, yes or 1, else the rarer.
        missing, rare: as for :class:`Target`.
        fewest: a class with fewer rows is rare.

    Raises:
        ValueError: the values do not fit the task, or there is nothing to learn.
    """
    known = {name: _known_values(name, table[name], train, missing) for name in names}
    values = known[names[0]]
    if len(names) > 1 or task == "multilabel":
        if task in ("binary", "multiclass"):
            raise ValueError(f"task {task} needs one target column, not {len(names)}: {listed(names)}")
        labels = all(is_boolean(known[name]) for name in names)
        target = Target(names, task or ("multilabel" if labels else "regression"), missing=missing)
    else:
        target = Target(names, task or infer_task(values, table[names[0]]), missing=missing)
    if target.task in ("binary", "multiclass"):
        if values.dtype == pl.Float64:
            numbers(values, f"the target {names[0]!r}")
        counts = counted_values(values)
        target.classes, target.rare = without_rare(counts, rare, fewest)
        if len(target.classes) < 2:
            raise ValueError(f"the target {names[0]!r} has fewer than two classes of {fewest} rows or more; two are needed")
        if task is None and len(target.classes) == 2:
            target.task = "binary"
        if target.task == "binary":
            target.classes = positive_last(target, counts, positive)
    elif target.task == "regression":
        exact = [numbers(values, f"the target {name!r}") for name, values in known.items()]
        offsets = [float(values.mean()) if needs_float64(values) else 0.0 for values in exact]  # type: ignore[arg-type]
        target.offsets = offsets if any(offsets) else ()
    if positive is not None and target.task != "binary":
        raise ValueError(f"positive is {positive!r}; it is for task binary, and the task is {target.task}")
    return target


def _known_values(name: str, values: pl.Series, train: pl.Series, missing: MissingTarget) -> pl.Series:
    """A target's values in the training rows, at least two different ones."""
    refuse_unsupported(values)
    if missing == "refuse":
        refuse_gap(values)
    known = as_categories(in_one_case(values.filter(train).drop_nulls()))
    if known.is_empty():
        raise ValueError(f"the target {name!r} has no value in the training rows; at least two are needed")
    if known.min() == known.max():
        raise ValueError(f"the target {name!r} has a single class, {shown(known[0])}; at least two are needed")
    return known


def without_rare(counts: Mapping[Any, int], rare: RareClasses, fewest: int) -> tuple[list[Any], RareClasses]:
    """The sorted classes, without rare ones or with ``other`` in their place; and how to handle values of other classes."""
    few = [value for value, count in counts.items() if count < fewest]
    if rare == "refuse" or not few:
        return sorted(counts), "drop" if rare == "drop" else "refuse"
    classes = sorted(value for value in counts if value not in few)
    if rare == "drop":
        return classes, rare
    names = [label(value) for value in classes]
    return [*names, OTHER if OTHER not in names else f"{OTHER} classes"], rare


def positive_last(target: Target, counts: Mapping[Any, int], positive: str | None) -> list[Any]:
    """The two classes with the positive one last: the one named, else true, yes or 1, else the rarer.

    Raises:
        ValueError: there are not two classes, or ``positive`` is none of them.
    """
    classes = list(target.classes)
    if len(classes) != 2:
        some = counted(len(classes), "class", "classes")
        raise ValueError(f"the target {target.names[0]!r} has {some}, {listed(classes)}; task binary has two")
    if positive is None:
        if are_truths(classes):
            return sorted(classes, key=str.lower)
        return classes if classes in ([0, 1], [-1, 1]) else sorted(classes, key=lambda value: -counts[value])
    of_name = {label(value): value for value in classes}
    if are_truths(classes) and positive not in of_name:
        of_name, positive = {name.lower(): value for name, value in of_name.items()}, positive.lower()
    if positive not in of_name:
        raise ValueError(f"positive is {positive!r}; the classes of the target {target.names[0]!r} are {listed(classes)}")
    return sorted(classes, key=lambda value: value == of_name[positive])


def infer_task(values: pl.Series, of_all_rows: pl.Series) -> Task:
    """``binary`` for two distinct values, ``multiclass`` for a few integers or texts, ``regression`` for other numbers.

    Raises:
        ValueError: there are too many distinct texts.
    """
    text, distinct = values.dtype == pl.String, values.unique()
    if len(distinct) == 2:
        return "binary"
    whole = text or bool((distinct == distinct.round()).all())
    if whole and len(distinct) <= min(FEW_TEXTS if text else FEW_INTEGERS, len(values) / 2):
        return "multiclass"
    if text:
        bad = not_numeric(values)
        some = values.filter(bad)[0] if bad.any() else values[0]
        row = (as_text(of_all_rows) == some).arg_true()[0]
        raise ValueError(
            f"the target {values.name!r} has {len(distinct)} distinct texts in {len(values)} rows, {shown(some)} in row "
            f"{row + 1} among them: neither numbers nor classes; if they are classes, set --data.task multiclass; if some "
            "stand for a missing target, see --data.null_values and --data.missing_target"
        )
    return "regression"


def refuse_gap(values: pl.Series, first: int = 0) -> None:
    if values.null_count():
        row = values.is_null().arg_true()[0]
        raise ValueError(
            f"the target {values.name!r} has no value in row {first + row + 1}; every row needs one, or set "
            "--data.missing_target drop to leave such rows out"
        )


def in_one_case(values: pl.Series) -> pl.Series:
    """Booleans in text, such as yes, Yes and no, each in its most frequent spelling; other values unchanged.

    Warns of other classes that differ only by case.
    """
    if values.dtype != pl.String:
        return values
    spellings = by_frequency(values)
    usual = {text.lower(): text for text in reversed(spellings)}
    if len(usual) == len(spellings) or len(spellings) > FEW_TEXTS:
        return values
    if {*usual} in TRUTHS:
        return values.replace({text: usual[text.lower()] for text in spellings})
    rare = next(text for text in spellings if usual[text.lower()] != text)
    rank_zero_only(warnings.warn)(
        f"the target {values.name!r} holds {usual[rare.lower()]!r} and {rare!r}, which are read as two classes", stacklevel=2
    )
    return values
