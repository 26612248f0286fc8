"""Makes features from the columns of a table, from what the training rows showed of each column."""

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
    far,
    is_date,
    label,
    listed,
    natural,
    no_numbers,
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

MISTAKES, SOME = 0.1, 0.5  # text with fewer others among many different numbers has mistakes, or may have them
CYCLES: dict[Cycle, float] = {"year": 365.2425, "week": 7.0, "day": 1.0}  # days
IDENTIFIER = 0.9  # text with a larger share of distinct values tells rows apart, not kinds of rows
FEW_NUMBERS, FEW_TEXTS = 20, 20  # so many distinct numbers beside texts may be names, texts beside numbers may stand for a gap


class CoarseError(Exception):
    """Columns that were read in float32 need float64."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(*names)
        self.names = names


@dataclass
class Column:
    """How one column becomes features. Everything here was seen in the training rows, and is a plain Python value.

    Args:
        name, type: the column's.
        seen: what the training rows hold, or why the column is ignored, in words.
        missing: the share of the training rows that have no value.
        fill: what stands for a missing value; None where one is refused. A boolean's is 0 or 1, a date's its day.
        categories: what a categorical column's features stand for, sorted: numbers where all of its values are, else texts.
        other: whether rare and unseen categories share one more feature; without it an unseen one is 0 in every feature.
        indicator: whether a last feature says that the value is missing.
        offset: what is taken from a number or a day, in float64, before it becomes a feature in float32.
        order: a date's, as in :data:`torchbp.data._written.DATES`.
        cycles: of a date, the names of those of which sine and cosine are features too.
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
        """Write the features of values that :func:`clean` gave.

        Args:
            values: (N); ``first`` rows of the table came before.
            out: (N, len(features)), to be written to.

        Returns:
            How often each category was there that training did not see; none where these share a feature with rare ones.

        Raises:
            ValueError: text or infinity where numbers are expected, a missing value that is to be refused.
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
            raise ValueError(f"column {self.name!r} has no value in row {row}; missing='refuse' allows no gap")
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
    """What the training rows say of a column.

    Args:
        values: the column's values, of all rows, as :func:`clean` gave them.
        train: whether each row is one to train on.
        type: the column's type where it is given, not inferred.
        missing, max_categories, dates_as: as for :class:`torchbp.data.TabularDataModule`.

    Raises:
        ValueError: values that do not suit the type given.
        CoarseError: numbers that were read in float32 and differ in what that loses.
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
        return Column(name, "ignored", seen if type is None else "as told", share)
    refuse_unsupported(values)
    if share == 1:
        raise ValueError(f"column {name!r} has no value in the training rows; it can only be 'ignored', not {type!r}")
    if column.type == "numeric":
        numbers(values, f"the numeric column {name!r}")  # also where they are not to train on
        _fit_quantities(column, numbers(known, name))
    elif column.type == "date":
        if known.dtype == pl.String:
            column.order = order_of(known, 0) or ""
        _fit_dates(column, dates(values, name, column.order).filter(train).drop_nulls(), dates_as == "cyclic")
    elif column.type == "boolean":
        booleans(values, f"the boolean column {name!r}")
        known = booleans(known, name)
        column.fill = by_frequency(known)[0]
        column.seen = f"{known.sum() / len(known):.0%} true"
    else:
        ordered = by_frequency(as_categories(known))
        column.fill = ordered[0]
        column.other = len(ordered) > max_categories
        column.categories = sorted(ordered[: max_categories - 1] if column.other else ordered)
        column.seen = f"{counted(len(ordered), 'category', 'categories')}: {listed(ordered, 5)}"
    if missing == "refuse":
        column.fill = None
    return column


def _fit_quantities(column: Column, known: pl.Series) -> None:
    """What the numbers of the training rows say."""
    # In float32, as features have them, so that all formats of a file have the same median.
    quantities = known.cast(pl.Float32)
    if far(quantities):
        if known.dtype == pl.Float32:
            raise CoarseError([column.name])
        if far(known):
            quantities = known
    # The median: by this name two threads may take it at once. Of a column in pieces it takes ten times as long.
    column.fill = median = quantities.rechunk().quantile(0.5, "linear")
    digits = "g"
    if quantities.dtype == pl.Float64:
        column.offset, digits = median, ".15g"
    column.seen = f"{quantities.min():{digits}} to {quantities.max():{digits}}, median {median:{digits}}"
    column.seen += ", which is taken off" * bool(column.offset)


