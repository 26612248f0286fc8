"""Shows the rows before a run, and the results after it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor

from torchbp._text import digits, printable
from torchbp.data import RowsDataModule
from torchbp.data.base import EVALUATION_ROWS
from torchbp.data.rows import Rows, evenly_spaced, targets
from torchbp.training._evaluation import Outcome, baseline_of, evaluate
from torchbp.training._grids import (
    SHOWN,
    WIDE,
    Grid,
    class_grid,
    class_scores,
    confusion_grid,
    confusion_of,
    label_scores,
    score_grid,
    target_grid,
    target_scores,
)
from torchbp.training._matrix_image import matrix_image
from torchbp.training._saving import WaitingCheckpointIO
from torchbp.training._threshold import DEFAULT
from torchbp.training._verdict import History, is_no_better, verdict
from torchbp.training.prediction import output_names

if TYPE_CHECKING:
    from torchbp.training._module import BPModule

SPLITS = {"train": "training", "val": "validation", "test": "test"}
QUICK = 10**9  # maximum weights × rows, about a second's work, for a summary after Ctrl-C
DRAWN = 64  # maximum classes for which TensorBoard gets a picture of the confusion matrix

Shown = Sequence[Grid | str]


def show(parts: Shown, console: Console) -> None:
    """Print tables and lines."""
    for part in parts:
        if isinstance(part, str):
            print(printable(part), flush=True)
            continue
        with console.capture() as table:  # on a closed pipe rich would end the process without a message
            console.print(part.as_rich())
        print(printable(part.title), table.get(), sep="\n", end="", flush=True)
        if part.note:
            print(printable(part.note), flush=True)


def parts_of(data: RowsDataModule) -> dict[str, Rows]:
    """The rows of each split that is not empty, ``train`` first; ``all`` if every split is the whole set."""
    parts = {split: data.split_rows(split) for split in ("train", "val", "test")}
    if sum(map(len, parts.values())) > len(data.rows) and not any(getattr(data, "other_paths", {}).values()):
        return {"all": parts["train"]}
    return {split: rows for split, rows in parts.items() if len(rows)}


def announced(module: "BPModule", data: RowsDataModule) -> Shown:
    """What to show before training: the rows and classes of each split, and the baseline's scores."""
    names = output_names(module.task, module.hparams["num_outputs"], data)
    parts = parts_of(data)
    grid = rows_grid(parts, module.task, names, getattr(data, "target_offsets", ()))
    baseline = baseline_of(next(iter(parts.values())), module.task, names)
    judged = next(split for split in ("val", "test", "all", "train") if split in parts)
    y = torch.cat([*targets(parts[judged])])
    scores = module.scores(baseline.of(Outcome(y, y)).prediction, y, 0.5)
    # Errors of several targets have different units.
    shown = ("accuracy", "f1", "r2", "mae") if len(names) == 1 or module.task != "regression" else ("r2",)
    scored = "".join(f", {name} {digits(score)}" for name, score in scores.items() if name in shown)
    return [grid, f"baseline: {baseline.name}{scored} on {_words(judged)}"]


def _words(split: str) -> str:
    return f"the {SPLITS[split]} rows" if split in SPLITS else "all rows"


def rows_grid(parts: dict[str, Rows], task: str, names: Sequence[str], offsets: Sequence[float] = ()) -> Grid:
    """The number of rows of each split, and of each class or label; for a single target, its mean, deviation and range."""
    ys = {split: [*targets(rows)] for split, rows in parts.items()}
    grid = Grid("rows", ["", "rows"])
    if task != "regression":
        counts = {split: _counts(torch.cat(y), task) for split, y in ys.items()}
        if few := len(names) <= WIDE:
            grid.header = ["", "rows", *_with_positive(names, task)]
        else:
            grid.header = [
                "",
                "rows",
                "classes" if task == "multiclass" else "labels",
                "rows of the rarest",
                "of the most frequent",
            ]
        for split, of_each in counts.items():
            some = (of_each > 0).sum().item(), of_each.min().item(), of_each.max().item()
            shown = of_each.tolist() if few else some
            grid.rows.append([split, f"{len(parts[split]):,}", *(f"{count:,}" for count in shown)])
        return grid
    if len(names) == 1:
        grid.header = ["", "rows", f"mean of {names[0]}", "deviation", "least", "most"]
    for split, chunks in ys.items():
        cells = [split, f"{len(parts[split]):,}"]
        if len(names) == 1:
            y = torch.cat(chunks).double() + (offsets[0] if offsets else 0.0)
            cells += [digits(value.item()) for value in (y.mean(), y.std(correction=0), y.min(), y.max())]
        grid.rows.append(cells)
    return grid


def _with_positive(names: Sequence[str], task: str) -> list[str]:
    """The classes' names, with the positive one of two marked."""
    return [*names[:-1], f"{names[-1]} (positive)"] if task == "binary" else [*names]


def _counts(y: Tensor, task: str) -> Tensor:
    """How many of the rows y have each class or label."""
    if task == "multiclass":
        return torch.bincount(y.argmax(1), minlength=y.shape[1])
    positive = (y > 0.5).sum(0)
    return torch.cat([len(y) - positive, positive]) if task == "binary" else positive


def detailed(
    module: "BPModule", outcome: Outcome, names: Sequence[str], offsets: Sequence[float], of: str, whole: bool = False
) -> list[Grid]:
    """The tables of each class, label or target, and of the confusion matrix.

    Args:
        of: the rows' name, for the titles.
        whole: whether to show all classes or targets, also if a terminal has no room for them.
    """
    prediction, y = outcome.prediction, outcome.y
    most, wide = (None, None) if whole else (SHOWN, WIDE)
    if module.task == "regression":
        return [target_grid(f"each target, {of}", target_scores(prediction, y, names, offsets), most)]
    if module.task == "multilabel":
        return [class_grid(f"each label, {of}", label_scores(prediction, y, names), most)]
    confusion = confusion_of(prediction, y, module.threshold)
    scores = class_scores(confusion, _with_positive(names, module.task))
    return [class_grid(f"each class, {of}", scores, most), confusion_grid(confusion, names, wide)]


