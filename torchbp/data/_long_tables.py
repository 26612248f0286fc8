"""Makes sequences from a table with one step per row, and windows of one series to forecast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from torchbp.data._columns import MISTAKES, refuse_texts, share_of_numbers
from torchbp.data._memory import refuse_large
from torchbp.data._sequence_files import Filling, Sequences, padded, refuse_padding
from torchbp.data._split import PARTS
from torchbp.data._written import moments, order_of
from torchbp.data.values import as_text, booleans, is_boolean, is_date, numbers, shown, unsupported

Columns = Callable[[str], "pl.Series"]  # gives a table's column by its name, null where a value is missing


def channel(values: pl.Series) -> pl.Series:
    """A column's values as Float64, NaN where one is missing; booleans become 0 and 1.

    Raises:
        ValueError: a text is not a number.
    """
    if values.dtype == pl.Boolean or (values.dtype == pl.String and values.count() and is_boolean(values)):
        found = booleans(values, f"the column {values.name!r}")
    else:
        found = numbers(values, f"the column {values.name!r}")
    return found.cast(pl.Float64).fill_null(float("nan"))


def channels_of(columns: Mapping[str, pl.Series]) -> tuple[list[str], list[str]]:
    """The names of the columns of numbers and booleans, and those of the others, which cannot be channels.

    Raises:
        ValueError: a column of numbers has a few texts.
    """
    taken: list[str] = []
    left: list[str] = []
    for name, values in columns.items():
        if values.dtype == pl.String and share_of_numbers(values) >= 1 - MISTAKES:
            refuse_texts(values)
        number = values.dtype == pl.Boolean or values.dtype.is_numeric()
        if values.dtype == pl.String and values.count():
            number = values.cast(pl.Float64, strict=False).null_count() == values.null_count() or is_boolean(values)
        (taken if number else left).append(name)
    return taken, left


def in_time(values: pl.Series) -> np.ndarray:
    """The sort keys of a column of times: numbers, dates or texts of dates.

    Raises:
        ValueError: a time is missing, or is not a time.
    """
    if values.null_count():
        raise ValueError(
            f"the column {values.name!r} has no time in row {values.is_null().arg_true()[0] + 1}; each row needs one"
        )
    if values.dtype == pl.String and (order := order_of(values, 0.5)):
        values = _refuse_gaps(values, moments(values, order), f"times are written {order}")
    elif unsupported(values.dtype) or values.dtype == pl.Boolean:
        raise ValueError(f"the column {values.name!r} is of type {values.dtype}; times are numbers or dates")
    elif not is_date(values.dtype):
        values = _refuse_gaps(values, values.cast(pl.Float64, strict=False), "times are numbers or dates")
    return values.to_physical().to_numpy()


def _refuse_gaps(values: pl.Series, converted: pl.Series, allowed: str) -> pl.Series:
    if converted.null_count():
        row = converted.is_null().arg_true()[0]
        raise ValueError(f"the column {values.name!r} holds {shown(values[row])} in row {row + 1}; {allowed}")
    return converted


def ordered(place: np.ndarray, column: Columns, time: str | None) -> np.ndarray:
    """The row numbers, sorted by the series' ``place``, and within a series by time, or in the table's order if that is None.

    Raises:
        ValueError: a row has no time, or two rows of a series have the same.
    """
    if time is None:
        return place.argsort(kind="stable")
    when = in_time(column(time))
    order = np.lexsort((when, place))
    if len(twice := np.flatnonzero((np.diff(place[order]) == 0) & (np.diff(when[order]) == 0))):
        first, second = sorted(int(row) for row in order[twice[0] : twice[0] + 2])
        raise ValueError(
            f"rows {first + 1} and {second + 1} of one series have the same {time!r}, {shown(column(time)[first])}; each step "
            "needs its own time"
        )
    return order


def grouped(
    column: Columns,
    series: str,
    time: str | None,
    targets: Sequence[str],
    channels: Sequence[str],
    each: bool | None,
) -> Sequences:
    """The rows of a table, grouped to sequences in the order of their first rows.

    Args:
        column: the table's columns.
        series: the column that names each row's sequence.
        time: the column that sorts the rows of a sequence; None for their order in the table.
        targets: the target columns; empty to predict.
        channels: the columns of x.
        each: whether each step has a target, or each sequence; None to infer it: each step, if the target changes within a
            sequence.

    Raises:
        ValueError: a row has no series or no time, two rows of a series have the same time, or the target changes.
    """
    ids = column(series)
    if unsupported(ids.dtype):
        raise ValueError(f"the column {series!r} is of type {ids.dtype}; series are named by text, numbers or dates")
    if ids.null_count():
        raise ValueError(f"the column {series!r} names no series in row {ids.is_null().arg_true()[0] + 1}; each row needs one")
    _, first, inverse = np.unique(as_text(ids).to_numpy(), return_index=True, return_inverse=True)
    place = first.argsort().argsort()[inverse]
    order = ordered(place, column, time)
    lengths = np.bincount(place)
    x = padded(np.column_stack([channel(column(name)).to_numpy()[order] for name in channels]), lengths)
    starts = lengths.cumsum() - lengths
    keys = pl.DataFrame([column(name).gather(order) for name in (series, time) if name is not None])
    names = keys[series].gather(starts)
    found = Sequences(x, lengths, list(channels), {}, bool(each), keys if each else names.to_frame(), names)
    found.targets = {name: column(name).gather(order) for name in targets}
    changes = _target_changes(found, starts, allowed=each is not False)
    if each is None:
        found.each = changes
    if found.each:
        found.keys = keys
    else:
        found.targets = {name: values.gather(starts) for name, values in found.targets.items()}
    return found


def _target_changes(found: Sequences, starts: np.ndarray, allowed: bool) -> bool:
    """Whether a target, of each step, changes within a sequence; ``starts`` are the sequences' first steps.

    Raises:
        ValueError: it does, and that is not allowed.
    """
    number = np.repeat(np.arange(len(starts)), found.lengths)
    any_changed = False
    for values in found.targets.values():
        changed = ~values.eq_missing(values.gather(starts[number])).to_numpy()
        if changed.any() and not allowed:
            other = int(changed.argmax())
            raise ValueError(
                f"the target {values.name!r} holds {shown(values[int(starts[number[other]])])} and {shown(values[other])} in "
                f"{found.name(int(number[other]))}; a series has one value, or set --data.sequences each"
            )
        any_changed |= bool(changed.any())
    return any_changed


@dataclass
class Forecast:
    """How a series becomes sequences and targets.

    Args:
        window: the number of steps of x; None for all steps of a part, with a target at each step.
        horizon: the number of steps after these that are the targets.
        sizes: the shares of the series, at its end, for validation and test.
    """

    window: int | None
    horizon: int
    sizes: tuple[float, float]

    def stretches(self, length: int) -> list[tuple[int, int]]:
        """The first step and the end of train, val and test, in the order of time.

        Raises:
            ValueError: one of them is shorter than a window and its horizon.
        """
        counts = [round(size * length) for size in self.sizes]
        ends = [0, length - sum(counts), length - counts[1], length]
        least = (self.window or 1) + self.horizon
        for part, (start, end) in enumerate(pairwise(ends)):
            if end - start < least and (part == 0 or self.sizes[part - 1] > 0):
                raise ValueError(
                    f"{PARTS[part]} has {end - start} of the series' {length} steps; a window of {self.window or 1} and a "
                    f"horizon of {self.horizon} take {least}"
                )
        return list(pairwise(ends))

    def names(self, targets: Sequence[str]) -> list[str]:
        """The names of the outputs: the targets, or with a horizon above 1 each target's steps ahead."""
        steps = range(1, self.horizon + 1)
        return list(targets) if self.horizon == 1 else [f"{name}+{step}" for name in targets for step in steps]

    def sequences(
        self,
        column: Columns,
        time: str | None,
        targets: Sequence[str],
        channels: Sequence[str],
        filling: Filling,
        with_targets: bool,
    ) -> Sequences:
        """The windows of a table's rows; without ``window``, each of train, val and test is one sequence.

        A window lies with all its steps and targets in one of train, val and test, so that none sees a target of another.

        Args:
            column, time, channels: as for :func:`grouped`.
            targets: the columns to forecast.
            filling: how to handle missing values, as for :meth:`Sequences.fill`.
            with_targets: whether targets are wanted; without them there are windows up to the end of the series.

        Raises:
            ValueError: the series is too short, or a value is missing; a row has no time, or two rows have the same.
        """
        names = [*channels, *(name for name in targets if name not in channels)]
        length = len(column(names[0]))
        order = ordered(np.zeros(length, int), column, time)
        values = np.column_stack([channel(column(name)).to_numpy()[order] for name in names])
        series = Sequences(values[None], np.array([length]), names, {}, True, pl.DataFrame())
        series.fill(filling)
        x, y = series.x[0][:, : len(channels)], series.x[0][:, [names.index(name) for name in targets]]
        at = pl.Series("last_row", order + 1) if time is None else column(time).gather(order).alias(f"last_{time}")
        ahead, seen = self.horizon if with_targets else 0, self.window or 1
        if length < seen + ahead:
            raise ValueError(f"the series has {length} steps; a window of {seen} and a horizon of {ahead} take {seen + ahead}")
        cut = with_targets and any(self.sizes)
        stretches = self.stretches(length) if cut else [(0, length)]
        firsts, parts, lengths = self._windows(stretches, ahead)
        refuse_padding(lengths, len(channels))
        outputs = ahead * len(targets)
        count = len(lengths) if self.window else int(lengths.sum())
        refuse_large(f"{count:,} forecasts of {outputs:,} numbers", 8 * count * outputs)
        rows = np.concatenate([np.arange(first, first + steps) for first, steps in zip(firsts, lengths, strict=True)])
        last = rows if self.window is None else firsts + self.window - 1  # the targets come after these
        keys = at.gather(last).to_frame()
        found = Sequences(padded(x[rows], lengths), lengths, list(channels), {}, self.window is None, keys)
        if with_targets:
            next = np.stack([y[last + step] for step in range(1, self.horizon + 1)], 2).reshape(len(last), -1)
            found.targets = {name: pl.Series(name, next[:, number]) for number, name in enumerate(self.names(targets))}
        found.parts = parts if cut else None
        return found

    def _windows(self, stretches: Sequence[tuple[int, int]], ahead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each window's first step, the number of its stretch, and its length; ``ahead`` steps follow it in its stretch."""
        firsts, parts, lengths = np.empty(0, int), np.empty(0, int), np.empty(0, int)
        for part, (start, end) in enumerate(stretches):
            steps = self.window or end - start - ahead
            first = np.arange(start, end - ahead - steps + 1) if steps > 0 else firsts[:0]
            firsts, parts = np.append(firsts, first), np.append(parts, np.full(len(first), part))
            lengths = np.append(lengths, np.full(len(first), steps))
        return firsts, parts, lengths