def _fit_dates(column: Column, known: pl.Series, cyclic: bool) -> None:
    """What the days of the training rows say."""
    column.fill = median = known.rechunk().quantile(0.5, "linear")
    column.offset = median if far(known) else 0.0
    whole = bool((known == known.floor()).all())
    if cyclic:
        column.cycles = [cycle for cycle in CYCLES if cycle != "day" or not whole]
    ends: tuple[Any, Any] = known.min(), known.max()
    first, last = (moment(day)[: 10 if whole else 19] for day in ends)
    column.seen = f"{first} to {last}, in days" + (f", written {column.order}" if column.order else "")


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
        return "ignored", f"constant: {shown(str(present[0]) if is_date(present.dtype) else present[0])}"
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
    """The values as days since 1970 began, Float64, null where one is missing; ``first`` rows came before.

    Args:
        order: in which texts are written; none where training had dates.

    Raises:
        ValueError: a value that is no date, or one written in another order.
    """
    order = order or next(iter(DATES))
    if not is_date(values.dtype) and values.dtype != pl.String:
        values = values.cast(pl.String)
    result = moments(values, order)
    what = f"the date column {name!r}"
    refuse(values, result.is_null() & values.is_not_null(), what, f"dates are written {order}; see --data.null_values", first)
    return days(result)


def share_of_numbers(values: pl.Series) -> float:
    """The share of a text column's values that are numbers. A few distinct numbers beside texts may be categories: 0."""
    if values.dtype != pl.String:
        return 0.0
    found = values.cast(pl.Float64, strict=False).drop_nulls()
    many = min(FEW_NUMBERS, IDENTIFIER * len(found))
    return len(found) / (len(values) - values.null_count()) if found.n_unique() > many and not begin_with_zero(values) else 0.0


def refuse_texts(values: pl.Series) -> None:
    """Refuse texts in a column of numbers, which would be taken for categories or for identifiers.

    Raises:
        ValueError: there is one; how to say what it is.
    """
    if values.dtype == pl.String and not begin_with_zero(values) and (bad := no_numbers(values)).any():
        row = bad.arg_true()[0]
        raise ValueError(
            f"column {values.name!r} holds {shown(values[row])} in row {row + 1} and is else of numbers; "
            f"{_remedy(values.name, values.filter(bad))}"
        )


def warn_of_texts(values: pl.Series) -> None:
    """Warn of numbers that are taken for categories, or for identifiers, since there are a few texts among them.

    Texts that differ are names, of which some look like numbers; but not ``<0.01`` and the like.
    """
    texts = values.filter(no_numbers(values))
    bounds = bool(texts.str.contains("^[<>~\u2264\u2265]").any())
    if not bounds and texts.n_unique() > min(FEW_TEXTS, len(texts) / 2):
        return
    share = 1 - len(texts) / (len(values) - values.null_count())
    rank_zero_only(warnings.warn)(
        f"column {values.name!r} is {share:.0%} numbers and is taken for names because of {listed(by_frequency(texts), 3)}; "
        f"{_remedy(values.name, texts)}",
        stacklevel=2,
    )


def _remedy(name: str, texts: pl.Series) -> str:
    """How to say what texts among numbers are."""
    options = [shlex.quote(f"--data.null_values+={text}") for text in by_frequency(texts)[:3]]
    kind = json.dumps({name: "categorical"}, ensure_ascii=False)
    values = "that is a missing value" if len(options) == 1 else "those are missing values"
    return f"if {values}, say {' '.join(options)}; if they are names, --data.types '{kind}'"


def _counts(known: pl.Series, train: pl.Series) -> bool:
    """Whether the values are the rows' numbers, from 0 or from 1."""
    if len(known) < 10 or not known[0].is_integer() or len(known) != train.sum():
        return False
    rows = train.arg_true()
    start = int(known[0]) - rows[0]
    return start in (0, 1) and bool((known == (rows + start).cast(known.dtype)).all())
