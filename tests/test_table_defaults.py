"""The defaults of training on a table, given path and target alone."""

from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
import yaml

from torchbp.cli import main
from torchbp.training import BPModule

DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One column with heavy tails, and one that determines the target."""
    monkeypatch.chdir(tmp_path)
    a, tail = DRAW.normal(size=200), np.exp(2 * DRAW.normal(size=200))
    pl.DataFrame({"a": a, "tail": tail, "y": np.sin(a) + 0.1 * DRAW.normal(size=200)}).write_csv("t.csv")


def fit(*options: str) -> tuple[dict, BPModule]:
    assert main(["fit", "--data.path", "t.csv", "--data.target", "y", *options]) == 0
    run = max(Path("logs/t").iterdir())
    return yaml.safe_load((run / "config.yaml").read_text()), BPModule.load_from_checkpoint(run / "checkpoints/best.ckpt")


def test_a_table_alone_has_the_defaults_and_options_override_them(capsys: pytest.CaptureFixture[str]) -> None:
    config, module = fit("--trainer.max_epochs", "2", "--model.hidden_sizes", "[8, 4]")
    said = capsys.readouterr().out
    assert "hidden_sizes [8, 4] of tanh, inputs clipped at 5 deviations, at most 2 epochs, patience 20" in said
    assert (config["patience"], config["trainer"]["max_epochs"], config["model"]["activation"]) == (20, 2, "tanh")
    assert module.hparams["hidden_sizes"] == [8, 4]
    assert [type(layer).__name__ for layer in module.network.layers] == ["ActivatedLinear", "ActivatedLinear", "Linear"]


def test_a_configuration_leaves_them_out() -> None:
    Path("c.yaml").write_text("model: {hidden_sizes: [3]}\ntrainer: {max_epochs: 1}\n")
    config, module = fit("--config", "c.yaml")
    assert (config["patience"], config["model"]["activation"], config["model"]["clip"]) == (None, "sigmoid", None)
    assert module.input_scaling.clip is None


def test_a_run_may_end_within_its_first_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data.path", "t.csv", "--data.target", "y", "--trainer.max_steps", "2"]) == 0
    assert "no best checkpoint: cost/val was not measured" in capsys.readouterr().out
    assert torch.load("logs/t/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_an_input_far_away_counts_as_five_deviations(engine: str) -> None:
    _, module = fit("--trainer.max_epochs", "2", "--model.engine", engine)
    mean, scale = module.input_scaling.mean, module.input_scaling.scale
    x = torch.stack([mean + deviations * scale for deviations in (4, 5.01, 50, 5e3, -5.01, -50)])
    prediction = module(x).detach()
    assert prediction[1:4, 0].tolist() == pytest.approx(3 * [prediction[1].item()], rel=1e-5)
    assert prediction[4].item() == pytest.approx(prediction[5].item(), rel=1e-5)
    assert prediction[0].item() != pytest.approx(prediction[1].item(), rel=1e-3)
    assert main(["export", "--ckpt_path", "best", "--output", "m.onnx"]) == 0
    exported = onnxruntime.InferenceSession("m.onnx").run(None, {"x": x.numpy()})[0]
    assert exported == pytest.approx(prediction.numpy(), abs=1e-5)


def test_the_rate_is_a_share_of_what_is_found() -> None:
    found = [fit("--trainer.max_epochs", "1", "--model.lr_factor", factor)[1].hparams["lr"] for factor in ("1", "0.25")]
    assert found[1] == pytest.approx(found[0] / 4)


@pytest.mark.parametrize(("option", "value"), [("clip", "0"), ("clip", "-1"), ("lr_factor", "0"), ("lr_factor", "-0.5")])
def test_bad_limits_and_factors_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data.path", "t.csv", "--data.target", "y", f"--model.{option}", value]) == 1
    assert f"{option} is {float(value)}; it must be a finite number above 0" in capsys.readouterr().err
    assert not Path("logs").exists()
