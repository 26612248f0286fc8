"""Reads sequences from NumPy's files and from the .ts files of the time-series archives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from torchbp.data._arrays import read
from torchbp.data._memory import refuse_large
from torchbp.data.values import FLOAT32_MAX, shown

Filling = Literal["refuse", "previous"]
SERIES_BYTES = 1500  # of a pandas.Series, besides its values


@dataclass
class Sequences:
    """The sequences of a file.

    Args:
        x: the values, (N, T, C) float64, NaN after the end of each sequence.
        lengths: the number of steps of each, (N).
        channels: the names of the C channels.
        targets: the target columns, with a value for each sequence, or for each step of all; empty if there are none.
        each: whether each step has a target, not each sequence.
        keys: columns to write beside the predictions, with a row for each sequence, or for each step of all; may be empty.
        names: the sequences' names in messages; None for their numbers.
        left_out: the columns that cannot be channels.
        parts: the part of each sequence if a series was cut, (N) of 0 (train), 1 (val) and 2 (test); else None.
    """

    x: np.ndarray
    lengths: np.ndarray
    channels: list[str]
    targets: dict[str, pl.Series]
    each: bool
    keys: pl.DataFrame
    names: pl.Series | None = None
    left_out: list[str] = field(default_factory=list)
    parts: np.ndarray | None = None

    @property
    def steps(self) -> np.ndarray:
        """Whether each sequence has each step, (N, T)."""
        return np.arange(self.x.shape[1]) < self.lengths[:, None]

    def name(self, number: int) -> str:
        return f"sequence {number + 1}" if self.names is None else f"series {shown(self.names[number])}"

    def fill(self, how: Filling) -> None:
        """Replace each missing value by the one before it, or at the beginning by the first one after it; or refuse it.

        Args:
            how: ``previous`` or ``refuse``.

        Raises:
            ValueError: a value is missing and ``how`` is ``refuse``, or a sequence has no value to use; or a value is too large
                for float32.
        """
        there = self.steps
        missing = np.isnan(self.x) & there[..., None]
        if how == "previous" and missing.any():
            # Step by step, without a second array of x's size: forwards from the step before, then backwards.
            for step in np.flatnonzero(missing.any((0, 2))[1:]) + 1:
                np.copyto(self.x[:, step], self.x[:, step - 1], where=missing[:, step])
            missing = np.isnan(self.x) & there[..., None]
            for step in np.flatnonzero(missing.any((0, 2))[:-1])[::-1]:
                np.copyto(self.x[:, step], self.x[:, step + 1], where=missing[:, step])
            missing = np.isnan(self.x) & there[..., None]
        bad = missing | (np.abs(self.x) > FLOAT32_MAX)
        if not bad.any():
            return
        number, step, channel = np.argwhere(bad)[0].tolist()
        name, where = shown(self.channels[channel]), f"step {step + 1} of {self.name(number)}"
        if not missing[number, step, channel]:
            value = float(self.x[number, step, channel])
            raise ValueError(f"channel {name} holds {value:g} at {where}; numbers must be finite and below 3.4e38 in size")
        if how == "previous":
            raise ValueError(f"channel {name} has no value in {self.name(number)}; at least one is needed to fill the others")
        raise ValueError(
            f"channel {name} has no value at {where}; every step needs one, or set --data.gaps previous to take the last "
            "before it"
        )

    def refuse_gaps(self) -> None:
        """Refuse missing targets.

        Raises:
            ValueError: a target is missing.
        """
        for values in self.targets.values():
            gaps = values.is_null() | (values.is_nan() if values.dtype.is_float() else False)
            if gaps.any():
                place = int(gaps.arg_true()[0])
                if self.each:
                    number = int(np.searchsorted(self.lengths.cumsum(), place, "right"))
                    where = f"step {place - int(self.lengths[:number].sum()) + 1} of {self.name(number)}"
                else:
                    where = self.name(place)
                raise ValueError(f"the target {shown(values.name)} has no value for {where}; each needs one")


def lengths_of(x: np.ndarray) -> np.ndarray:
    """The number of steps up to the last one that is not NaN in all channels: (N, T, C) -> (N)."""
    there = ~np.isnan(x).all(2)
    return np.where(there.any(1), x.shape[1] - there[:, ::-1].argmax(1), 0)


def refuse_empty(path: Path, lengths: np.ndarray) -> None:
    if len(empty := np.flatnonzero(lengths < 1)):
        raise ValueError(f"{path}: sequence {empty[0] + 1} has no step; each needs at least one")


def refuse_padding(lengths: np.ndarray, width: int) -> None:
    """Refuse sequences that are too large when padded to the longest, with ``width`` numbers per step."""
    longest = int(lengths.max())
    what = f"{len(lengths):,} sequences, padded to {longest:,} steps,"
    refuse_large(what, 8 * len(lengths) * longest * width)


def padded(steps: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The steps of all sequences, (sum of lengths, C), as (N, T, C), NaN after the end of each.

    Raises:
        ValueError: the result takes too much memory.
    """
    refuse_padding(lengths, steps.shape[1])
    x = np.full((len(lengths), int(lengths.max()), steps.shape[1]), np.nan)
    x[np.arange(x.shape[1]) < lengths[:, None]] = steps
    return x


