"""Failures during a run: damaged bytes, a full disk, logs that cannot be written, a cost that is not finite."""

import gc
import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_runs import CONFIGS

from torchbp.cli import main

XOR = ["--config", str(CONFIGS / "xor.yaml")]
GOOD = "age,city,y\n" + "".join(f"{row * 0.7:.1f},{'rst'[row % 3]},{'no' if row % 2 else 'yes'}\n" for row in range(40))


def one_line(capture: pytest.CaptureFixture[str]) -> str:
    error = capture.readouterr().err
    assert error.startswith("torchbp: error: "), error
    assert error.count("\n") == 1, error
    return error


def in_memory(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


PARQUET = in_memory(pl.read_csv(io.StringIO(GOOD)).write_parquet)
NPZ = in_memory(lambda file: np.savez(file, x=np.arange(80.0).reshape(40, 2), y=np.arange(40) % 2))


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bytes replaced, and sometimes its end cut off."""

    def apply(changes: list[tuple[int, int]], end: int) -> bytes:
        result = bytearray(content)
        for place, value in changes:
            result[place] = value
        return bytes(result[:end])

    place, whole = st.integers(0, len(content) - 1), st.just(len(content))
    return st.builds(apply, st.lists(st.tuples(place, st.integers(0, 255)), max_size=6), st.one_of(whole, whole, place))


lines = st.lists(
    st.sampled_from(["1,a,0", "2,b,1", "nan,,1", "-3e8,a,no", "x", '"', '"1,\n2",c,0', ",,", "inf,b,1", "é,ü,ß"]), max_size=20
)
KINDS = {
    "csv": st.one_of(
        lines.map(lambda rows: "\n".join(["a,b,y", *rows]).encode()), damaged(GOOD.encode()), st.binary(max_size=60)
    ),
    "parquet": damaged(PARQUET),
    "npz": damaged(NPZ),
}


@pytest.mark.filterwarnings("ignore:column .* determines the target by itself")
@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_refused_in_one_line_or_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data", "ArrayDataModule"] if kind == "npz" else ["--data.target", "y"]
    options += ["--data.path", f"file.{kind}", "--trainer.max_epochs", "1", "--trainer.logger", "false"]
    seen = set()

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(content=KINDS[kind])
    def run(content: bytes) -> None:
        Path(f"file.{kind}").write_bytes(content)
        status = main(["fit", *options])
        seen.add(status)
        if status == 0:
            assert capfd.readouterr().err == ""
        else:
            assert status == 1
            assert "Traceback" not in one_line(capfd)

    run()
    assert 1 in seen


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes the working folder a separate disk if possible; returns a function that limits the bytes on it, or in any file."""
    folder, size = tmp_path / "disk", 2**21
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    monkeypatch.chdir(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(room: int) -> None:
        if mounted:
            free = os.statvfs(folder)
            Path("filler").write_bytes(bytes(max(free.f_bavail * free.f_frsize - room, 0)))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.filterwarnings("ignore:column .* determines the target by itself")
@pytest.mark.parametrize(
    "call",
    [
        ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "9"],
        ["predict", "--ckpt_path", "last.ckpt", "--data.path", "table.csv", "--output", "o.csv"],
        ["predict", "--ckpt_path", "last.ckpt", "--data.path", "table.csv", "--output", "o.parquet"],
        ["export", "--ckpt_path", "last.ckpt", "--output", "o.pt2"],
        ["fit", "--data.path", "table.csv", "--data.target", "y", "--data.memory", "0", "--data.cache_dir", "cache"],
    ],
    ids=lambda call: f"{call[0]} {call[-1]}",
)
def test_a_full_disk_loses_nothing(disk: Callable[[int], None], capfd: pytest.CaptureFixture[str], call: list[str]) -> None:
    Path("table.csv").write_text(GOOD + GOOD.split("\n", 1)[1] * 100)
    assert main(["fit", "--data.path", "table.csv", "--data.target", "y", "--trainer.max_epochs", "1"]) == 0
    checkpoints = Path("logs/table/version_0/checkpoints")
    shutil.copy(checkpoints / "last.ckpt", "last.ckpt")
    for name in ("o.csv", "o.parquet", "o.pt2"):
        Path(name).write_text("precious")
    saved = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    capfd.readouterr()
    disk(4096)
    assert main(call) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("torchbp: error: ")
    assert "cannot be written" in error
    assert any(why in error for why in ("No space left on device", "File too large"))
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == saved
    assert all(Path(name).read_text() == "precious" for name in ("o.csv", "o.parquet", "o.pt2"))
    assert not list(Path().rglob("*.partial*"))
    gc.collect()  # what the error held can be freed


def test_a_file_where_logs_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs").write_text("precious")
    assert main(["fit", *XOR, "--trainer.max_epochs", "1"]) == 1
    assert "logs/xor: Not a directory" in one_line(capfd)
    assert Path("logs").read_text() == "precious"


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_a_cost_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], engine: str
) -> None:
    monkeypatch.chdir(tmp_path)
    growing = ["--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler.gamma", "1e25"]
    assert main(["fit", "--config", str(CONFIGS / "diabetes.yaml"), "--model.engine", engine, *growing]) == 1
    error = one_line(capfd)
    assert "the cost became " in error
    assert " at step " in error
    assert "layer" in error
    for kind in ("best", "last"):
        checkpoint = torch.load(f"logs/diabetes/version_0/checkpoints/{kind}.ckpt", weights_only=True)
        assert checkpoint["epoch"] == 0
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert main(["test", "--ckpt_path", "last"]) == 0


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_a_cost_that_is_no_number_in_the_first_epoch_leaves_the_settings_that_led_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], engine: str
) -> None:
    monkeypatch.chdir(tmp_path)
    # On a slow machine, last would otherwise be written within the epoch too.
    steep = ["--model.lr", "1e38", "--model.engine", engine, "--every_epoch", "true"]
    assert main(["fit", "--config", str(CONFIGS / "diabetes.yaml"), *steep]) == 1
    error = one_line(capfd)
    assert "the cost became " in error
    assert "checkpoint" not in error  # there is no checkpoint
    run = Path("logs/diabetes/version_0")
    assert "lr: 1.0e+38" in (run / "config.yaml").read_text()
    assert not list(run.rglob("*.ckpt"))


