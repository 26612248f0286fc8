"""Makes features from the columns of a table, with types and categories fitted to the training rows."""

from __future__ import annotations

import json
import shlex
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from lightning.pytorch.utilities import rank_zero_only

from torchbp.data._written import DATES, Order, days, moment, moments, order_of
from torchbp.data.values import (
    as_categories,
    as_text,
    begin_with_zero,
    booleans,
    by_frequency,
    codes,
    counted,
    is_date,
    label,
    listed,
    natural,
    needs_float64,
    not_numeric,
    numbers,
    refuse,
    refuse_unsupported,
    shown,
    unsupported,
)

ColumnType = Literal["numeric", "boolean", "categorical", "date", "ignored"]
Missing = Literal["impute", "indicator", "refuse"]
Dates = Literal["ordinal", "cyclic"]
Cycle = Literal["year", "week", "day"]

MISTAKES, SOME = 0.1, 0.5  # a column of numbers with fewer texts than these shares: refuse the texts, or warn of them
CYCLES: dict[Cycle, float] = {"year": 365.2425, "week": 7.0, "day": 1.0}  # days
IDENTIFIER = 0.9  # texts with a larger share of distinct values are identifiers, not categories
FEW_NUMBERS = 20  # up to this many distinct numbers among texts may be names
FEW_TEXTS = 20  # up to this many distinct texts among numbers may stand for missing values


