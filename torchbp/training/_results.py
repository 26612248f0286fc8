"""Collects the results of an evaluation: scores beside the baseline's, each class or target, and the importance of columns."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from torchbp.data import RowsDataModule, SequenceDataModule
from torchbp.training._evaluation import Baseline, Collected, Outcome, baseline_of
from torchbp.training._grids import score_grid
from torchbp.training._importance import Importance, importances
from torchbp.training._summary import Shown, beats_baseline, detailed
from torchbp.training.prediction import output_names

WORDS = {"val": "validation", "test": "test"}


class Results(Callback):
    """Collects a module's predictions in ``test`` or ``validate``, over all processes, and makes the tables to show.

    Args:
        split: ``val`` or ``test``.
        with_importance: whether to measure the importance of the columns too.
    """

    module: Any
    outcome: Outcome
    baseline: Baseline | None = None
    scores: dict[str, float]
    baseline_scores: dict[str, float]
    importances: list[Importance]
    offsets: Any = ()

    def __init__(self, split: str, with_importance: bool = False) -> None:
        self.split, self.with_importance = split, with_importance
        self.parts: Shown = []
        self.importances, self.baseline_scores = [], {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collected = Collected().to(pl_module.device)

    on_validation_start = on_test_start

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collected.update(outputs, batch[1])

    on_validation_batch_end = on_test_batch_end

    @torch.no_grad()
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Every process must take part: this gathers the rows of all.
        prediction, y = self._collected.rows(pl_module.hparams["num_outputs"])
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        suffix = f"/{self.split}"
        values = {name.removesuffix(suffix): float(value) for name, value in trainer.callback_metrics.items()}
        self.scores = {"cost": values.pop("cost"), **values}
        self.module, self.outcome = module, Outcome(prediction, y, self.scores["cost"])
        self.names, self.offsets = output_names(module.task, module.hparams["num_outputs"], data), []
        columns, note = {WORDS[self.split]: self.scores}, ""
        if isinstance(data, RowsDataModule):
            self.offsets = getattr(data, "target_offsets", ())
            self.baseline = baseline_of(data.split_rows("train"), module.task, self.names)
            of_baseline = self.baseline.of(self.outcome)
            self.baseline_scores = module.scores(of_baseline.prediction, y, 0.5)
            columns["baseline"], note = self.baseline_scores, f"baseline: {self.baseline.name}"
            if self.with_importance:
                rows = data.split_rows("test")
                names = data.feature_names if isinstance(data, SequenceDataModule) else None
                self.importances = importances(module, rows, getattr(data, "schema", None), data.seed, names)
        title = f"{len(y):,} {WORDS[self.split]} rows"
        words = f"the {WORDS[self.split]} rows"
        self.parts = [
            score_grid(title, columns, {name: len(y) for name in columns}, note),
            *detailed(module, self.outcome, self.names, self.offsets, words),
        ]
        if self.baseline and not beats_baseline(module, self.outcome, self.scores, self.baseline_scores):
            self.parts = [*self.parts, f"no better than the baseline ({self.baseline.name})"]

    on_validation_end = on_test_end