def read_npz(path: Path, names: Sequence[str], each: bool | None, targets: bool) -> Sequences:
    """The arrays x (N, T, C) or (N, T), y, and lengths (N); lengths may be missing if NaN follows each sequence's end.

    Args:
        path: the ``.npz`` file.
        names: the names of the three arrays.
        each: whether y has a target for each step, (N, T) or (N, T, outputs), or one for each sequence, (N) or (N, outputs);
            None to infer it from y's shape.
        targets: whether y is wanted.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an array is missing, or the arrays do not fit each other.
    """
    x = read(path, names[0])
    if x.dtype.kind not in "buif" or x.ndim not in (2, 3) or not x.size:
        raise ValueError(
            f"x in {path} has type {x.dtype} and shape {x.shape}; it must be numbers, (N, T, channels) or (N, T), not empty"
        )
    refuse_large(f"x in {path}, of shape {x.shape}: its numbers in float64", 8 * x.size)
    x = x.reshape(*x.shape[:2], -1).astype(np.float64)
    with np.load(path, allow_pickle=False) as arrays:
        has_lengths = names[2] in arrays.files
    lengths = read(path, names[2]) if has_lengths or names[2] != "lengths" else lengths_of(x)
    if lengths.dtype.kind not in "iu" or lengths.shape != x.shape[:1]:
        raise ValueError(
            f"{names[2]} in {path} has type {lengths.dtype} and shape {lengths.shape}; it must be integers, ({len(x)},)"
        )
    if (lengths < 0).any() or (lengths > x.shape[1]).any():
        bad = lengths[(lengths < 0) | (lengths > x.shape[1])][0]
        raise ValueError(f"{names[2]} in {path} holds {bad}; for x of shape {x.shape} it must be from 1 to {x.shape[1]}")
    refuse_empty(path, lengths)
    x[np.arange(x.shape[1]) >= lengths[:, None]] = np.nan
    found = Sequences(x, lengths, [f"x{number}" for number in range(x.shape[2])], {}, bool(each), pl.DataFrame())
    if targets:
        _take_targets(found, path, read(path, names[1]), each)
    if found.each:
        number, step = found.steps.nonzero()
        found.keys = pl.DataFrame({"sequence": number + 1, "step": step + 1})
    return found


def _take_targets(found: Sequences, path: Path, y: np.ndarray, each: bool | None) -> None:
    """Set the sequences' targets from an array y."""
    steps = found.x.shape[:2]
    if y.dtype.kind not in "buifU" or y.ndim not in (1, 2, 3) or len(y) != len(found.x) or 0 in y.shape:
        raise ValueError(
            f"y in {path} has type {y.dtype} and shape {y.shape}; it must be numbers or names, ({len(found.x)}, ...) like x"
        )
    found.each = y.shape[:2] == steps and (y.ndim == 3 or steps[1] > 1) if each is None else each
    wanted = "(N, T) or (N, T, outputs)" if found.each else "(N) or (N, outputs)"
    if y.shape[:2] != steps if found.each else y.ndim == 3:
        raise ValueError(f"y in {path} has shape {y.shape} and x {found.x.shape}; y must be {wanted}")
    values = y[found.steps] if found.each else y
    values = values.reshape(len(values), -1)
    names = ["y"] if values.shape[1] == 1 else [f"y{number}" for number in range(values.shape[1])]
    found.targets = {name: pl.Series(name, values[:, number]) for number, name in enumerate(names)}


def read_ts(path: Path) -> Sequences:
    """The sequences of a ``.ts`` file of the time-series archives; its labels, if there are any, are the targets.

    Raises:
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: sktime, which reads it, is not installed.
        ValueError: sktime cannot read the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        from sktime.datasets import load_from_tsfile_to_dataframe
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path} needs sktime, which is not installed; pip install '.[sequences]'") from None
    _refuse_large_ts(path)
    try:
        loaded: Any = load_from_tsfile_to_dataframe(str(path.absolute()))
        frame, y = loaded if isinstance(loaded, tuple) else (loaded, None)
        cases = [_case([frame.iat[number, channel] for channel in range(frame.shape[1])]) for number in range(len(frame))]
    except Exception as error:  # a parser of text may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as TS: {reason}") from None
    lengths = np.array([len(case) for case in cases])
    refuse_empty(path, lengths)
    x = padded(np.concatenate(cases), lengths)
    refuse_empty(path, lengths := lengths_of(x))
    targets = {} if y is None else {"target": pl.Series("target", y.astype(str))}
    return Sequences(x[:, : lengths.max()], lengths, [str(name) for name in frame.columns], targets, False, pl.DataFrame())


def _refuse_large_ts(path: Path) -> None:
    """Refuse a file that takes too much memory: all channels and labels take the room of the longest.

    Raises:
        ValueError: it takes too much.
    """
    cases = all_channels = widest = longest = label = padding = 0
    started = False
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not started:
                started = line.strip().lower().startswith("@data")
                label = max([label, *map(len, line.split())])  # the header lists the labels
                continue
            channels = line.count(":") + 1
            steps = max(part.count(",") + 1 for part in line.split(":"))
            cases, all_channels, padding = cases + 1, all_channels + channels, padding + channels * steps
            widest, longest = max(widest, channels), max(longest, steps)
            label = max(label, len(line) - line.rfind(":"))
    # sktime makes a pandas.Series of each channel of each case; NumPy gives each text the room of the longest.
    size = SERIES_BYTES * all_channels + 8 * max(padding, cases * widest * longest) + 4 * cases * label
    what = f"{path}: {cases:,} cases of up to {widest:,} channels, {longest:,} steps and a label of {label:,} characters"
    refuse_large(what, size)


def _case(channels: Sequence[Any]) -> np.ndarray:
    """One sequence, (T, C), from its channels; shorter channels end in NaN."""
    case = np.full((max(map(len, channels)), len(channels)), np.nan)
    for number, values in enumerate(channels):
        case[: len(values), number] = values.to_numpy(np.float64)
    return case
