"""Runs that are ended from outside: by an interrupt, by a signal to terminate, or because nobody reads their output."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from training_runs import CONFIGS

from torchbp._interrupts import terminable, uninterrupted
from torchbp.cli import main

XOR = ["fit", "--config", str(CONFIGS / "xor.yaml"), "--trainer.max_epochs", "20"]


class Signals(Callback):
    """Sends this process a signal in the middle of the third epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.Signals[self.name])


@pytest.mark.parametrize(
    ("name", "status", "message"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_a_run_that_a_signal_ends_says_so_and_can_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    status: int,
    message: str,
    engine: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    sends = ["--trainer.callbacks", f"{{class_path: test_interrupted.Signals, init_args: {{name: {name}}}}}"]
    assert main([*XOR, "--model.engine", engine, *sends]) == status
    said = capfd.readouterr()
    assert said.err == f"torchbp: error: {message}\n"
    assert name == "SIGTERM" or f"best checkpoint: {next(Path().glob('logs/xor/*/checkpoints/best.ckpt'))}" in said.out
    assert main([*XOR, "--model.engine", engine, "--ckpt_path", "last"]) == 0
    assert os.listdir("logs/xor") == ["version_0"]


@contextmanager
def nobody_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes standard output a pipe whose other end is closed; not a fixture, because capture would replace it after setup."""
    reading, writing = os.pipe()
    os.close(reading)
    closed = os.fdopen(writing, "w")
    monkeypatch.setattr("sys.stdout", closed)
    yield
    sys.stdout.close()  # what replaced it
    with suppress(BrokenPipeError):
        closed.close()


def test_training_whose_reader_has_gone_says_that_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with nobody_reads(monkeypatch):
        assert main(XOR) == 1
    assert capfd.readouterr().err == "torchbp: error: standard output was closed, which has ended the run\n"


@pytest.mark.parametrize("call", [[], ["--version"]], ids=" ".join)
def test_output_that_nobody_reads_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: list[str]
) -> None:
    with nobody_reads(monkeypatch):
        assert main(call) == 0
    assert capfd.readouterr().err == ""


def test_without_standard_output_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout", None)  # as Python starts if it is closed
    assert main(XOR) == 1
    assert capfd.readouterr().err == "torchbp: error: standard output is closed\n"
    assert os.listdir() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no file that takes nothing")
@pytest.mark.parametrize("call", [[], ["--version"], ["trace", "--x", "0,1", "--y", "1"]], ids=" ".join)
def test_standard_output_that_takes_nothing_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: list[str]
) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  (to close it fails)
    monkeypatch.setattr("sys.stdout", full)
    assert main(call) == 1
    assert capfd.readouterr().err == "torchbp: error: a file cannot be written: No space left on device\n"
    with suppress(OSError):
        full.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no file that takes nothing")
@pytest.mark.parametrize("rows", [3, 3000])
def test_predictions_that_standard_output_does_not_take_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rows: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("x,y\n" + "1.5,a\n2.5,b\n" * 20)
    Path("new.csv").write_text("x\n" + "1.5\n" * rows)
    assert main(["fit", "--data.path", "t.csv", "--data.target", "y", "--trainer.max_epochs", "1"]) == 0
    capfd.readouterr()
    full = open("/dev/full", "w")  # noqa: SIM115  (to close it fails)
    monkeypatch.setattr("sys.stdout", full)
    assert main(["predict", "--ckpt_path", "last", "--data.path", "new.csv"]) == 1
    assert capfd.readouterr().err == "torchbp: error: standard output cannot be written: No space left on device\n"
    with suppress(OSError):
        full.close()


def test_a_handler_from_outside_python_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(number: int, handler: Any) -> Any:
        if handler is None:
            raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
        before, handlers[number] = handlers[number], handler
        return before

    handlers = {signal.SIGTERM: None, signal.SIGINT: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    monkeypatch.setattr(signal, "signal", install)
    with terminable(), uninterrupted():
        assert handlers[signal.SIGINT] not in (None, signal.SIG_DFL)
    assert handlers == {signal.SIGTERM: None, signal.SIGINT: signal.SIG_DFL}
