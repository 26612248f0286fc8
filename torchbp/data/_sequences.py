"""The data module of sequences, with one target each or one per step, and of forecasts of a series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from torchbp._plain import refuse_misfit
from torchbp.data._csv import Dialect
from torchbp.data._file import FileDataModule
from torchbp.data._long_tables import Forecast
from torchbp.data._sequence_files import Filling, Sequences
from torchbp.data._sequence_reader import Reader
from torchbp.data._split import draw_split, sizes_drawn
from torchbp.data._tabular import NULL_VALUES
from torchbp.data._target import Target, fit_target
from torchbp.data._written import Mark
from torchbp.data.base import EVALUATION_ROWS, BatchSize, Places, Split
from torchbp.data.rows import Rows
from torchbp.data.values import counted, listed, needs_float64
from torchbp.tasks import Task

MAX_STEPS = 10**5  # of a window or a horizon: a stranger's checkpoint may contain any number


@dataclass
class Layout:
    """How sequences become x and y, fitted in training and applied to any other sequences.

    Args:
        target: how targets become y.
        sequences: ``each`` if each step has a target, ``last`` if each sequence has one.
        channels: the names of x's channels.
        offsets: what is subtracted from each channel in float64, before it becomes x in float32.
    """

    target: Target
    sequences: Places
    channels: list[str]
    offsets: list[float] = field(default_factory=list)


class SequenceDataModule(FileDataModule):
    """Sequences of steps, (N, T, channels), with one target each or one per step; or one series, to forecast its next steps.

    The extension decides how a file is read. ``.npz``: arrays x (N, T, channels) or (N, T), y, and lengths (N) unless NaN
    follows the end of each sequence. ``.ts``: a file of the time-series archives. ``.csv``, ``.tsv`` and ``.parquet``: a table
    with one step per row, where the column ``series`` names the sequences; or one series to forecast, with ``window`` or
    ``horizon``.

    Batches are ``(x, y)`` with x (B, T, num_features), NaN after the end of each sequence, and y (B, num_outputs), or
    (B, T, num_outputs) if each step has a target. A sequence is never split. A series to forecast is cut into train, val and
    test in the order of time, and no window crosses a cut.

    Args:
        path: the file.
        target: a table's target column, or several.
        series: a table's column that names each row's sequence.
        time: a table's column of numbers or dates that sorts the steps; None for the order of the rows.
        channels: a table's columns of x; None for all columns of numbers and booleans, or for the target's in a forecast.
        window: forecast from this many last steps; without it, but with ``horizon``, forecast at each step from all before it.
        horizon: forecast this many next steps, each an output; 1 if there is only a ``window``. Both are at most 100,000.
        sequences: ``last`` for one target per sequence, ``each`` for one per step; None to infer it from y's shape, or from
            whether the target changes within a series.
        task: the task. Inferred if None, as by :class:`TabularDataModule`; a forecast is ``regression``.
        positive: of two classes, the one whose probability is predicted; None for 1, true or yes, else the rarer.
        gaps: how to handle a missing value in a sequence: ``refuse`` is an error; ``previous`` takes the last value before it,
            or at the beginning the first after it.
        val_path: a file of sequences to validate on, instead of a part of ``path``.
        test_path: a file of sequences to test on, instead of a part of ``path``.
        val_size, test_size: the shares held out for validation and test; 0.2 if there is no file for it.
        batch_size, standardize, seed: as for :class:`RowsDataModule`; channels are standardised over the existing steps.
        x: the name of array x in an ``.npz`` file.
        y: the name of array y.
        lengths: the name of array lengths.
        null_values, separator, decimal, encoding: as for :class:`TabularDataModule`.

    Raises:
        ValueError: an argument is outside its range; when the rows are first needed, the file cannot be read or learned from.
        FileNotFoundError: when the rows are first needed, the file does not exist.
        ModuleNotFoundError: a ``.ts`` file, and sktime is not installed: ``pip install '.[sequences]'``.
    """

    def __init__(
        self,
        path: str | Path,
        target: list[str] | str | None = None,
        series: str | None = None,
        time: str | None = None,
        channels: Sequence[str] | None = None,
        window: int | None = None,
        horizon: int | None = None,
        sequences: Places | None = None,
        task: Task | None = None,
        positive: str | None = None,
        gaps: Filling = "refuse",
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        batch_size: BatchSize = 32,
        val_size: float | None = None,
        test_size: float | None = None,
        standardize: bool = True,
        seed: int = 0,
        x: str = "x",
        y: str = "y",
        lengths: str = "lengths",
        null_values: Sequence[str] = NULL_VALUES,
        separator: str | None = None,
        decimal: Mark | None = None,
        encoding: str | None = None,
    ) -> None:
        # Plain values, because they are saved with the checkpoint.
        path, null_values, channels = str(path), list(null_values), None if channels is None else list(channels)
        val_path, test_path = (None if other is None else str(other) for other in (val_path, test_path))
        val_size, test_size = sizes_drawn(val_size, test_size, val_path, test_path)
        super().__init__(path, val_path, test_path, task, batch_size, val_size, test_size, standardize, seed)
        for option, value, allowed in (("gaps", gaps, Filling), ("sequences", sequences or "last", Places)):
            if value not in get_args(allowed):
                raise ValueError(f"{option} is {value!r}; it must be one of {', '.join(get_args(allowed))}")
        for option, steps in (("window", window), ("horizon", horizon)):
            if steps is not None and not 1 <= steps <= MAX_STEPS:
                raise ValueError(f"{option} is {steps}; it must be from 1 to {MAX_STEPS:,}")
        self._targets = [target] if isinstance(target, str) else list(target or ())
        self._forecast = Forecast(window, horizon or 1, (val_size, test_size)) if window or horizon else None
        if self._forecast and task not in (None, "regression"):
            raise ValueError(f"task is {task}; a forecast predicts numbers, so the task must be regression")
        if self._forecast:
            self.hparams["horizon"] = self._forecast.horizon
        self._given, self._positive = sequences, positive
        self._reader = Reader(
            self._targets,
            series,
            time,
            channels,
            self._forecast,
            gaps,
            (x, y, lengths),
            null_values,
            Dialect(separator, decimal, encoding),
        )
        self._layout: Layout | None = None
        self._words = ""

    @property
    def layout(self) -> Layout:
        """How sequences become x and y; fitted when first needed, unless a checkpoint has it."""
        if self._layout is None:
            _ = self.rows
        assert self._layout is not None
        return self._layout

    @property
    def sequences(self) -> Places:  # type: ignore[override]
        return self.layout.sequences

    @property
    def fitted_target(self) -> Target:  # type: ignore[override]
        return self.layout.target

    @property
    def targets(self) -> list[str]:
        """The names of the targets."""
        return self.layout.target.names

    @property
    def feature_names(self) -> list[str]:  # type: ignore[override]
        return self.layout.channels

    @property
    def offsets(self) -> list[float]:
        """What was subtracted from each channel in float64; 0 unless float32 would lose digits."""
        return self.layout.offsets

    def load(self) -> Rows:
        for path in (self.path, *self.other_paths.values()):
            if path is not None:
                self._reader.check(Path(path))
        found = self._read(self.path, True)
        if self._layout is None:
            self._layout = self._fitted(found)
        self._part_of = self._draw(found)
        self._words = self._in_words(found)
        return Rows(self._x(found), self._y(found))

    def split_rows(self, name: Split) -> Rows:
        if (path := self.other_paths.get(name)) is None:
            return super().split_rows(name)
        if name not in self._others:
            _ = self.layout
            found = self._read(Path(path), True)
            self._others[name] = Rows(self._x(found), self._y(found))
        return self._others[name]

    def predict_dataloader(self) -> Iterable[tuple[Tensor, pl.DataFrame]]:  # type: ignore[override]
        """The sequences of ``path``: x (B, T, num_features), and the columns that identify them. No target is needed.

        A series to forecast has windows up to its end; the steps after that are predicted.
        """
        _ = self.layout
        self._reader.check(self.path)
        found = self._read(self.path, False)
        return _ToPredict(self._x(found), found)

    def in_words(self) -> str:
        """A line with the file's task, sequences and channels."""
        _ = self.rows
        return self._words

    def _in_words(self, found: Sequences) -> str:
        shortest, longest = int(found.lengths.min()), int(found.lengths.max())
        lengths = counted(longest, "step", "steps") if shortest == longest else f"{shortest} to {longest} steps"
        units = ("sequence", "sequences") if self._forecast is None or found.each else ("window", "windows")
        many = counted(len(found.lengths), *units)
        channels = counted(len(found.channels), "channel", "channels")
        line = f"{self.path}: {self.task}, {many} of {lengths}, {channels}: {', '.join(found.channels[:20])}"
        line += f" and {len(found.channels) - 20} more" * (len(found.channels) > 20)
        return line + (f"; not used, because they are not numbers: {', '.join(found.left_out)}" if found.left_out else "")

    def _read(self, path: Path, with_targets: bool) -> Sequences:
        """A file's sequences; with ``with_targets``, their targets too."""
        places, channels = (self._layout.sequences, self._layout.channels) if self._layout else (self._given, None)
        found = self._reader.read(path, with_targets, None if places is None else places == "each", channels)
        if self._layout and with_targets:
            names = self._layout.target.names
            if len(found.targets) != len(names):
                some = counted(len(found.targets), "target", "targets")
                raise ValueError(f"{path} has {some}; the network has learned {len(names)}: {listed(names)}")
            found.targets = dict(zip(names, found.targets.values(), strict=True))
        return found

    def _fitted(self, found: Sequences) -> Layout:
        """The layout fitted to the file's own sequences."""
        task: Task | None = "regression" if self._forecast else self._given_task
        count = int(found.lengths.sum()) if found.each else len(found.lengths)
        target = fit_target(found.targets, [*found.targets], task, pl.Series([True] * count), self._positive)
        steps = found.x[found.steps]
        values = [pl.Series(steps[:, number]) for number in range(steps.shape[1])]
        offsets = [float(np.median(each.to_numpy())) if needs_float64(each) else 0.0 for each in values]
        return Layout(target, "each" if found.each else "last", found.channels, offsets)

    def _draw(self, found: Sequences) -> Tensor | None:
        """Each sequence's part, as :meth:`part_of` returns it."""
        number, target = len(found.lengths), self.layout.target
        if found.parts is not None:
            return torch.from_numpy(found.parts)
        if self.val_size == self.test_size == 0:  # each split is the whole set, or another file
            return torch.zeros(number, dtype=torch.uint8) if any(self.other_paths.values()) else None
        stratified = target.classes and not found.each
        codes = target.codes(found.targets) if stratified else np.zeros(number, np.uint8)
        sizes, names = (self.val_size, self.test_size), target.class_names if stratified else ()
        return draw_split(torch.from_numpy(codes), sizes, self.seed, names, ("sequence", "sequences"))

    def _x(self, found: Sequences) -> Tensor:
        return torch.from_numpy((found.x - np.array(self.layout.offsets)).astype(np.float32))

    def _y(self, found: Sequences) -> Tensor:
        """The targets, (N, num_outputs), or (N, T, num_outputs) if each step has one, NaN after the ends."""
        encoded = self.layout.target.encode(found.targets)
        if not found.each:
            return torch.from_numpy(encoded)
        y = np.full((*found.steps.shape, encoded.shape[1]), np.nan, np.float32)
        y[found.steps] = encoded
        return torch.from_numpy(y)

    def state_dict(self) -> dict[str, Any]:
        """The layout as plain values; empty before it is fitted."""
        return {} if self._layout is None else asdict(self._layout)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make x and y as in the run that saved this state.

        Raises:
            ValueError: that run had other targets, channels, places of the target, or another task.
        """
        refuse_misfit("the checkpoint's state of the sequences", state_dict, Layout)
        layout = Layout(**{**state_dict, "target": Target(**state_dict["target"])})
        target = layout.target
        if len(layout.offsets) != len(layout.channels) or len(target.offsets) not in (0, len(target.names)):
            raise ValueError("the checkpoint is damaged: it has another number of offsets than of channels or targets")
        own = self._forecast.names(self._targets) if self._forecast else self._targets
        if own and own != target.names:
            raise ValueError(f"the checkpoint's target is {listed(target.names)}, here it is {listed(own)}")
        for what, trained, said in (
            ("task is", target.task, self._given_task),
            ("sequences is", layout.sequences, self._given),
            ("channels are", layout.channels, self._reader.channels),
        ):
            if said not in (None, trained):
                raise ValueError(f"the checkpoint's {what} {trained}, here: {said}")
        if layout != self._layout:
            self._layout, self._rows, self._parts, self._others = layout, None, {}, {}


class _ToPredict:
    """Sequences and the columns that identify them, in parts."""

    def __init__(self, x: Tensor, found: Sequences) -> None:
        self._x, self._found = x, found

    def __iter__(self) -> Iterator[tuple[Tensor, pl.DataFrame]]:
        found = self._found
        ends = np.append(0, found.lengths.cumsum()) if found.each else np.arange(len(found.lengths) + 1)
        for first in range(0, len(self._x), EVALUATION_ROWS):
            last = min(first + EVALUATION_ROWS, len(self._x))
            yield self._x[first:last], found.keys[int(ends[first]) : int(ends[last])]