class CoarseError(Exception):
    """Columns that were read as float32 need float64."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(*names)
        self.names = names


@dataclass
class Column:
    """How one column becomes features. All values are fitted to the training rows, and are plain Python values.

    Args:
        name, type: the column's name and type.
        seen: a description of the training rows' values, or why the column is ignored.
        missing: the share of training rows without a value.
        fill: replaces a missing value: 0 or 1 for a boolean, a day for a date; None to refuse missing values.
        categories: the categories that have a feature each, sorted: numbers if all values are numbers, else texts.
        other: whether rare and unseen categories share one more feature; without it an unseen category is 0 in every feature.
        indicator: whether a last feature says that the value is missing.
        offset: subtracted from a number or a day in float64, before it becomes a feature in float32.
        order: the order in which dates are written, see :data:`torchbp.data._written.DATES`.
        cycles: for a date, the cycles with a sine and a cosine as features.
    """

    name: str
    type: ColumnType
    seen: str
    missing: float = 0.0
    fill: float | str | None = None
    categories: Sequence[float | str] = ()
    other: bool = False
    indicator: bool = False
    offset: float = 0.0
    order: Order = ""
    cycles: Sequence[Cycle] = ()

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        if self.type == "ignored":
            return []
        names = [self.name]
        if self.type == "categorical":
            names = [f"{self.name}={label(category)}" for category in self.categories] + [f"{self.name}=other"] * self.other
        names += [f"{self.name} {function} of {cycle}" for cycle in self.cycles for function in ("sine", "cosine")]
        return names + [f"{self.name} missing"] * self.indicator

    def encode(self, values: pl.Series, out: np.ndarray, first: int = 0) -> Counter[str]:
        """Write the features of cleaned values to ``out``.

        Args:
            values: the values from :func:`clean`, (N).
            out: the features, (N, len(features)).
            first: the number of rows of the table before these.

        Returns:
            How often each category occurs that training did not see; empty if these share the feature ``other``.

        Raises:
            ValueError: text or infinity in a column of numbers, or a missing value with ``fill`` None.
        """
        refuse_unsupported(values)
        if is_date(values.dtype) and self.type in ("numeric", "boolean"):
            raise ValueError(f"column {self.name!r} is of type {values.dtype}; it must be {self.type}")
        if self.type == "numeric":
            values = numbers(values, f"the numeric column {self.name!r}", first)
        elif self.type == "date":
            values = dates(values, self.name, self.order, first)
        elif self.type == "boolean":
            values = booleans(values, f"the boolean column {self.name!r}", first)
        missing = values.is_null().to_numpy() if values.null_count() else np.False_
        if self.fill is None and missing.any():
            row = first + missing.argmax() + 1
            raise ValueError(f"column {self.name!r} has no value in row {row}; missing='refuse' allows no missing value")
        unseen = Counter[str]()
        if self.type == "categorical":
            code = codes(values, self.categories)
            if self.fill is not None:
                code[missing] = self.categories.index(self.fill)
            if not self.other and (code < 0).any():
                unseen.update(as_text(values.filter(pl.Series(code < 0))).to_list())
            count = len(self.categories)
            out[:, :count] = code[:, None] == np.arange(count)
            if self.other:
                out[:, count] = code < 0
        else:
            values = values.fill_null(self.fill) if missing.any() else values
            out[:, 0] = values.to_numpy() - self.offset if self.offset else values.to_numpy()
            for number, cycle in enumerate(self.cycles):
                angle = values.to_numpy() * (2 * np.pi / CYCLES[cycle])
                out[:, 2 * number + 1], out[:, 2 * number + 2] = np.sin(angle), np.cos(angle)
        if self.indicator:
            out[:, -1] = missing
        return unseen


def fit_column(
    values: pl.Series,
    train: pl.Series,
    type: ColumnType | None,
    missing: Missing,
    max_categories: int,
    dates_as: Dates = "ordinal",
) -> Column:
    """Fit a column to the training rows.

    Args:
        values: the column's values in all rows, from :func:`clean`.
        train: whether each row is a training row.
        type: the column's type; None to infer it.
        missing, max_categories, dates_as: as for :class:`torchbp.data.TabularDataModule`.

    Raises:
        ValueError: the values do not fit the type given.
        CoarseError: the numbers were read as float32, which loses their differences.
    """
    name, known = values.name, values.filter(train).drop_nulls()
    share = 1 - len(known) / int(train.sum())
    inferred, seen = infer(known, train)
    if type is None and (inferred == "numeric" or share_of_numbers(values) >= 1 - MISTAKES):
        refuse_texts(values)
    elif type is None and share_of_numbers(values) >= SOME:
        warn_of_texts(values)
    column = Column(name, type or inferred, seen, share, indicator=missing == "indicator" and share > 0)
    if column.type == "ignored":
        return Column(name, "ignored", seen if type is None else "as requested", share)
    refuse_unsupported(values)
    if share == 1:
        raise ValueError(f"column {name!r} has no value in the training rows; it can only be 'ignored', not {type!r}")
    if column.type == "numeric":
        numbers(values, f"the numeric column {name!r}")  # check the rows that are not trained on, too
        _fit_quantities(column, numbers(known, name))
    elif column.type == "date":
        if known.dtype == pl.String:
            column.order = order_of(known, 0) or ""
        _fit_dates(column, dates(values, name, column.order).filter(train).drop_nulls(), dates_as == "cyclic")
    elif column.type == "boolean":
        booleans(values, f"the boolean column {name!r}")
        _fit_booleans(column, booleans(known, name))
    else:
        _fit_categories(column, as_categories(known), max_categories)
    if missing == "refuse":
        column.fill = None
    return column


def _fit_booleans(column: Column, known: pl.Series) -> None:
    column.fill = by_frequency(known)[0]
    column.seen = f"{known.sum() / len(known):.0%} true"


def _fit_categories(column: Column, known: pl.Series, max_categories: int) -> None:
    ordered = by_frequency(known)
    column.fill = ordered[0]
    column.other = len(ordered) > max_categories
    column.categories = sorted(ordered[: max_categories - 1] if column.other else ordered)
    column.seen = f"{counted(len(ordered), 'category', 'categories')}: {listed(ordered, 5)}"


def _fit_quantities(column: Column, known: pl.Series) -> None:
    """Fit a column of numbers to the training rows' values."""
    # In float32, as the features are, so that all file formats give the same median.
    quantities = known.cast(pl.Float32)
    if needs_float64(quantities):
        if known.dtype == pl.Float32:
            raise CoarseError([column.name])
        if needs_float64(known):
            quantities = known
    # quantile instead of median, which two threads cannot run at once. In chunks it would take ten times as long.
    column.fill = median = quantities.rechunk().quantile(0.5, "linear")
    digits = "g"
    if quantities.dtype == pl.Float64:
        column.offset, digits = median, ".15g"
    column.seen = f"{quantities.min():{digits}} to {quantities.max():{digits}}, median {median:{digits}}"
    column.seen += ", which is subtracted" * bool(column.offset)


def _fit_dates(column: Column, known: pl.Series, cyclic: bool) -> None:
    """Fit a column of dates to the training rows' days."""
    column.fill = median = known.rechunk().quantile(0.5, "linear")
    column.offset = median if needs_float64(known) else 0.0
    whole = bool((known == known.floor()).all())
    if cyclic:
        column.cycles = [cycle for cycle in CYCLES if cycle != "day" or not whole]
    ends: tuple[Any, Any] = known.min(), known.max()
    first, last = (moment(day)[: 10 if whole else 19] for day in ends)
    column.seen = f"{first} to {last}, in days" + (f", written {column.order}" if column.order else "")


