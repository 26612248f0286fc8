"""``engine: auto``: fused if it supports all that a run asks for, otherwise autograd; the run says which."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, LambdaCallback
from training_runs import config, quiet_trainer

from torchbp.cli import main
from torchbp.data import BuiltinDataModule
from torchbp.training import BPModule


class EachStep(Callback):
    def on_before_optimizer_step(self, *_: Any) -> None:
        pass


class EachEpoch(Callback):
    def on_train_epoch_end(self, *_: Any) -> None:
        pass


class OtherOptimizer(BPModule):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)


def fit(engine: Any, kind: type[BPModule] = BPModule, lr: Any = 0.5, **trainer: Any) -> BPModule:
    torch.manual_seed(0)
    module = kind(30, 1, lr=lr, engine=engine)
    run = quiet_trainer(**{"max_epochs": 2, "precision": "64-true", **trainer})
    run.fit(module, datamodule=BuiltinDataModule("breast_cancer"))
    assert run.global_step in (22, 12)
    return module


@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches != 1.`")
@pytest.mark.parametrize(
    ("run", "obstacle"),
    [
        ({}, None),
        ({"lr": "auto"}, None),
        ({"callbacks": [EarlyStopping("cost/val"), EachEpoch()]}, None),
        ({"gradient_clip_val": 0.01}, None),
        ({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, "gradient_clip_algorithm is value"),
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "GradientAccumulationScheduler is {0: 2}"),
        ({"callbacks": [EachStep()]}, "EachStep has a hook for every step"),
        ({"callbacks": [LambdaCallback(on_train_batch_end=lambda *_: None)]}, "LambdaCallback has a hook for every step"),
        ({"kind": OtherOptimizer}, "momentum is 0.9"),
        ({"kind": OtherOptimizer, "lr": "auto"}, "momentum is 0.9"),  # its loader is made before its optimizer
    ],
    ids=lambda value: f"{[*value]}" if isinstance(value, dict) else str(value),
)
def test_it_is_fused_unless_there_is_an_obstacle_and_the_parameters_are_the_same(
    run: dict[str, Any], obstacle: str | None
) -> None:
    module, expected = fit("auto", **run), fit("autograd", **run)
    assert (module.engine, module.obstacle) == ("autograd" if obstacle else "fused", obstacle)
    assert module.hparams["engine"] == "auto"
    for parameter, other in zip(module.network.parameters(), expected.network.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=1e-12 if obstacle is None else 0)


def test_each_run_chooses_anew() -> None:
    module = BPModule(30, 1, lr=0.5, engine="auto")
    for clip, engine in (("value", "autograd"), ("norm", "fused")):
        run = quiet_trainer(max_epochs=1, gradient_clip_val=0.1, gradient_clip_algorithm=clip)
        run.fit(module, datamodule=BuiltinDataModule("breast_cancer"))
        assert module.engine == engine


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "engine fused"),
        (
            ["--trainer.gradient_clip_val", "1", "--trainer.gradient_clip_algorithm", "value"],
            "engine autograd, because gradient_clip_algorithm is value",
        ),
        (["--model.engine", "autograd"], None),
        (["--model.engine", "fused"], None),
    ],
    ids=str,
)
def test_the_command_line_chooses_by_itself_and_says_so(
    options: list[str], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,label\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(40)))
    fit = ["fit", "--data.path", "t.csv", "--data.target", "label", "--model.lr", "1", "--trainer.max_epochs", "1"]
    assert main([*fit, *options]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("engine")] == ([said] if said else [])
    assert main([*fit[:1], "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0


def test_the_configurations_of_the_text_show_the_functions() -> None:
    assert {config(name)["model"]["engine"] for name in ("xor", "moons", "breast_cancer")} == {"autograd"}


def test_auto_takes_the_fused_engines_options() -> None:
    assert BPModule(2, 1, engine="auto", steps_per_execution=3).steps_per_execution == 3
    assert BPModule(2, 1).hparams["engine"] == "autograd"  # in a plain LightningModule, one step is one step
