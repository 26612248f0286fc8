"""The fused engine, compared with the autograd engine in real runs: parameters, counters, schedules, checkpoints."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset
from training_runs import quiet_trainer

from torchbp.data import BuiltinDataModule
from torchbp.training import BPModule, Histograms
from torchbp.training._progress import ProgressBar

# 343 of 569 rows are for training: 11 batches of 32, the last of 23.
BATCHES = 11


class Seen(Callback):
    """Keeps what a run passes to its callbacks."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.epochs: list[tuple[int, int, dict[str, float]]] = []
        self.lrs: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.epochs.append((trainer.current_epoch, trainer.global_step, metrics))


def fit(
    name: str = "breast_cancer",
    module: dict[str, Any] | None = None,
    ckpt_path: str | Path | None = None,
    batch_size: Any = 32,
    callbacks: list[Callback] | None = None,
    seed: int = 0,
    **trainer: Any,
) -> tuple[BPModule, Trainer, Seen]:
    torch.manual_seed(seed)
    data = BuiltinDataModule(name, batch_size=batch_size)
    network = BPModule(data.num_features, data.num_outputs, task=data.task, **(module or {}))
    seen = Seen()
    run = quiet_trainer(**{"max_epochs": 3, "precision": "64-true", "callbacks": [*(callbacks or []), seen], **trainer})
    run.fit(network, datamodule=data, ckpt_path=ckpt_path)
    return network, run, seen


def assert_same(one: BPModule, other: BPModule, atol: float = 1e-12) -> None:
    for parameter, expected in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("steps", [1, 4, None])
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("breast_cancer", {}),
        ("breast_cancer", {"cost": "squared_error", "hidden_sizes": (5, 4)}),
        ("digits", {"hidden_sizes": ()}),
        ("diabetes", {"hidden_sizes": (8,), "lr": 0.1}),
    ],
)
def test_parameters_and_metrics_are_those_of_the_autograd_engine(name: str, module: dict[str, Any], steps: int | None) -> None:
    expected, _, reference = fit(name, module)
    found, run, seen = fit(name, {**module, "engine": "fused", "steps_per_execution": steps})
    assert_same(found, expected)
    assert run.global_step == reference.epochs[-1][1]
    assert [epoch[:2] for epoch in seen.epochs] == [epoch[:2] for epoch in reference.epochs]
    for (_, _, metrics), (_, _, other) in zip(seen.epochs, reference.epochs, strict=True):
        assert metrics.keys() == other.keys()
        np.testing.assert_allclose(list(metrics.values()), [other[name] for name in metrics], rtol=1e-6)
    if name == "breast_cancer":
        assert seen.steps[: len(seen.steps) // 3] == {1: list(range(1, 12)), 4: [4, 8, 11], None: [11]}[steps]


@pytest.mark.parametrize("dtype", ["32-true", "bf16-true"])
def test_the_same_bits_whatever_steps_per_execution(dtype: Any) -> None:
    one, *_ = fit(module={"engine": "fused", "steps_per_execution": 1}, precision=dtype)
    many, *_ = fit(module={"engine": "fused", "steps_per_execution": 7}, precision=dtype)
    assert_same(one, many, atol=0)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 343), ("full", 1)])
def test_batch_sizes(batch_size: Any, steps: int) -> None:
    expected, *_ = fit(batch_size=batch_size, max_epochs=1, module={"lr": 0.05})
    found, run, _ = fit(batch_size=batch_size, max_epochs=1, module={"lr": 0.05, "engine": "fused"})
    assert_same(found, expected)
    assert run.global_step == steps


@pytest.mark.parametrize(
    "limits",
    [
        {"max_steps": 17, "max_epochs": -1},
        {"limit_train_batches": 5},
        {"limit_train_batches": 0.5},
        {"val_check_interval": 3},
        {"val_check_interval": 0.25},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
        {"fast_dev_run": 2},
    ],
)
def test_limits_are_kept_to_the_step(limits: dict[str, Any]) -> None:
    class Validated(Callback):
        def __init__(self) -> None:
            self.at: list[int] = []

        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            self.at.append(trainer.global_step)

    reference, validated = Validated(), Validated()
    expected, expected_run, _ = fit(callbacks=[reference], **limits)
    found, run, _ = fit(module={"engine": "fused"}, callbacks=[validated], **limits)
    assert_same(found, expected)
    assert run.global_step == expected_run.global_step
    assert run.current_epoch == expected_run.current_epoch
    assert validated.at == reference.at


