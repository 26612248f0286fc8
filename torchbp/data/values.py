"""Converts the values of a table's column to numbers, booleans or texts, and shows them in messages.

Messages count rows from 1, the first row below the header.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from functools import cache
from math import isfinite
from typing import Any, TypeVar

import numpy as np
import polars as pl

from torchbp.data._written import Mark, plain

AT_ONCE = 2**16  # values per step of a conversion that takes much memory
FLOAT32_MAX = float(np.finfo(np.float32).max)
FAR = 2**10  # deviations from 0, from which float32 keeps less than four digits of the differences

BOOLEANS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
TRUTHS = [{"false", "true"}, {"no", "yes"}, {"f", "t"}, {"n", "y"}]  # the word that sorts last is the true one


def clean(values: pl.Series, null_values: Sequence[str], decimal: Mark | None = None) -> pl.Series:
    """The values as Float64, Float32, Boolean, Date, Datetime or String, null where one is missing; other types stay.

    Args:
        values: the values from the file.
        null_values: the texts that stand for a missing value.
        decimal: the decimal mark of numbers as people write them, as for :func:`torchbp.data._written.plain`; None if texts
            are not such numbers.
    """
    if values.dtype == pl.Boolean or is_date(values.dtype) or unsupported(values.dtype):
        return values
    if values.dtype.is_numeric():
        if missing := numbers_among(tuple(null_values)):
            values = values.set(values.is_in(pl.Series(missing).cast(values.dtype, strict=False)), None)
        if values.dtype == pl.Float32:
            return values if all_finite(values) else values.fill_nan(None)
        return values.cast(pl.Float64).fill_nan(None)
    text = values.cast(pl.String).str.strip_chars()
    missing = text.is_in(list(null_values)) | text.cast(pl.Float64, strict=False).is_nan().fill_null(False)
    text = text.zip_with(missing.fill_null(True).not_(), pl.Series([None], dtype=pl.String))
    return text if decimal is None else plain(text, decimal)


def is_date(dtype: pl.DataType) -> bool:
    return dtype == pl.Date or dtype == pl.Datetime


def needs_float64(values: pl.Series) -> bool:
    """Whether numbers are so far from 0 that float32 loses their differences."""
    ends: tuple[Any, Any] = values.min(), values.max()
    deviation: Any = values.std()
    return ends[0] is not None and max(-ends[0], ends[1]) > FAR * (deviation or 0.0)


def all_finite(values: pl.Series) -> bool:
    """Whether no value is NaN or infinite; also False if their sum overflows."""
    return isfinite(values.sum())


AnyValues = TypeVar("AnyValues", "pl.Series", "pl.Expr")


def not_numeric(values: AnyValues) -> AnyValues:
    """Whether each value is there and is not a number."""
    return values.is_not_null() & values.cast(pl.Float64, strict=False).is_null()


@cache
def numbers_among(texts: tuple[str, ...]) -> list[float]:
    """The numbers among the texts."""
    return [float(text) for text in texts if is_number(text)]


def is_number(text: str) -> bool:
    """Whether a text is a number, infinity or NaN."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def unsupported(dtype: pl.DataType) -> bool:
    text = (pl.String, pl.Categorical, pl.Enum, pl.Time, pl.Null)
    return not (dtype == pl.Boolean or dtype.is_numeric() or is_date(dtype) or any(dtype == kind for kind in text))


def refuse_unsupported(values: pl.Series) -> None:
    if unsupported(values.dtype):
        raise ValueError(f"column {values.name!r} is of type {values.dtype}; text, booleans, numbers and dates are supported")


def numbers(values: pl.Series, what: str, first: int = 0) -> pl.Series:
    """The values as Float64 (Float32 is kept), null where one is missing; ``first`` rows came before.

    Raises:
        ValueError: a text is not a number, or a number is too large for float32.
    """
    if values.dtype == pl.Float32 and all_finite(values):
        return values
    result = values.cast(pl.Float64, strict=False)
    for bad, allowed in (
        (not_numeric(values), "only numbers are allowed"),
        (result.abs() > FLOAT32_MAX, "numbers must be finite and below 3.4e38 in size"),
    ):
        refuse(values, bad, what, allowed, first)
    return result


def booleans(values: pl.Series, what: str, first: int = 0) -> pl.Series:
    """The values as Float64 0 and 1, null where one is missing; ``first`` rows came before.

    Raises:
        ValueError: a value is neither true nor false.
    """
    result = as_text(values).str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Float64)
    refuse(values, result.is_null() & values.is_not_null(), what, "true and false, yes and no, 1 and 0 are allowed", first)
    return result


