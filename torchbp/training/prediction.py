"""Writes predictions as a CSV or Parquet file, or as CSV to standard output."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
import polars as pl
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from torchbp._files import NotWrittenError, raising_os_error, replacing
from torchbp._text import printable
from torchbp.data.base import refuse_not_finite
from torchbp.data.values import not_numeric

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PART = 100_000  # rows per part of a Parquet file
FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # the beginning of a text that a spreadsheet runs

WriteRows = Callable[["pl.DataFrame"], None]


@contextmanager
def table_file(output: str, quote_formulas: bool = False) -> Iterator[WriteRows]:
    """Yields a function that writes rows to a file; the file gets its name when the block ends without an error.

    Args:
        output: the file; ``-`` for standard output.
        quote_formulas: whether to put ``'`` before a text in CSV that a spreadsheet would take for a formula.

    Raises:
        ValueError: the extension is not ``.csv``, ``.tsv`` or ``.parquet``.
        OSError: the file cannot be written.
    """
    path = Path(output)
    kind = path.suffix.lower()
    if output == "-":
        try:
            yield _csv(sys.stdout, ",", quote_formulas)
            sys.stdout.flush()
        except OSError as error:
            if error.filename is None and error.errno not in (None, errno.EPIPE):
                raise NotWrittenError(f"standard output cannot be written: {error.strerror}") from None
            raise
    elif kind in SEPARATORS:
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            yield _csv(file, SEPARATORS[kind], quote_formulas)
    elif kind == ".parquet":
        with replacing(path) as partial, _parquet(partial) as write:
            yield write
    else:
        raise ValueError(f"the output {output} has the extension {kind!r}; it must be one of .csv, .tsv, .parquet, or - alone")


def refuse_own_file(output: str, data: Any) -> None:
    """Refuse to write over the data's own file.

    Raises:
        ValueError: ``output`` is one of the data's files.
    """
    for path in (getattr(data, "path", None), *getattr(data, "other_paths", {}).values()):
        if path and os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise ValueError(f"output is {output}; it must be another file than the data's, which would be lost")


def _csv(file: TextIO, separator: str, quote_formulas: bool) -> WriteRows:
    header, terminal = True, file.isatty()

    def write(rows: pl.DataFrame) -> None:
        nonlocal header
        text = (without_formulas(rows) if quote_formulas else rows).write_csv(include_header=header, separator=separator)
        file.write(printable(text, keep="\n\t") if terminal else text)
        header = False

    return write


def without_formulas(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, with ``'`` before each text and column name that a spreadsheet would take for a formula; not before numbers."""
    texts = pl.col(pl.String)
    bad = texts.str.contains(FORMULA) & not_numeric(texts)
    rows = rows.with_columns(pl.when(bad).then("'" + texts).otherwise(texts).name.keep())
    names: list[str] = []
    for name in rows.columns:
        name = f"'{name}" if re.match(FORMULA, name) else name
        while name in names:
            name = f"'{name}"
        names.append(name)
    return rows.rename(dict(zip(rows.columns, names, strict=True)))


@contextmanager
def _parquet(path: Path) -> Iterator[WriteRows]:
    """Write parts beside the file, and join them at the end: Parquet cannot be appended to, and rows may not fit memory."""
    folders = TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent)
    with folders as folder, raising_os_error(path, pl.exceptions.ComputeError):
        waiting: list[pl.DataFrame] = []
        number = 0

        def write(rows: pl.DataFrame | None) -> None:
            nonlocal number
            if rows is not None:
                waiting.append(rows)
            if waiting and (rows is None or sum(map(len, waiting)) >= PART):
                pl.concat(waiting).write_parquet(f"{folder}/{number:09}.parquet")
                waiting.clear()
                number += 1

        yield write
        write(None)
        pl.scan_parquet(sorted(Path(folder).iterdir()), glob=False).sink_parquet(path)


class PredictionWriter(Callback):
    """Writes each batch's predictions as rows of a table.

    The first column, ``row``, numbers the rows of the data from 1 (with a prediction for each step of sequences, the steps).
    Then come the columns of a file that the network does not use, then those of :func:`prediction_columns`.

    Args:
        write: writes the rows.
    """

    def __init__(self, write: WriteRows) -> None:
        self.write = write

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._task: str = pl_module.hparams["task"]
        self._names = output_names(self._task, pl_module.hparams["num_outputs"], data)
        self._threshold: float = getattr(pl_module, "threshold", 0.5)
        self._offsets: Sequence[float] = getattr(data, "target_offsets", ())
        self._row = 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        x = batch[0]
        if x.dim() == 3:  # sequences: their values were checked when they were read
            outputs = outputs if outputs.dim() == 2 else outputs[~x[..., 0].isnan()]
        else:
            refuse_not_finite("x", x, self._row)
        if self._offsets:
            outputs = outputs.double() + outputs.new_tensor(self._offsets, dtype=torch.float64)
        columns = prediction_columns(outputs, self._task, self._names, self._threshold)
        if pl_module.hparams.get("networks"):
            module: Any = pl_module
            columns.update(spread_columns(module.members(x), self._task, self._names))
        rows: dict[str, Any] = {"row": np.arange(self._row, self._row + len(outputs)) + 1}
        if isinstance(batch[-1], pl.DataFrame):
            for values in batch[-1]:
                name = values.name
                while name in rows or name in columns:
                    name += " (input)"
                rows[name] = values
        self.write(pl.DataFrame({**rows, **columns}))
        self._row += len(outputs)


def spread_columns(members: Tensor, task: str, names: Sequence[str]) -> dict[str, Any]:
    """The standard deviation of K networks' predictions (K, B, num_outputs), in the prediction's units.

    The column is ``spread``; for ``multiclass`` it is that of the likeliest class's probability. Several labels or targets
    have a column ``spread_NAME`` each.
    """
    deviation = members.std(0, correction=0)
    if task == "multiclass":
        deviation = deviation.gather(1, members.mean(0).argmax(1, keepdim=True))
    values = deviation.float().cpu().numpy()
    titles = ["spread"] if values.shape[1] == 1 else [f"spread_{name}" for name in names]
    return {title: values[:, number] for number, title in enumerate(titles)}


def output_names(task: str, num_outputs: int, data: Any) -> list[str]:
    """The names of the outputs: classes (both for ``binary``), labels or targets."""
    names: Sequence[Any] = getattr(data, "targets" if task == "regression" else "class_names", ())
    return [str(name) for name in names or range(2 if task == "binary" else num_outputs)]


def prediction_columns(prediction: Tensor, task: str, names: Sequence[str], threshold: float = 0.5) -> dict[str, Any]:
    """The columns for predictions (B, num_outputs).

    For ``multiclass``, ``class`` is the likeliest class; for ``binary`` the positive one if its probability is above
    ``threshold``. ``p_NAME`` is the probability of each class, or of each label for ``multilabel``. For ``regression``,
    ``prediction`` is the value; several targets have ``prediction_NAME`` each.
    """
    values = prediction.cpu().numpy() if prediction.dtype == torch.float64 else prediction.float().cpu().numpy()
    if task == "regression":
        titles = ["prediction"] if len(names) == 1 else [f"prediction_{name}" for name in names]
    else:
        titles = [f"p_{name}" for name in names]
    if task == "binary":
        values = np.hstack([1 - values, values])
    columns: dict[str, Any] = {}
    if task in ("binary", "multiclass"):
        classes = (values[:, 1] > threshold).astype(int) if task == "binary" else values.argmax(1)
        columns["class"] = pl.Series(names).gather(classes)
    return {**columns, **{title: values[:, number] for number, title in enumerate(titles)}}
