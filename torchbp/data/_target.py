"""From the columns of a table that are to be learned to y, by what was seen of them in the training rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from torchbp.data._values import (
    booleans,
    codes,
    counted,
    is_boolean,
    label,
    listed,
    numbers,
    refuse_gap,
    refuse_unsupported,
    shown,
    text_of_target,
    truth_as_text,
)
from torchbp.tasks import Task

FEW_INTEGERS, FEW_TEXTS = 20, 1000  # up to so many distinct values are taken for classes


@dataclass
class Target:
    """How the target's columns become y.

    Args:
        names: the columns'.
        task: what is learned.
        classes: of ``binary`` and ``multiclass``, sorted: numbers where all are, else texts.
    """

    names: list[str]
    task: Task
    classes: Sequence[float | str] = ()

    @property
    def class_names(self) -> list[str]:
        return self.names if self.task == "multilabel" else [label(value) for value in self.classes]

    @property
    def num_outputs(self) -> int:
        return len(self.classes) if self.task == "multiclass" else len(self.names)

    def codes(self, table: Mapping[str, pl.Series], first: int = 0) -> np.ndarray:
        """The number of each row's class, (N), for ``binary`` and ``multiclass``; ``first`` rows of the table came before.

        Raises:
            ValueError: a missing value, or one of a class that was not there when the classes were named.
        """
        values = table[self.names[0]]
        refuse_unsupported(values)
        refuse_gap(values, first)
        code = codes((text_of_target if isinstance(self.classes[0], str) else truth_as_text)(values), self.classes)
        if (code < 0).any():
            row = int((code < 0).argmax())
            raise ValueError(
                f"the target {self.names[0]!r} holds {shown(values[row])} in row {first + row + 1}; "
                f"the classes are {listed(self.classes)}"
            )
        return code

    def encode(self, table: Mapping[str, pl.Series], first: int = 0) -> np.ndarray:
        """y (N, num_outputs): a class's number for ``binary``, one column a class for ``multiclass``, else one a target.

        Raises:
            ValueError: as for :meth:`codes`; a value that is no number, or no truth.
        """
        if self.classes:
            code = self.codes(table, first)
            return (code[:, None] if self.task == "binary" else code[:, None] == np.arange(len(self.classes))).astype("f4")
        convert, columns = booleans if self.task == "multilabel" else numbers, []
        for values in (table[name] for name in self.names):
            refuse_unsupported(values)
            refuse_gap(values, first)
            columns.append(convert(values, f"the target {values.name!r}", first))
        return np.column_stack(columns).astype(np.float32)


def fit_target(table: Mapping[str, pl.Series], names: list[str], task: Task | None, train: pl.Series) -> Target:
    """The task and the classes that the target's values in the training rows stand for.

    Args:
        table: the target's columns, of all rows; each needs a value in all of them.
        names: the columns'.
        task: where it is given, not inferred.
        train: whether each row is one to train on.

    Raises:
        ValueError: values that do not suit the task, or of which none can be learned.
    """
    known = {}
    for name in names:
        refuse_unsupported(table[name])
        refuse_gap(table[name])
        known[name] = truth_as_text(table[name].filter(train))
        if known[name].min() == known[name].max():
            raise ValueError(
                f"the target {name!r} has a single class, {shown(known[name][0])}; there is nothing to tell apart, "
                "at least two are needed"
            )
    if len(names) > 1 or task == "multilabel":
        if task in ("binary", "multiclass"):
            raise ValueError(f"task {task} has one target column, not {len(names)}: {listed(names)}")
        labels = all(is_boolean(known[name]) for name in names)
        return Target(names, task or ("multilabel" if labels else "regression"))
    values = known[names[0]]
    distinct = values.unique()
    task = task or infer_task(values, distinct, table[names[0]])
    if values.dtype == pl.Float64:
        numbers(values, f"the target {names[0]!r}")
    if task == "regression":
        return Target(names, task)
    classes = sorted(distinct.to_list())
    if task == "binary" and len(classes) != 2:
        some = counted(len(classes), "class", "classes")
        raise ValueError(f"the target {names[0]!r} has {some}, {listed(classes)}; task binary has two")
    return Target(names, task, classes)


def infer_task(values: pl.Series, distinct: pl.Series, of_all_rows: pl.Series) -> Task:
    """Two distinct values are classes, and so are a few integers or texts; other numbers are a quantity."""
    text = values.dtype == pl.String
    if len(distinct) == 2:
        return "binary"
    whole = text or bool((distinct == distinct.round()).all())
    if whole and len(distinct) <= min(FEW_TEXTS if text else FEW_INTEGERS, len(values) / 2):
        return "multiclass"
    if text:
        some = values.filter(values.cast(pl.Float64, strict=False).is_null())[0]
        row = (of_all_rows == some).arg_true()[0]
        raise ValueError(
            f"the target {values.name!r} has {len(distinct)} distinct texts in {len(values)} rows, {shown(some)} in row "
            f"{row + 1} among them: neither numbers nor classes; if they are classes, say task='multiclass'"
        )
    return "regression"