def codes(values: pl.Series, categories: Sequence[float | str]) -> np.ndarray:
    """Each value's index among the categories, -1 if it is none of them; booleans ignore case."""
    if isinstance(categories[0], float):
        order, code = np.argsort(categories), np.empty(len(values), np.int32)
        known = np.array(categories)[order]
        values = as_categories(values) if values.dtype == pl.Float32 else values
        for first in range(0, len(values), AT_ONCE):
            sought = values[first : first + AT_ONCE].cast(pl.Float64, strict=False).to_numpy()
            place = np.searchsorted(known[:-1], sought)  # a missing value is NaN, which equals nothing
            code[first : first + AT_ONCE] = np.where(known[place] == sought, order[place], -1)
        return code
    values = as_text(values)
    if are_truths(categories):
        values, categories = values.str.to_lowercase(), [str(category).lower() for category in categories]
    places = dict(zip(categories, range(len(categories)), strict=True))
    # Set missing values here: replace_strict treats them differently in different versions.
    return values.replace_strict(places, default=-1, return_dtype=pl.Int32).fill_null(-1).to_numpy().copy()


def natural(values: pl.Series) -> pl.Series:
    """Texts converted to Float64 if all are numbers, to Boolean if all are true and false, or yes and no; else unchanged."""
    if values.dtype != pl.String:
        return values
    parsed = as_categories(values)
    if parsed.dtype == pl.Float64:
        return parsed
    return booleans(values, "").cast(pl.Boolean) if is_boolean(values) else values


def as_categories(values: pl.Series) -> pl.Series:
    """Float64 if all values are numbers, so that 1 and 1.0 are one category; else String.

    Numbers that begin with a 0, such as 01234, are names.
    """
    if values.dtype == pl.Float32:  # via text: the number as written, as in other file formats
        return values.cast(pl.String).cast(pl.Float64)
    if values.dtype == pl.String:
        parsed = values.cast(pl.Float64, strict=False)
        names = parsed.null_count() > values.null_count() or begin_with_zero(values)
        return values if names else parsed
    return values if values.dtype.is_numeric() else as_text(values)


def begin_with_zero(values: pl.Series) -> bool:
    """Whether there are texts such as 01234 among the values."""
    return bool(values.str.contains("^0[0-9]+$").any())


def are_truths(categories: Sequence[float | str]) -> bool:
    """Whether the categories are a pair such as yes and no, in any case, each once."""
    words = {str(category).lower() for category in categories}
    return len(words) == len(categories) and words in TRUTHS


def as_text(values: pl.Series) -> pl.Series:
    """The values as String; whole numbers are written without a decimal point."""
    if values.dtype == pl.Boolean:
        return values.cast(pl.String).replace({"true": "True", "false": "False"})
    if values.dtype == pl.Datetime:
        whole_days = bool((values.dt.time() == time()).all())
        return values.dt.to_string("%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M:%S")
    if not values.dtype.is_float():
        return values.cast(pl.String)
    whole = values.cast(pl.Int64, strict=False)
    return whole.cast(pl.String).zip_with((whole.cast(values.dtype) == values).fill_null(False), values.cast(pl.String))


def is_boolean(values: pl.Series) -> bool:
    return bool(as_text(values).drop_nulls().str.to_lowercase().is_in(list(BOOLEANS)).all())


def by_frequency(values: pl.Series) -> list[Any]:
    """The distinct values, most frequent first; equally frequent ones in ascending order."""
    counts = counted_values(values)
    return sorted(counts, key=lambda value: (-counts[value], value))


def counted_values(values: pl.Series) -> dict[Any, int]:
    """How often each distinct value occurs."""
    counts = values.alias("value").value_counts(name="count")
    return dict(zip(counts["value"].to_list(), counts["count"].to_list(), strict=True))


def refuse(values: pl.Series, bad: pl.Series, what: str, allowed: str, first: int = 0) -> None:
    if bad.any():
        row = bad.arg_true()[0]
        raise ValueError(f"{what} holds {shown(values[row])} in row {first + row + 1}; {allowed}")


def label(value: float | str) -> str:
    """The name of a category or class: 3 for 3.0."""
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


def shown(value: Any) -> str:
    """A value for a message: on one line, at most 60 characters."""
    text = label(value) if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def listed(values: Sequence[Any], at_most: int = 10) -> str:
    rest = len(values) - at_most
    return ", ".join(shown(value) for value in values[:at_most]) + (f" and {rest} more" if rest > 0 else "")