def infer(known: pl.Series, train: pl.Series) -> tuple[ColumnType, str]:
    """The type that a column's values suggest, and the reason if it is ``ignored``.

    Args:
        known: the training rows' values that are not missing.
        train: whether each row is a training row.
    """
    if unsupported(known.dtype):
        return "ignored", f"{known.dtype} is not supported"
    present = natural(known)
    if present.is_empty():
        return "ignored", "no value"
    if present.min() == present.max():
        value = str(present[0]) if is_date(present.dtype) else present[0]
        if present.dtype == pl.Float32:
            value = float(str(np.float32(value)))  # 0.1, not 0.10000000149011612
        return "ignored", f"constant: {shown(value)}"
    if present.dtype.is_float():
        return ("ignored", "counts the rows") if _counts(present, train) else ("numeric", "")
    if present.dtype == pl.Boolean:
        return "boolean", ""
    if is_date(present.dtype) or order_of(present):
        return "date", ""
    if (distinct := present.n_unique() / len(present)) > IDENTIFIER:
        return "ignored", f"identifier: {distinct:.0%} distinct"
    return "categorical", ""


def dates(values: pl.Series, name: str, order: Order, first: int = 0) -> pl.Series:
    """The values as days since 1970-01-01, Float64, null where one is missing.

    Args:
        values: dates, datetimes or texts.
        name: the column's name.
        order: the order in which texts are written; empty if the training rows had no texts.
        first: the number of rows of the table before these.

    Raises:
        ValueError: a value is not a date, or is written in another order.
    """
    order = order or next(iter(DATES))
    if not is_date(values.dtype) and values.dtype != pl.String:
        values = values.cast(pl.String)
    result = moments(values, order)
    what = f"the date column {name!r}"
    refuse(values, result.is_null() & values.is_not_null(), what, f"dates are written {order}; see --data.null_values", first)
    return days(result)


def share_of_numbers(values: pl.Series) -> float:
    """The share of a text column's values that are numbers; 0 for a few distinct numbers, which may be categories."""
    if values.dtype != pl.String:
        return 0.0
    found = values.cast(pl.Float64, strict=False).drop_nulls()
    many = min(FEW_NUMBERS, IDENTIFIER * len(found))
    return len(found) / (len(values) - values.null_count()) if found.n_unique() > many and not begin_with_zero(values) else 0.0


def refuse_texts(values: pl.Series) -> None:
    """Refuse texts in a column of numbers, which would make it categorical or ignored.

    Raises:
        ValueError: there is such a text; the message has the options for it.
    """
    if values.dtype == pl.String and not begin_with_zero(values) and (bad := not_numeric(values)).any():
        row = bad.arg_true()[0]
        raise ValueError(
            f"column {values.name!r} holds {shown(values[row])} in row {row + 1}, and numbers elsewhere; "
            f"{_remedy(values.name, values.filter(bad))}"
        )


def warn_of_texts(values: pl.Series) -> None:
    """Warn of a column of numbers that becomes categorical or ignored because of a few texts.

    Many different texts are names, and some may look like numbers: no warning, unless they are bounds such as ``<0.01``.
    """
    texts = values.filter(not_numeric(values))
    bounds = bool(texts.str.contains("^[<>~\u2264\u2265]").any())
    if not bounds and texts.n_unique() > min(FEW_TEXTS, len(texts) / 2):
        return
    share = 1 - len(texts) / (len(values) - values.null_count())
    rank_zero_only(warnings.warn)(
        f"column {values.name!r} is {share:.0%} numbers and is read as names because of {listed(by_frequency(texts), 3)}; "
        f"{_remedy(values.name, texts)}",
        stacklevel=2,
    )


def _remedy(name: str, texts: pl.Series) -> str:
    """The options for texts among numbers, in words."""
    options = [shlex.quote(f"--data.null_values+={text}") for text in by_frequency(texts)[:3]]
    kind = json.dumps({name: "categorical"}, ensure_ascii=False)
    values = "that is a missing value" if len(options) == 1 else "those are missing values"
    return f"if {values}, set {' '.join(options)}; if they are names, --data.types '{kind}'"


def _counts(known: pl.Series, train: pl.Series) -> bool:
    """Whether the values are row numbers, from 0 or from 1."""
    if len(known) < 10 or not known[0].is_integer() or len(known) != train.sum():
        return False
    rows = train.arg_true()
    start = int(known[0]) - rows[0]
    return start in (0, 1) and bool((known == (rows + start).cast(known.dtype)).all())
