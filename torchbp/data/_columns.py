"""From the columns of a table to features, by what was seen of each column in the training rows."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from torchbp.data._values import (
    as_categories,
    booleans,
    by_frequency,
    codes,
    counted,
    label,
    listed,
    natural,
    no_numbers,
    numbers,
    refuse_unsupported,
    shown,
    unsupported,
)

ColumnType = Literal["numeric", "boolean", "categorical", "ignored"]
Missing = Literal["impute", "indicator", "refuse"]

NUMBERS = 0.9  # text with a larger share of numbers, many of them different, is numbers with mistakes among them
IDENTIFIER = 0.9  # text with a larger share of distinct values tells rows apart, not kinds of rows
FEW_NUMBERS = 20  # so many distinct numbers beside texts may be names


@dataclass
class Column:
    """How one column becomes features. Everything here was seen in the training rows, and is a plain Python value.

    Args:
        name, type: the column's.
        seen: what the training rows hold, or why the column is ignored, in words.
        missing: the share of the training rows that have no value.
        fill: what stands for a missing value; None where one is refused. A boolean's is 0 or 1.
        categories: what a categorical column's features stand for, sorted: numbers where all of its values are, else texts.
        other: whether rare and unseen categories share one more feature; without it an unseen one is 0 in every feature.
        indicator: whether a last feature says that the value is missing.
    """

    name: str
    type: ColumnType
    seen: str
    missing: float = 0.0
    fill: float | str | None = None
    categories: Sequence[float | str] = ()
    other: bool = False
    indicator: bool = False

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        if self.type == "ignored":
            return []
        names = [self.name]
        if self.type == "categorical":
            names = [f"{self.name}={label(category)}" for category in self.categories] + [f"{self.name}=other"] * self.other
        return names + [f"{self.name} missing"] * self.indicator

    def encode(self, values: pl.Series, out: np.ndarray, first: int = 0) -> None:
        """Write the features of values that :func:`clean` gave.

        Args:
            values: (N); ``first`` rows of the table came before.
            out: (N, len(features)), to be written to.

        Raises:
            ValueError: text or infinity where numbers are expected, a missing value that is to be refused.
        """
        refuse_unsupported(values)
        if self.type == "numeric":
            values = numbers(values, f"the numeric column {self.name!r}", first)
        elif self.type == "boolean":
            values = booleans(values, f"the boolean column {self.name!r}", first)
        missing = values.is_null().to_numpy() if values.null_count() else np.False_
        if self.fill is None and missing.any():
            row = first + missing.argmax() + 1
            raise ValueError(f"column {self.name!r} has no value in row {row}; missing='refuse' allows no gap")
        if self.type == "categorical":
            code = codes(values, self.categories)
            if self.fill is not None:
                code[missing] = self.categories.index(self.fill)
            count = len(self.categories)
            out[:, :count] = code[:, None] == np.arange(count)
            if self.other:
                out[:, count] = code < 0
        else:
            out[:, 0] = (values.fill_null(self.fill) if missing.any() else values).to_numpy()
        if self.indicator:
            out[:, -1] = missing


def fit_column(values: pl.Series, train: pl.Series, type: ColumnType | None, missing: Missing, max_categories: int) -> Column:
    """What the training rows say of a column.

    Args:
        values: the column's values, of all rows, as :func:`clean` gave them.
        train: whether each row is one to train on.
        type: the column's type where it is given, not inferred.
        missing, max_categories: as for :class:`torchbp.data.TabularDataModule`.

    Raises:
        ValueError: values that do not suit the type given.
    """
    name, known = values.name, values.filter(train).drop_nulls()
    share = 1 - len(known) / int(train.sum())
    inferred, seen = infer(known, train)
    if type is None and (inferred == "numeric" or mostly_numbers(values)):
        refuse_texts(values)
    column = Column(name, type or inferred, seen, share, indicator=missing == "indicator" and share > 0)
    if column.type == "ignored":
        return Column(name, "ignored", seen if type is None else "as told", share)
    refuse_unsupported(values)
    if share == 1:
        raise ValueError(f"column {name!r} has no value in the training rows; it can only be 'ignored', not {type!r}")
    fill: float | str
    if column.type == "numeric":
        numbers(values, f"the numeric column {name!r}")  # also where they are not to train on
        # As features have them, so that all formats of a file have the same median.
        quantities = numbers(known, name).cast(pl.Float32)
        # The median: by this name two threads may take it at once. Of a column in pieces it takes ten times as long.
        fill = quantities.rechunk().quantile(0.5, "linear")
        column.seen = f"{quantities.min():g} to {quantities.max():g}, median {fill:g}"
    elif column.type == "boolean":
        booleans(values, f"the boolean column {name!r}")
        known = booleans(known, name)
        fill = by_frequency(known)[0]
        column.seen = f"{known.sum() / len(known):.0%} true"
    else:
        ordered = by_frequency(as_categories(known))
        fill = ordered[0]
        column.other = len(ordered) > max_categories
        column.categories = sorted(ordered[: max_categories - 1] if column.other else ordered)
        column.seen = f"{counted(len(ordered), 'category', 'categories')}: {listed(ordered, 5)}"
    column.fill = None if missing == "refuse" else fill
    return column


def infer(known: pl.Series, train: pl.Series) -> tuple[ColumnType, str]:
    """The type that a column's values suggest, and where that is ``ignored``, why.

    Args:
        known: those to train on that are not missing.
        train: whether each row is one to train on.
    """
    if unsupported(known.dtype):
        return "ignored", f"{known.dtype} is not supported"
    present = natural(known)
    if present.is_empty():
        return "ignored", "no value"
    if present.min() == present.max():
        return "ignored", f"constant: {shown(present[0])}"
    if present.dtype.is_float():
        return ("ignored", "counts the rows") if _counts(present, train) else ("numeric", "")
    if present.dtype == pl.Boolean:
        return "boolean", ""
    if (distinct := present.n_unique() / len(present)) > IDENTIFIER:
        return "ignored", f"identifier: {distinct:.0%} distinct"
    return "categorical", ""


def mostly_numbers(values: pl.Series) -> bool:
    """Whether the values are numbers but for a few texts. A few distinct numbers beside texts may be categories."""
    if values.dtype != pl.String:
        return False
    found = values.cast(pl.Float64, strict=False).drop_nulls()
    many = min(FEW_NUMBERS, IDENTIFIER * len(found))
    return len(found) >= NUMBERS * (len(values) - values.null_count()) and found.n_unique() > many


def refuse_texts(values: pl.Series) -> None:
    """Refuse texts in a column of numbers, which would be taken for categories or for identifiers.

    Raises:
        ValueError: there is one; how to say what it is.
    """
    if values.dtype == pl.String and (bad := no_numbers(values)).any():
        row = bad.arg_true()[0]
        kind = json.dumps({values.name: "categorical"}, ensure_ascii=False)
        raise ValueError(
            f"column {values.name!r} holds {shown(values[row])} in row {row + 1} and is else of numbers; if that is a missing "
            f"value, say {shlex.quote('--data.null_values+=' + values[row])}; if they are names, --data.types '{kind}'"
        )


def _counts(known: pl.Series, train: pl.Series) -> bool:
    """Whether the values are the rows' numbers, from 0 or from 1."""
    if len(known) < 10 or not known[0].is_integer() or len(known) != train.sum():
        return False
    rows = train.arg_true()
    start = int(known[0]) - rows[0]
    return start in (0, 1) and bool((known == (rows + start).cast(known.dtype)).all())
