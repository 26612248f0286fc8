"""The folders of runs in logs/: one per run, with a complete config.yaml; the newest is found by its number."""

import inspect
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from bad_files import GOOD
from training_runs import CONFIGS

from torchbp.cli import main
from torchbp.training import BPModule
from torchbp.training._folder import claimed
from torchbp.training.checkpoint import newest_checkpoint

XOR = ["--config", str(CONFIGS / "xor.yaml"), "--trainer.max_epochs", "2"]
CONFIG = Path("logs/xor/version_0/config.yaml")
LAST = "logs/xor/version_0/checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two epochs with a learning rate that no other run has."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *XOR, "--model.lr", "0.25"]) == 0


def test_runs_that_start_at_once_have_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: claimed(tmp_path / "logs/xor"), range(200)))
    assert {*names} == {f"version_{number}" for number in range(1, 201)}


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [1,\nb: }", "\x00", "model: {lr: 0.5}\n"])
def test_a_damaged_configuration_beside_a_good_checkpoint_is_reported_with_a_remedy(
    capsys: pytest.CaptureFixture[str], content: str
) -> None:
    CONFIG.write_text(content)
    for command in ("fit", "test"):
        assert main([command, "--ckpt_path", LAST]) == 1
        assert capsys.readouterr().err == (
            f"torchbp: error: {CONFIG} is empty or damaged; remove it, and give the run's options again or a --config FILE\n"
        )
    assert main(["fit", "--ckpt_path", LAST, *XOR, "--trainer.max_epochs", "3"]) == 0
    assert yaml.safe_load(CONFIG.read_text())["trainer"]["max_epochs"] == 3
    CONFIG.unlink()
    assert main(["fit", "--ckpt_path", LAST, "--trainer.max_epochs", "4"]) == 0  # a built-in set needs no file


def test_the_configuration_of_a_resumed_run_says_what_it_was_trained_with(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(LAST, "kept.ckpt")
    assert main(["fit", "--ckpt_path", "kept.ckpt", "--trainer.max_epochs", "3"]) == 0
    assert capsys.readouterr().err == ""
    before, after = (yaml.safe_load(Path(f"logs/xor/version_{n}/config.yaml").read_text()) for n in (0, 1))
    assert after["model"]["lr"] == 0.25
    assert all(after["model"][name] == value for name, value in before["model"].items() if value is not None)
    assert before["data"] == after["data"]
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "4"]) == 0  # uses that config.yaml


def test_of_equal_times_the_higher_number_is_the_newer() -> None:
    for number in (4, 12):
        shutil.copytree("logs/xor/version_0", f"logs/xor/version_{number}")
    for path in Path("logs").rglob("*.ckpt"):
        os.utime(path, (1e9, 1e9))
    assert newest_checkpoint("xor", "last") == "logs/xor/version_12/checkpoints/last.ckpt"
    assert newest_checkpoint(None, "best") == "logs/xor/version_12/checkpoints/best.ckpt"


def test_no_name_of_a_file_leads_out_of_logs() -> None:
    Path("...csv").write_text(GOOD)
    assert main(["fit", "--data.path", "...csv", "--data.target", "bought", "--trainer.max_epochs", "1"]) == 0
    assert {path.name for path in Path().iterdir()} == {"logs", "...csv"}
    assert Path("logs/run/version_0/checkpoints/last.ckpt").is_file()
    assert main(["fit", "--data.path", "...csv", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0


def test_settings_are_saved_in_the_order_of_the_signature() -> None:
    saved = torch.load(LAST, weights_only=True)["hyper_parameters"]
    assert list(saved) == [name for name in inspect.signature(BPModule).parameters if name != "lr_scheduler"]
