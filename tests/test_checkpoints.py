"""Malicious and damaged checkpoints are refused in one line; those of a killed run can be used."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_runs import CONFIGS

from torchbp.cli import main
from torchbp.training.checkpoint import CheckpointIO

XOR = ["--config", str(CONFIGS / "xor.yaml")]


class Evil:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("owned",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: version_0 has two epochs, version_1 three."""
    folder, home = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(folder)
    try:
        assert main(["fit", *XOR, "--trainer.max_epochs", "2"]) == 0
        assert main(["fit", *XOR, "--trainer.max_epochs", "3"]) == 0
    finally:
        os.chdir(home)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``trained`` to damage, as working folder."""
    shutil.copytree(trained / "logs", tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "logs/xor"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("kind", ["added", "whole"])
def test_no_checkpoint_runs_code(
    runs: Path, kind: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "added":
        checkpoint = torch.load(runs / "version_1/checkpoints/last.ckpt", weights_only=True)
        torch.save({**checkpoint, "extra": Evil()}, "evil.ckpt")
    else:
        Path("evil.ckpt").write_bytes(pickle.dumps(Evil()))
    # PyTorch's switch to load unsafely has no effect.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert main([command, *XOR, "--ckpt_path", "evil.ckpt"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "evil.ckpt is damaged or no checkpoint of torchbp: it cannot be read as tensors and plain values" in error
    with pytest.raises(ValueError, match="cannot be read"):
        CheckpointIO().load_checkpoint("evil.ckpt", weights_only=False)
    assert not Path("owned").exists()
    if kind == "added":
        torch.load("evil.ckpt", weights_only=False)
        assert Path("owned").exists()  # an unsafe load does run the code


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    weight = torch.load(path, weights_only=True)["state_dict"]["network.layers.0.weight"].numpy().tobytes()
    place = content.index(weight) + 3
    path.write_bytes(
        {
            "empty": b"",
            "begun": content[:100],
            "half": content[: len(content) // 2],
            "unended": content[:-1],
            "flipped": content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :],
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "begun", "half", "unended", "flipped"])
def test_a_damaged_checkpoint_is_refused_by_name_and_replaced_as_the_last(
    runs: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last, best = (runs / f"version_1/checkpoints/{kind}.ckpt" for kind in ("last", "best"))
    damage(last, how)
    assert main(["test", *XOR, "--ckpt_path", str(last)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{last} is damaged or no checkpoint of torchbp" in error
    assert main(["fit", *XOR, "--ckpt_path", "last", "--trainer.max_epochs", "5"]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search("version_1/checkpoints/last.ckpt is damaged .*; .*version_1/checkpoints/best.ckpt takes its place", error)
    assert torch.load(last, weights_only=True)["global_step"] == 5  # replaces the damaged file
    assert {path.name for path in last.parent.iterdir()} == {"last.ckpt", "best.ckpt"}
    # This run has no intact checkpoint left, so the run before it is the newest.
    damage(last, how)
    damage(best, how)
    assert main(["test", *XOR, "--ckpt_path", "last"]) == 0
    assert "version_0/checkpoints/last.ckpt takes its place" in capsys.readouterr().err
    for path in runs.rglob("*.ckpt"):
        path.write_bytes(b"")
    assert main(["test", *XOR, "--ckpt_path", "last"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_best_of_a_run_killed_before_its_last_is_the_last(runs: Path) -> None:
    (runs / "version_1/checkpoints/last.ckpt").unlink()
    assert main(["fit", *XOR, "--ckpt_path", "last", "--trainer.max_epochs", "4"]) == 0
    assert torch.load(runs / "version_1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    class Interrupts:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    path = tmp_path / "new folder/last.ckpt"
    CheckpointIO().save_checkpoint({"a": torch.ones(10**5)}, path)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        CheckpointIO().save_checkpoint({"a": torch.zeros(10**5), "b": Interrupts()}, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["last.ckpt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    (tmp_path / "new folder/last.ckpt.999999999.0123.partial").touch()  # as left by a killed run
    CheckpointIO().save_checkpoint({"a": torch.zeros(10**5)}, path)
    assert os.listdir(path.parent) == ["last.ckpt"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.parametrize(("engine", "seed"), [("autograd", "0"), ("fused", "1")])
def test_killed_runs_end_as_if_they_had_not_been_killed(tmp_path: Path, engine: str, seed: str) -> None:
    script, schedule = Path(__file__).parent / "killed_runs.py", ["CosineAnnealingLR", "--model.lr_scheduler.T_max", "6"]
    done = subprocess.run(
        [sys.executable, script, "15", seed, "6", *XOR, "--model.engine", engine, "--model.lr_scheduler", *schedule],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    summary = re.search(r"15 kills in (\d+) runs, (\d+) resumed from a checkpoint", done.stdout)
    assert summary
    assert int(summary[1]) >= 3  # no run is killed more than six times
    assert int(summary[2]) >= 5


SCHEDULE = ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "2"]


def parameters(version: str) -> list[torch.Tensor]:
    saved = torch.load(f"logs/xor/{version}/checkpoints/last.ckpt", weights_only=True)
    return [saved["global_step"], *saved["state_dict"].values()]


@pytest.mark.parametrize("order", ["alone", "before", "after"])
def test_a_run_goes_on_with_the_settings_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = ["fit", "--config", str(CONFIGS / "xor.yaml"), *SCHEDULE, "--patience", "400"]
    assert main([*begun, "--trainer.max_epochs", "9"]) == 0
    assert main([*begun, "--trainer.max_epochs", "4"]) == 0
    path = "logs/xor/version_1/checkpoints/last.ckpt"
    configuration = {"alone": [], "before": ["--config", "config.yaml"], "after": ["--config", "config.yaml"]}[order]
    shutil.copy("logs/xor/version_1/config.yaml", "config.yaml")
    checkpoint = ["--ckpt_path", path]
    both = [*configuration, *checkpoint] if order == "before" else [*checkpoint, *configuration]
    assert main(["fit", *both, "--trainer.max_epochs", "9"]) == 0
    for one, other in zip(parameters("version_0"), parameters("version_1"), strict=True):
        assert one == other if isinstance(one, int) else one.equal(other)
    config = yaml.safe_load(Path("logs/xor/version_1/config.yaml").read_text())
    assert (config["patience"], config["trainer"]["max_epochs"], config["model"]["lr_scheduler"]["init_args"]["step_size"]) == (
        400,
        9,
        2,
    )


def test_a_schedule_that_is_not_known_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(CONFIGS / "xor.yaml"), *SCHEDULE, "--trainer.max_epochs", "2"]) == 0
    shutil.copy("logs/xor/version_0/checkpoints/last.ckpt", "kept.ckpt")
    assert main(["fit", "--ckpt_path", "kept.ckpt"]) == 1
    said = "torchbp: error: the checkpoint was trained with an lr_scheduler; set the same one, or give its run's --config\n"
    assert capsys.readouterr().err == said
    assert main(["fit", "--ckpt_path", "kept.ckpt", *SCHEDULE, "--trainer.max_epochs", "3"]) == 0


def test_a_checkpoint_callback_of_ones_own_stands_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.max_epochs", "2"]
    assert main(["fit", "--config", str(CONFIGS / "xor.yaml"), *options]) == 0
    assert {"best.ckpt", "last.ckpt"} < {path.name for path in Path("logs/xor/version_0/checkpoints").iterdir()}