def beats_baseline(module: "BPModule", outcome: Outcome, scores: Mapping[str, float], base: Mapping[str, float]) -> bool:
    """Whether the predictions are better than the baseline, as far as the rows can tell, by the scores of both."""
    if module.threshold != DEFAULT:  # it was not chosen for accuracy: compare at 0.5
        scores = module.scores(outcome.prediction, outcome.y, DEFAULT)
    shares = _counts(outcome.y, module.task) / len(outcome) if module.task != "regression" else torch.zeros(1)
    return not is_no_better(scores, base, len(outcome), shares.min().item())


class Summary(Callback):
    """Summarises a run for :func:`show`; without a data module of torchbp, by the verdict alone.

    It evaluates the best network if there is a checkpoint of it, else the last one. An interrupted run is summarised if that
    takes about a second or less.

    Args:
        best: the callback that keeps the best checkpoint.
    """

    def __init__(self, best: ModelCheckpoint | None = None) -> None:
        self.best, self.history = best, History()
        self.parts: Shown = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        costs = trainer.callback_metrics
        if not self.history.train:
            self.history.first = trainer.current_epoch + 1
        for split, known in (("train", self.history.train), ("val", self.history.val)):
            if (cost := costs.get(f"cost/{split}")) is not None:
                known.append(float(cost))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.history.train:
            self._sum_up(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not (isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero and self.history.train):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, RowsDataModule) and not data.rows.mapped:
            weights = sum(parameter.numel() for parameter in pl_module.parameters())
            if weights * len(data.rows) <= QUICK:
                self._sum_up(trainer, pl_module)

    @torch.no_grad()
    def _sum_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RowsDataModule):
            self.parts = [verdict(self.history)]
            return
        rows = parts_of(data)
        for split, limit in (("val", trainer.limit_val_batches), ("test", trainer.limit_test_batches)):
            if limit == 0:
                rows.pop(split, None)
        names, offsets = output_names(module.task, module.hparams["num_outputs"], data), getattr(data, "target_offsets", ())
        with self._best_network(trainer, module) as which:
            sampled = {split: _sample(part) if split == "train" else part for split, part in rows.items()}
            outcomes = {split: evaluate(module, part) for split, part in sampled.items()}
            scores = {split: {"cost": one.cost, **module.scores(one.prediction, one.y)} for split, one in outcomes.items()}
            # Prefer rows that the run was not fitted to.
            judged = next(split for split in ("test", "val", "all", "train") if split in outcomes)
            baseline = baseline_of(next(iter(rows.values())), module.task, names)
            on_judged = baseline.of(outcomes[judged])
            scores["baseline"] = module.scores(on_judged.prediction, on_judged.y, 0.5)
            counts = {split: len(outcome) for split, outcome in outcomes.items()} | {"baseline": len(on_judged)}
            note = f"baseline: {baseline.name}, on {_words(judged)}"
            if module.threshold != DEFAULT:
                note += f"; {names[1]} is predicted above a probability of {module.threshold:g}"
            if len(sampled.get("train", ())) < len(rows.get("train", ())):
                note += f"; train: {len(sampled['train']):,} of {len(rows['train']):,} rows"
            details = detailed(module, outcomes[judged], names, offsets, _words(judged))
            useless = not beats_baseline(module, outcomes[judged], scores[judged], scores["baseline"])
            self.parts = [score_grid(which, scores, counts, note), *details]
            self.parts.append(verdict(self.history, baseline.name if useless else None))
            self._draw(trainer, module, outcomes[judged], names, judged, details)

    @contextmanager
    def _best_network(self, trainer: Trainer, module: "BPModule") -> Iterator[str]:
        """Load the best checkpoint into the module for the block; yield which epoch it is of, in words."""
        epochs = self.history.first + len(self.history.train) - 1
        io = trainer.strategy.checkpoint_io
        if not (self.best and self.best.best_model_path and isinstance(io, WaitingCheckpointIO)):
            yield f"after epoch {epochs}"
            return
        checkpoint, threshold = io.read(self.best.best_model_path), module.threshold
        own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(checkpoint["state_dict"])
        module.threshold = module.threshold_of(checkpoint)
        try:
            yield f"epoch {checkpoint['epoch'] + 1}, the best of {epochs} by {self.best.monitor}"
        finally:
            module.load_state_dict(own)
            module.threshold = threshold

    def _draw(
        self, trainer: Trainer, module: "BPModule", outcome: Outcome, names: Sequence[str], split: str, grids: Sequence[Grid]
    ) -> None:
        """Write the tables and the picture of the confusion matrix to TensorBoard."""
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        writer = trainer.logger.experiment
        writer.add_text(f"report/{split}", "\n\n".join(grid.as_markdown() for grid in grids), trainer.global_step)
        if module.task in ("binary", "multiclass") and len(names) <= DRAWN:
            confusion = confusion_of(outcome.prediction, outcome.y, module.threshold)
            writer.add_image(f"confusion_matrix/{split}", matrix_image(confusion.numpy(), names), trainer.global_step)


def _sample(rows: Rows) -> Rows:
    """Up to 8192 of the rows, evenly spaced."""
    if len(rows) <= EVALUATION_ROWS:
        return rows
    return Rows(*rows.take(evenly_spaced(len(rows), EVALUATION_ROWS)))