def test_a_run_that_does_not_begin_leaves_the_runs_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *XOR, "--trainer.max_epochs", "1"]) == 0
    before = {path: path.read_bytes() for path in Path("logs").rglob("*") if path.is_file()}
    assert main(["fit", *XOR, "--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "0"]) == 1
    assert main(["fit", *XOR, "--trainer.max_time", "00:00:00:00"]) == 0
    assert capfd.readouterr().out.endswith("nothing was left to train\n")
    assert {path: path.read_bytes() for path in Path("logs").rglob("*") if path.is_file()} == before
    assert os.listdir("logs/xor") == ["version_0"]


def test_a_run_that_goes_on_within_an_epoch_in_a_folder_of_its_own_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", str(CONFIGS / "moons.yaml")]
    within = "{class_path: ModelCheckpoint, init_args: {dirpath: kept, filename: within, every_n_train_steps: 45}}"
    assert main([*fit, "--trainer.max_steps", "45", "--trainer.callbacks", within]) == 0  # an epoch has 38
    shutil.rmtree("logs")
    assert main([*fit, "--ckpt_path", "kept/within.ckpt", "--trainer.max_epochs", "2"]) == 0
    assert Path("logs/moons/version_0/checkpoints/last.ckpt").exists()


def test_what_was_trained_after_the_best_epoch_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *XOR, "--model.lr", "1e-30", "--trainer.max_epochs", "3"]) == 0  # no epoch beats the first
    folder = Path("logs/xor/version_0/checkpoints")
    assert [torch.load(folder / f"{kind}.ckpt", weights_only=True)["epoch"] for kind in ("best", "last")] == [0, 2]
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
    assert capfd.readouterr().out.endswith("nothing was left to train\n")


def test_a_run_without_validation_batches_keeps_its_best_by_the_training_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *XOR, "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]) == 0
    assert capfd.readouterr().err == ""
    assert Path("logs/xor/version_0/checkpoints/best.ckpt").exists()


def test_a_run_without_a_folder_leaves_the_configuration_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = (CONFIGS / "xor.yaml").read_text()
    Path("config.yaml").write_text(given)
    assert main(["fit", "--config", "config.yaml", "--trainer.max_epochs", "1", "--trainer.logger", "false"]) == 0
    assert Path("config.yaml").read_text() == given


def test_runs_without_a_logger_keep_their_checkpoints_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = ["fit", *XOR, "--trainer.logger", "false", "--trainer.max_epochs"]
    assert main([*quiet, "0"]) == main([*quiet, "1", "--trainer.max_time", "00:00:00:00"]) + 1 == 1
    assert os.listdir() == []  # no run has begun
    for number in range(2):
        assert main([*quiet, "2"]) == 0
        assert f"best checkpoint: checkpoints/version_{number}/best.ckpt" in capfd.readouterr().out
    second = {path: path.read_bytes() for path in Path("checkpoints/version_1").iterdir()}
    assert main([*quiet, "4", "--ckpt_path", "checkpoints/version_0/last.ckpt"]) == 0
    assert {path.name for path in Path("checkpoints").iterdir()} == {"version_0", "version_1"}
    assert torch.load("checkpoints/version_0/last.ckpt", weights_only=True)["epoch"] == 3
    assert {path: path.read_bytes() for path in second} == second


@pytest.mark.parametrize("kind", ["best", "last"])
def test_what_is_wrong_after_the_newest_checkpoint_was_found_is_said_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text(GOOD)
    assert main(["fit", "--data.path", "table.csv", "--data.target", "y", "--trainer.max_epochs", "1"]) == 0
    capfd.readouterr()
    assert main(["predict", "--ckpt_path", kind, "--data.path", "gone.csv"]) == 1
    assert "the data file gone.csv does not exist" in one_line(capfd)
    assert main(["test", "--ckpt_path", kind]) == 0
    assert capfd.readouterr().err == (
        f"torchbp: the newest run's checkpoint is logs/table/version_0/checkpoints/{kind}.ckpt\n"
        "torchbp: the data settings are those of logs/table/version_0/config.yaml\n"
    )


def test_a_feature_that_tells_the_target_is_warned_of_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("age,copy,y\n" + "".join(f"{row % 7},{row % 2},{row % 2}\n" for row in range(60)))
    command = [
        sys.executable,
        "-m",
        "torchbp",
        "fit",
        "--data.path",
        "table.csv",
        "--data.target",
        "y",
        "--trainer.max_epochs",
        "1",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("torchbp: warning: column 'copy' determines the target by itself")


def test_events_that_a_full_disk_does_not_take_are_named(
    disk: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    disk(2**14)
    assert main(["fit", *XOR, "--trainer.max_epochs", "100", "--trainer.enable_checkpointing", "false"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("torchbp: error: logs/xor/version_0/events.out.tfevents.* cannot be written: ")
    assert error.count("\n") == 1
