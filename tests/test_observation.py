"""What a run records under a time budget: when it is due, that it is right, and that it does not change training."""

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import CONFIGS, quiet_trainer

from torchbp.cli import main
from torchbp.data import ArrayDataModule, BuiltinDataModule
from torchbp.training import BoardLogger, BPModule, Budget
from torchbp.training import command as cli
from torchbp.training._saving import Last, WaitingCheckpointIO

NEVER = dict.fromkeys(cli.LIMITS, (0.0, inf, None))  # except at the first and the last epoch
EPOCHS = 8
PLATEAU = ["--model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("torchbp.training._budget.monotonic", lambda: now[0])
    return now


class Epochs(Callback):
    """The epochs that were due in a run with epochs of one second, whose observation takes another ``seconds``."""

    def __init__(self, clock: list[float], budget: Budget, seconds: float) -> None:
        self.clock, self.budget, self.seconds, self.due = clock, budget, seconds, []  # type: ignore[var-annotated]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.clock[0] += 1
        if self.budget.due(trainer):
            self.due.append(trainer.current_epoch)
            with self.budget.spending():
                self.clock[0] += self.seconds


@pytest.mark.parametrize(
    ("share", "at_most", "seconds", "expected"),
    [
        (0.05, inf, 0.01, range(100)),
        (0.05, inf, 0.5, [0, 9, 18, 28, 37, 47, 56, 66, 75, 85, 94, 99]),  # 6 s of 106
        (0.0, inf, 0.5, [0, 99]),
        (0.0, 20.0, 0.5, [0, 20, 40, 60, 80, 99]),
    ],
)
def test_a_budget_is_a_share_of_the_time(
    clock: list[float], share: float, at_most: float, seconds: float, expected: Any
) -> None:
    epochs = Epochs(clock, Budget(share, at_most), seconds)
    quiet_trainer(max_epochs=100, callbacks=[epochs]).fit(BPModule(2, 1, (2,)), datamodule=BuiltinDataModule("xor"))
    assert epochs.due == [*expected]


def test_a_thinned_budget_writes_less_often_in_a_longer_run(clock: list[float]) -> None:
    epochs = Epochs(clock, Budget(1.0, thin=4), 0.1)  # with time for every epoch
    quiet_trainer(max_epochs=60, callbacks=[epochs]).fit(BPModule(2, 1, (2,)), datamodule=BuiltinDataModule("xor"))
    assert epochs.due == [*range(8), 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 59]


@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_steps": 50}, {"max_epochs": 9, "callbacks": "stop"}], ids=str)
def test_the_last_epoch_is_known(limit: dict[str, Any]) -> None:
    class Last(Callback):
        budget = Budget(0.0)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.at_start = self.budget.due(trainer, trainer.num_training_batches)
            with self.budget.spending():
                pass

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            assert trainer.current_epoch in (0, 2) or not self.budget.due(trainer)
            self.at_end = self.budget.due(trainer)

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    last = Last()
    stops = limit.pop("callbacks", None) is not None
    quiet_trainer(**limit, callbacks=[last, *([Stop()] if stops else [])]).fit(
        BPModule(2, 1, (2,)), datamodule=BuiltinDataModule("moons", batch_size=32)
    )
    assert last.at_end
    assert last.at_start is not stops  # only when an epoch is broken off is it known to be the last


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> EventAccumulator:
    """Train on xor in a new working folder; returns the events."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["fit", "--config", str(CONFIGS / "xor.yaml"), "--trainer.max_epochs", str(EPOCHS), *options]) == 0
    return EventAccumulator("logs/xor/version_0", {"scalars": 0, "histograms": 0}).Reload()


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_every_kind_is_due_at_the_first_and_the_last_epoch_and_changes_no_parameter(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--model.engine", engine]
    every = fit(tmp_path / "every", monkeypatch, *options, "--every_epoch", "true")
    monkeypatch.setattr(cli, "LIMITS", NEVER)
    seldom = fit(tmp_path / "seldom", monkeypatch, *options)
    for tag in ("cost/train", "cost/val", "epoch"):
        assert [(e.step, e.value) for e in seldom.Scalars(tag)] == [(e.step, e.value) for e in every.Scalars(tag)]
    for tag in ("accuracy/train", "auroc/val", "norm/dL_dW/1", "norm/dL_dZ/2", "dead/1"):
        events = [(e.step, e.value) for e in every.Scalars(tag)]
        start, (first, *between, last) = events[:-EPOCHS], events[-EPOCHS:]
        assert len(between) == EPOCHS - 2
        assert [(e.step, e.value) for e in seldom.Scalars(tag)] == [*start, first, last]
        assert [step for step, _ in start] == ([0] if tag in ("norm/dL_dZ/2", "dead/1") else [])
    assert [e.step for e in every.Histograms("dL_dW/2")] == [*range(1, EPOCHS + 1)]
    assert [e.step for e in seldom.Histograms("dL_dW/2")] == [1, EPOCHS]
    for kind in ("best", "last"):
        file = f"logs/xor/version_0/checkpoints/{kind}.ckpt"
        one, other = (torch.load(tmp_path / name / file, weights_only=True) for name in ("every", "seldom"))
        assert (one["epoch"], one["global_step"]) == (other["epoch"], other["global_step"])
        assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--patience", "50"], 2),
        (["--trainer.callbacks", "{class_path: LearningRateMonitor}"], 2),
        (["--trainer.callbacks", "{class_path: EarlyStopping, init_args: {monitor: accuracy/val, patience: 50}}"], EPOCHS),
        (["--trainer.callbacks", "{class_path: ModelCheckpoint, init_args: {filename: '{f1/val}'}}"], EPOCHS),
        (["--trainer.callbacks", "{class_path: test_interrupted.Signals, init_args: {name: SIGCONT}}"], EPOCHS),
        ([*PLATEAU, "f1/val"], EPOCHS),
        ([*PLATEAU, "cost/val"], 2),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_metrics_are_there_every_epoch_where_something_may_look_at_them(
    options: list[str], seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "LIMITS", NEVER)
    assert len(fit(tmp_path / "run", monkeypatch, *options).Scalars("accuracy/val")) == seen


@pytest.mark.filterwarnings("ignore:Found 1 module")
@pytest.mark.parametrize("rows_at_once", [8192, 50])
def test_validation_in_training_says_what_validation_by_itself_does(
    rows_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchbp.data.base.EVALUATION_ROWS", rows_at_once)  # in one batch, or in several
    module, data = BPModule(64, 10, (8,), "multiclass"), BuiltinDataModule("digits")
    frozen = module.input_scaling.eval()
    trainer = quiet_trainer(max_epochs=2, num_sanity_val_steps=1)
    trainer.fit(module, datamodule=data)
    shown = {name: value.item() for name, value in trainer.callback_metrics.items() if name.endswith("/val")}
    (expected,) = trainer.validate(module, datamodule=data, verbose=False)
    assert shown == pytest.approx(expected, rel=1e-6)
    assert len(shown) == 5
    assert module.network.training
    assert not frozen.training


def test_checkpoints_that_wait_are_written_first_and_at_the_end(tmp_path: Path) -> None:
    io, best, last = WaitingCheckpointIO("best"), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    weight = torch.zeros(3)
    io.save_checkpoint({"weight": weight}, best)
    weight += 1  # as training goes on
    assert not best.exists()
    io.save_checkpoint({"weight": weight}, last)
    assert best.stat().st_mtime_ns < last.stat().st_mtime_ns
    weight += 1
    io.save_checkpoint({"weight": weight}, best)
    weight += 1
    assert [torch.load(path)["weight"][0] for path in (best, last)] == [0, 1]
    io.teardown()
    assert [torch.load(path)["weight"][0] for path in (best, last)] == [2, 1]


class Slow(Callback):
    """Each block of steps takes three seconds; takes away each checkpoint that is there by then."""

    def __init__(self, clock: list[float], folder: Path) -> None:
        self.clock, self.folder, self.saved = clock, folder, {}  # type: ignore[var-annotated]

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.clock[0] += 3
        path = self.folder / "checkpoints/last.ckpt"
        if path.exists():
            step = torch.load(path, weights_only=True)["global_step"]
            self.saved[step] = path.rename(self.folder / f"{step}.ckpt")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(("engine", "steps", "saved"), [("autograd", None, [4, 8, 12, 16]), ("fused", 3, [12])])
def test_the_last_checkpoint_does_not_wait_for_the_end_of_a_long_epoch(
    engine: Any, steps: int | None, saved: list[int], clock: list[float], tmp_path: Path
) -> None:
    ends, slow = [], Slow(clock, tmp_path)
    for callbacks, step in (([slow], None), ([], saved[0])):
        torch.manual_seed(len(ends))
        module = BPModule(2, 1, (3,), lr=1.0, engine=engine, steps_per_execution=steps)
        last = Last(Budget(0.0, 10.0))
        run = quiet_trainer(max_epochs=2, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[*callbacks, last])
        path = None if step is None else slow.saved[step]
        run.fit(module, datamodule=BuiltinDataModule("moons", batch_size=32), ckpt_path=path)
        ends.append([run.global_step, *module.network.state_dict().values()])
    assert [step for step in slow.saved if step < 19] == saved
    assert all(torch.equal(torch.as_tensor(one), torch.as_tensor(other)) for one, other in zip(*ends, strict=True))


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    ("rows", "task", "engine"),
    [("moons", "binary", "autograd"), ("digits", "multiclass", "fused"), ("two targets", "regression", "fused")],
)
def test_an_epoch_that_is_gone_on_with_has_the_cost_and_metrics_of_all_its_rows(
    rows: str, task: Any, engine: Any, clock: list[float], tmp_path: Path
) -> None:
    class Ends(Callback):
        """Notes the gradient's norms, the cost and the metrics of each epoch."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            ends[-1].append({name: value.item() for name, value in trainer.callback_metrics.items()})

    x = np.random.default_rng(0).normal(size=(500, 3))
    np.savez(tmp_path / "rows.npz", x=x, y=x[:, :2] @ [[1, 2], [3, -1]] + 300)
    ends, slow, path = [], Slow(clock, tmp_path), None  # type: ignore[var-annotated]
    for callbacks in ([slow], []):
        torch.manual_seed(len(ends))
        ends.append([])
        data: Any = ArrayDataModule(tmp_path / "rows.npz") if task == "regression" else BuiltinDataModule(rows, batch_size=32)
        steps = None if engine == "autograd" else 2
        module = BPModule(data.num_features, data.num_outputs, (4,), task, lr=0.3, engine=engine, steps_per_execution=steps)
        run = quiet_trainer(
            max_epochs=2,
            default_root_dir=tmp_path,
            enable_checkpointing=True,
            gradient_clip_val=1.0,
            callbacks=[*callbacks, Ends(), Last(Budget(0.0, 10.0))],
        )
        run.fit(module, datamodule=data, ckpt_path=path)
        path = path or slow.saved[min(slow.saved)]
    whole, resumed = ends
    assert len(whole[0]) >= 6
    assert [epoch["cost/train"] for epoch in resumed] == [epoch["cost/train"] for epoch in whole]
    assert resumed == [pytest.approx(epoch, rel=1e-6) for epoch in whole]  # a save sums the metrics' rows so far, in float32


class Foreign(BuiltinDataModule):
    """Loads the rows with PyTorch's own loader, which cannot go on in the middle of an epoch."""

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*self.split_rows("train").all()), 32)


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize(("own", "saved"), [(False, []), (True, [4, 8, 12, 16])])
def test_within_an_epoch_only_a_loader_with_a_state_is_saved(
    own: bool, saved: list[int], clock: list[float], tmp_path: Path
) -> None:
    data, slow = (BuiltinDataModule if own else Foreign)("moons", batch_size=32), Slow(clock, tmp_path)
    last = Last(Budget(0.0, 10.0))
    run = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[slow, last])
    module = BPModule(2, 1, (3,), lr=1.0)
    if own:  # a loader outside a data module
        run.fit(module, data.train_dataloader(), data.val_dataloader())
    else:
        run.fit(module, datamodule=data)
    assert [step for step in slow.saved if step < 19] == saved


def test_scalars_are_written_after_a_while_and_whatever_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("torchbp.training._board.time", lambda: now[0])
    logger = BoardLogger(tmp_path, name=None, version="run")

    def written() -> list[tuple[float, int, float]]:
        board = EventAccumulator(logger.log_dir).Reload()
        return [(e.wall_time, e.step, e.value) for e in board.Scalars("a/b")] if "a/b" in board.Tags()["scalars"] else []

    for step, value in enumerate([1.0, torch.tensor(2.0), 3]):
        logger.log_metrics({"a/b": value, "epoch": 0}, step)
        logger.save()
        now[0] += 0.9
    assert not Path(logger.log_dir).exists()
    logger.save()
    assert written() == [pytest.approx((100 + 0.9 * step, step, step + 1)) for step in range(3)]
    logger.log_metrics({"a/b": 4.0}, 3)
    logger.finalize("failed")
    assert written()[3:] == [pytest.approx((102.7, 3, 4))]
