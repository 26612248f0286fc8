"""Reads numbers and dates as people write them: decimal commas, thousands separators, currencies, per cent, days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import polars as pl

SAMPLE = 1000  # maximum texts to look at
HALF, MOST = 0.5, 0.9  # minimum share of values that are numbers, or dates
DAY = 86_400_000_000  # microseconds

CURRENCY = r"(?:[A-Z]{0,2}\p{Sc}|USD|EUR|GBP|CHF|JPY)"
# Thousands separators besides the other mark: spaces of several widths and apostrophes.
SPACES = " \u00a0\u2009\u202f'\u2019"
MINUS = "[+\\-\u2212]?"

Mark = Literal[".", ","]
MARKS: tuple[Mark, ...] = (".", ",")
Order = Literal[
    "",
    "year-month-day",
    "year/month/day",
    "month/day/year",
    "day/month/year",
    "day.month.year",
    "day-month-year",
    "day-Mon-year",
    "day Mon year",
    "Mon day, year",
]


def with_times(format: str) -> tuple[str, ...]:
    """The format of a day, without and with a time."""
    return format, f"{format} %H:%M", f"{format} %H:%M:%S%.f"


ISO = ("%Y-%m-%d", *(f"%Y-%m-%d{between}%H:%M{more}" for between in " T" for more in ("", ":%S%.f", ":%S%.f%#z", "%#z")))
# The formats of each order; the year has four digits.
DATES: dict[Order, tuple[str, ...]] = {
    "year-month-day": ISO,
    "year/month/day": with_times("%Y/%m/%d"),
    "month/day/year": with_times("%m/%d/%Y"),
    "day/month/year": with_times("%d/%m/%Y"),
    "day.month.year": with_times("%d.%m.%Y"),
    "day-month-year": with_times("%d-%m-%Y"),
    "day-Mon-year": with_times("%d-%b-%Y"),
    "day Mon year": with_times("%d %b %Y"),
    "Mon day, year": with_times("%b %d, %Y"),
}


def _number(decimal: str) -> str:
    mark, other = ("[.]", ",") if decimal == "." else (",", ".")
    digits = rf"(?:\d+|[1-9]\d{{0,2}}(?:[{other}{SPACES}]\d{{3}})+)"
    number = rf"({digits}(?:{mark}\d*)?|{mark}\d+)((?:[eE][+-]?\d+)?)"
    return rf"^(\(?)({MINUS})\s*{CURRENCY}?\s*({MINUS})\s*{number}\s*(%|{CURRENCY})?\s*(\)?)$"


NUMBERS = {decimal: _number(decimal) for decimal in MARKS}


def plain(values: pl.Series, decimal: Mark) -> pl.Series:
    """The texts, with numbers as Python writes them; other texts are unchanged.

    ``1,234.5``, ``$12``, ``(3.50)`` (which is negative) and ``45%`` (0.45) become ``1234.5``, ``12``, ``-3.50`` and ``45e-2``.

    Args:
        values: texts without leading and trailing blanks.
        decimal: the decimal mark, ``.`` or ``,``; the other mark may separate thousands.
    """
    column = pl.col("text")
    opened, sign, later, digits, exponent, unit, closed = (
        column.str.extract_groups(NUMBERS[decimal]).struct.field(str(number)).fill_null("") for number in range(1, 8)
    )
    signs = sign + later
    negative = (opened == "(") | signs.str.contains("[-\u2212]")
    other = "," if decimal == "." else "."
    digits = digits.str.replace_all(f"[{other}{SPACES}]", "").str.replace(decimal, ".", literal=True)
    number = pl.when(negative).then(pl.lit("-")).otherwise(pl.lit("")) + digits + exponent
    number = number + pl.when(unit == "%").then(pl.lit("e-2")).otherwise(pl.lit(""))
    meant = (digits != "") & ((opened == "") == (closed == "")) & (signs.str.len_chars() < 2)
    meant = meant & ~((unit == "%") & (exponent != ""))
    return values.alias("text").to_frame().select(pl.when(meant).then(number).otherwise(column)).to_series().alias(values.name)


def decimal_of(values: pl.Series, allowed: Sequence[Mark], preferred: Mark) -> Mark | None:
    """The decimal mark of texts, if most are numbers as people write them; None if not, or if Python can read them all.

    Args:
        values: texts, none missing.
        allowed: the marks to choose from.
        preferred: the mark to take if both give as many numbers.
    """
    number = values.cast(pl.Float64, strict=False).is_not_null()
    if preferred == "," in allowed:  # 1.234 may be 1234
        dotted = values.filter(number & values.str.contains(".", literal=True))
        if len(dotted) and not (plain(dotted, ",") == dotted).any():
            return ","
    marked = values.filter(~number).head(SAMPLE)
    if marked.is_empty():
        return None
    made = {decimal: plain(marked, decimal).cast(pl.Float64, strict=False).count() for decimal in allowed}
    best = max(allowed, key=lambda decimal: (made[decimal], decimal == preferred))
    plain_ones = int(number.sum())
    all_numbers = plain_ones + made[best] / len(marked) * (len(values) - plain_ones)
    return best if made[best] and all_numbers >= HALF * len(values) else None


def order_of(values: pl.Series, at_least: float = MOST) -> Order | None:
    """The order in which most texts, none of them missing, are dates; None if less than the share ``at_least`` is.

    If it is not clear whether days or months come first, months do.
    """

    def best(values: pl.Series) -> tuple[Order, int]:
        made = {order: moments(values, order).count() for order in DATES}
        order = max(made, key=lambda order: made[order])
        return order, made[order]

    _, made = best(values.head(SAMPLE))
    if made < at_least * min(len(values), SAMPLE):
        return None
    order, made = best(values)
    return order if made >= at_least * len(values) else None


def moments(values: pl.Series, order: Order) -> pl.Series:
    """Texts, dates or datetimes as Datetime in UTC; null for a text that is not a date, midnight if there is no time."""
    if values.dtype == pl.String:
        parsed = [values.str.to_datetime(format, strict=False, time_unit="us") for format in DATES[order]]
        frame = pl.DataFrame([_without_zone(each).alias(str(number)) for number, each in enumerate(parsed)])
        result = frame.select(pl.coalesce(pl.all())).to_series()
        return result.set(result.dt.year() < 1000, None).alias(values.name)  # a year of two digits
    return _without_zone(values.cast(pl.Datetime("us", getattr(values.dtype, "time_zone", None))))


def _without_zone(values: pl.Series) -> pl.Series:
    if values.dtype.time_zone is not None:  # type: ignore[attr-defined]
        values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return values


def days(values: pl.Series) -> pl.Series:
    """Datetimes as days since 1970-01-01, Float64."""
    return values.to_physical() / DAY


def moment(day: float) -> str:
    """Days since 1970-01-01 as a date and time in text."""
    return str(datetime(1970, 1, 1) + timedelta(days=day))