def schedule(kind: str) -> dict[str, Any]:
    if kind == "plateau":
        return {"lr_scheduler": lambda optimizer: ReduceLROnPlateau(optimizer, monitor="cost/val", patience=0, threshold=0.9)}
    if kind == "step":
        return {
            "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40),
            "lr_scheduler_interval": "step",
        }
    return {"lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}


@pytest.mark.parametrize("kind", ["epoch", "step", "plateau"])
def test_learning_rate_schedules(kind: str) -> None:
    expected, _, reference = fit(module=schedule(kind), max_epochs=3)
    found, _, seen = fit(module={**schedule(kind), "engine": "fused", "steps_per_execution": 4}, max_epochs=3)
    assert_same(found, expected)
    assert reference.lrs[0] > reference.lrs[-1]
    assert seen.lrs[-1] == pytest.approx(reference.lrs[-1], rel=1e-12)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_checkpoints_every_n_train_steps(tmp_path: Path) -> None:
    def names(folder: Path, engine: str) -> set[str]:
        checkpoint = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
        fit(module={"engine": engine}, callbacks=[checkpoint], enable_checkpointing=True)
        return {path.name for path in folder.iterdir()}

    expected = names(tmp_path / "autograd", "autograd")
    assert len(expected) == 8
    assert names(tmp_path / "fused", "fused") == expected


@pytest.mark.parametrize(("before", "after"), [("fused", "fused"), ("autograd", "fused"), ("fused", "autograd")])
@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory")
def test_resume_from_the_middle_of_an_epoch(tmp_path: Path, before: str, after: str) -> None:
    expected, whole, _ = fit(module=schedule("epoch"))
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    fit(module={**schedule("epoch"), "engine": before}, callbacks=[checkpoint], enable_checkpointing=True)
    for step in (5, 15, 20, 30):
        settings = {**schedule("epoch"), "engine": after}
        found, run, seen = fit(module=settings, ckpt_path=tmp_path / f"step={step}.ckpt", seed=1)
        assert_same(found, expected)
        assert (run.global_step, run.current_epoch) == (whole.global_step, whole.current_epoch)
        assert seen.epochs[0][0] == step // BATCHES


def test_early_stopping() -> None:
    def stopped(engine: str) -> int:
        stop = EarlyStopping("cost/val", patience=1, min_delta=0.02)
        return fit(module={"engine": engine}, callbacks=[stop], max_epochs=50)[1].global_step

    assert stopped("fused") == stopped("autograd") < 50 * BATCHES


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_the_progress_bar_counts_batches(bar: type, capsys: pytest.CaptureFixture[str]) -> None:
    class Bar(bar):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            bars = self.progress.tasks[0].completed if bar is RichProgressBar else self.train_progress_bar.n
            reached.append(bars)
            super().on_train_epoch_end(trainer, pl_module)

    reached: list[int] = []
    fit(module={"engine": "fused"}, callbacks=[Bar()], enable_progress_bar=True, max_epochs=2)
    assert reached == [BATCHES, BATCHES]


def test_the_progress_bar_shows_the_speed_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("torchbp.training._progress.monotonic", lambda: now[0])
    told: list[str] = []

    class Bar(ProgressBar):
        """The speed in a run whose epochs take a fifth of a second."""

        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            now[0] += 0.2
            told.append(str(self.progress.columns[-2].render(self.train_progress_bar)))
            super().on_train_epoch_end(trainer, pl_module)

    bar = Bar()
    fit(module={"engine": "fused"}, callbacks=[bar], enable_progress_bar=True, max_epochs=12)
    assert bar.refresh_rate == 4
    assert told == [""] * 4 + [f"{BATCHES * 5} steps/s"] * 8


def test_histograms_and_steps_in_tensorboard_are_those_of_the_autograd_engine(tmp_path: Path) -> None:
    boards = {}
    for engine in ("autograd", "fused"):
        logger = TensorBoardLogger(tmp_path, engine, "")
        fit(module={"engine": engine}, callbacks=[Histograms(every_n_epochs=2)], logger=logger, max_epochs=4)
        boards[engine] = EventAccumulator(str(tmp_path / engine), {"histograms": 0, "scalars": 0}).Reload()
    expected, found = boards["autograd"], boards["fused"]
    assert found.Tags()["histograms"] == expected.Tags()["histograms"]
    assert found.Tags()["scalars"] == expected.Tags()["scalars"]
    for tag in expected.Tags()["histograms"]:
        assert len(expected.Histograms(tag)) == 2
        for one, other in zip(found.Histograms(tag), expected.Histograms(tag), strict=True):
            assert one.step == other.step
            value, reference = one.histogram_value, other.histogram_value
            np.testing.assert_allclose(
                [value.min, value.max, value.sum], [reference.min, reference.max, reference.sum], atol=1e-9
            )
    for tag in expected.Tags()["scalars"]:
        assert [event.step for event in found.Scalars(tag)] == [event.step for event in expected.Scalars(tag)]
        values = [[event.value for event in board.Scalars(tag)] for board in (found, expected)]
        np.testing.assert_allclose(*values, atol=1e-5)


def test_gradients_are_made_only_where_they_are_kept() -> None:
    network, *_ = fit(module={"engine": "fused"})
    assert all(parameter.grad is None for parameter in network.network.parameters())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_any_loader_will_do() -> None:
    x, y = torch.randn(50, 4), torch.rand(50, 2)
    modules = [BPModule(4, 2, task="multilabel", engine=engine) for engine in ("autograd", "fused")]
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        loader = DataLoader(TensorDataset(x, y), batch_size=20)
        run = quiet_trainer(max_epochs=2, limit_val_batches=0)
        run.fit(module, loader)
        assert run.global_step == 6
    assert_same(*modules, atol=1e-5)


def test_a_cost_that_is_not_finite_is_reported_with_its_step_and_layer() -> None:
    messages = []
    for engine in ("autograd", "fused"):
        with pytest.raises(FloatingPointError) as stop:
            fit("diabetes", {"engine": engine, "lr": 1e6}, max_epochs=30)
        messages.append(str(stop.value))
    assert re.search(r"the cost became \w+ at step \d+, .* layer 2", messages[0])
    assert messages[1] == messages[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
            "gradient_clip_algorithm is value; engine: fused cannot",
        ),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches is 2; .*use engine: autograd"),
        (
            {"callbacks": [GradientAccumulationScheduler({1: 4})]},
            r"GradientAccumulationScheduler is \{1: 4, 0: 1\}; .*use engine: autograd",
        ),
        ({"precision": "bf16-mixed"}, "precision is bf16-mixed; .*use engine: autograd"),
        ({"strategy": "fsdp"}, "strategy is FSDPStrategy; .*use engine: autograd"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments: dict[str, Any], message: str) -> None:
    if "strategy" in arguments and not torch.cuda.is_available():
        pytest.skip("Lightning's FSDP strategy needs a GPU")
    with pytest.raises(ValueError, match=message):
        fit(module={"engine": "fused"}, **arguments)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9), "momentum is 0.9; .*use engine: autograd"),
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.01), "weight_decay is 0.01"),
        (lambda parameters: torch.optim.Adam(parameters), "the optimizer is Adam, not torch.optim.SGD .*use engine: autograd"),
        (lambda parameters: torch.optim.SGD(list(parameters)[:1], lr=0.1), "every parameter"),
    ],
)
def test_other_optimizers_are_refused(optimizer: Any, message: str) -> None:
    class Other(BPModule):
        def configure_optimizers(self) -> Any:
            return optimizer(self.network.parameters())

    data = BuiltinDataModule("breast_cancer")
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(Other(30, 1, engine="fused"), datamodule=data)


def test_bad_arguments() -> None:
    for arguments, message in [
        ({"engine": "x"}, "engine is 'x'"),
        ({"engine": "fused", "steps_per_execution": 0}, "steps_per_execution is 0"),
        ({"steps_per_execution": 4}, "with another engine than autograd"),
        ({"cuda_graph": True}, "cuda_graph is for engine: fused only"),
        ({"lr_scheduler_interval": "day"}, "lr_scheduler_interval is 'day'"),
    ]:
        with pytest.raises(ValueError, match=message):
            BPModule(3, 1, **arguments)
