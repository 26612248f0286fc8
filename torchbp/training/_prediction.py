"""Predictions as a CSV file."""

import csv
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer


class PredictionWriter(Callback):
    """Writes predictions as CSV, batch by batch: the likeliest class and each probability, or the predicted values.

    A file is written under a temporary name and moved into place when it is whole.

    Args:
        output: the file's path; ``-`` is standard output.
    """

    def __init__(self, output: str = "-") -> None:
        self.output = output
        self._file: TextIO = sys.stdout

    @property
    def _partial(self) -> Path:
        return Path(f"{self.output}.partial")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.output != "-":
            self._file = self._partial.open("w", newline="")
        self._names = list(getattr(trainer.datamodule, "class_names", ()))  # type: ignore[attr-defined]
        self._task = pl_module.hparams["task"]
        writer = csv.writer(self._file)
        outputs = pl_module.hparams["num_outputs"]
        if self._task in ("binary", "multiclass"):
            self._names = self._names or [str(number) for number in range(max(outputs, 2))]
            writer.writerow(["class", *(f"p_{name}" for name in self._names)])
        elif self._task == "multilabel":
            writer.writerow(f"p_{name}" for name in (self._names or range(outputs)))
        else:
            writer.writerow(["prediction"] if outputs == 1 else [f"prediction_{number}" for number in range(outputs)])
        self._writer = writer

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        values = outputs.tolist()
        if self._task == "binary":
            values = [[1 - p, p] for (p,) in values]
        if self._task in ("binary", "multiclass"):
            values = [[self._names[max(range(len(row)), key=row.__getitem__)], *row] for row in values]
        self._writer.writerows(values)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.output != "-":
            self._file.close()
            os.replace(self._partial, self.output)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._file is not sys.stdout:
            self._file.close()
            self._partial.unlink(missing_ok=True)
