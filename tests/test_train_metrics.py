"""Metrics of the training rows, compared with PyTorch's functions and Lightning's logging."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from training_runs import quiet_trainer

from torchbp.data import BuiltinDataModule
from torchbp.training import BPModule

STEPS = 19 + 19 + 7  # two epochs of moons, and a part of one
BATCHES = [range(19), range(19, 38), range(38, STEPS)]


class Witness(Callback):
    """Keeps every batch's rows with their predictions before the step, and the metrics that callbacks see."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.shown: list[float] = []

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((pl_module(batch[0]), batch[1]))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.shown.append(trainer.callback_metrics["cost/train"].item())

    def epochs(self) -> list[tuple[Tensor, Tensor]]:
        return [tuple(torch.cat([self.batches[i][side] for i in epoch]) for side in (0, 1)) for epoch in BATCHES]  # type: ignore[misc]


class SelfLog(LightningModule):
    """Logs with Lightning's own ``log``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        cost = self.layer(batch[0]).square().mean()
        self.log("cost/train", cost, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return cost

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(module: LightningModule, folder: Path, **trainer: Any) -> EventAccumulator:
    logger = TensorBoardLogger(folder, name=None, version="run")
    run = quiet_trainer(max_steps=STEPS, logger=logger, limit_val_batches=0, log_every_n_steps=50, **trainer)
    run.fit(module, datamodule=BuiltinDataModule("moons"))
    return EventAccumulator(logger.log_dir).Reload()


@pytest.mark.parametrize(("engine", "steps"), [("autograd", None), ("fused", 1)])
def test_costs_and_accuracies_are_those_of_the_rows_as_they_were_trained_on(
    engine: Any, steps: int | None, tmp_path: Path
) -> None:
    witness = Witness()
    board = train(BPModule(2, 1, (8,), engine=engine, steps_per_execution=steps), tmp_path, callbacks=[witness])
    costs = [binary_cross_entropy(prediction, y).item() for prediction, y in witness.epochs()]
    right = [((prediction > 0.5) == y.bool()).double().mean().item() for prediction, y in witness.epochs()]
    assert [event.value for event in board.Scalars("cost/train")] == pytest.approx(costs, rel=1e-5)
    assert [event.value for event in board.Scalars("accuracy/train")] == pytest.approx(right, rel=1e-5)
    assert witness.shown == pytest.approx(costs, rel=1e-5)


def test_scalars_are_written_where_lightning_would_write_them(tmp_path: Path) -> None:
    ours = train(BPModule(2, 1, (8,), engine="fused"), tmp_path / "ours").Scalars
    own = train(SelfLog(), tmp_path / "own").Scalars
    for tag in ("cost/train", "epoch"):
        assert [event.step for event in ours(tag)] == [event.step for event in own(tag)]
    assert [event.value for event in ours("epoch")] == [event.value for event in own("epoch")]


def test_an_epoch_that_a_callback_skips_says_nothing(tmp_path: Path) -> None:
    class Skipped(BPModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.current_epoch == 1 else None

    board = train(Skipped(2, 1, (8,)), tmp_path)
    assert [event.step for event in board.Scalars("cost/train")] == [18, 37, 44]


def test_a_run_does_not_count_rows_of_an_interrupted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            raise InterruptedError

    monkeypatch.setattr("torchbp.training._epoch_metrics.ROWS_AT_ONCE", 1)
    module, witness = BPModule(2, 1, (8,)), Witness()
    data = BuiltinDataModule("moons")
    with pytest.raises(InterruptedError):
        quiet_trainer(max_epochs=1, callbacks=[Broken()]).fit(module, datamodule=data)
    run = quiet_trainer(max_epochs=1, callbacks=[witness], limit_val_batches=0)
    run.fit(module, datamodule=data)
    predictions, y = (torch.cat([batch[side] for batch in witness.batches]) for side in (0, 1))
    right = ((predictions > 0.5) == y.bool()).double().mean().item()
    assert run.callback_metrics["accuracy/train"].item() == pytest.approx(right, rel=1e-5)


def test_a_checkpoint_of_the_least_cost_of_training(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path / "best", "{cost/train:.6f}", "cost/train", auto_insert_metric_name=False)
    witness = Witness()
    train(BPModule(2, 1, (8,)), tmp_path, callbacks=[witness, best], enable_checkpointing=True)
    costs = [binary_cross_entropy(prediction, y).item() for prediction, y in witness.epochs()]
    assert float(Path(best.best_model_path).stem) == pytest.approx(min(costs), abs=1e-6)
