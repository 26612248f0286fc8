"""Searches and cross-validations that a signal ends, as real processes."""

import os
import signal
import subprocess
import sys
import time
from math import inf, nan
from pathlib import Path

import numpy as np
import optuna
import polars as pl
import pytest

from torchbp.cli import main
from torchbp.training import _trials

STORAGE = "sqlite:///study.db"
DATA = ["--data.path", "t.csv", "--data.target", "kind"]
LONG = [*DATA, "--trainer.max_epochs", "1000000", "--patience", "1000000", "--data.batch_size", "16"]
SEARCH = ["search", *DATA, "--storage", STORAGE, "--model.hidden_sizes", "[4]", "--model.activation", "tanh"]
SIGNALS = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "terminated")}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(90, 2))
    pl.DataFrame({"p": x[:, 0], "q": x[:, 1], "kind": np.where(x[:, 0] + x[:, 1] > 0, "a", "b")}).write_csv("t.csv")


def begun(args):
    return subprocess.Popen([sys.executable, "-m", "torchbp", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened, process, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def trials():
    try:
        return optuna.load_study(study_name="torchbp", storage=STORAGE).trials
    except Exception:  # it does not exist yet, or is incomplete
        return []


@pytest.mark.parametrize("name", SIGNALS)
def test_a_search_that_a_signal_ends_saves_its_best_and_leaves_no_trial_running(name):
    status, message = SIGNALS[name]
    long = [*SEARCH, *LONG, "--trials", "6", "--side_by_side", "3"]
    process = begun(long)
    wait_for(lambda: any(len(trial.intermediate_values) > 5 for trial in trials()), process)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, f"torchbp: error: {message}\n")
    assert [trial.state.name for trial in trials()] == ["FAIL"] * 3
    assert "best checkpoint so far: logs/t/version_0/checkpoints/best.ckpt\nit is trial" in out
    assert f"the same command continues the study 'torchbp' in {STORAGE}" in out
    path = "logs/t/version_0/checkpoints/best.ckpt"
    assert main(["predict", "--ckpt_path", path, "--data.path", "t.csv", "--output", "p.csv"]) == 0
    rows = pl.read_csv("p.csv")
    assert (rows["class"] == pl.read_csv("t.csv")["kind"]).mean() > 0.8
    assert main([*SEARCH, "--trainer.max_epochs", "2", "--trials", "2"]) == 0
    assert [trial.state.name for trial in trials()] == ["FAIL"] * 3 + ["COMPLETE"] * 2


def test_a_search_that_ends_before_its_first_epoch_leaves_nothing(monkeypatch, capfd):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr("torchbp.training._trials.train_together", interrupted)
    assert main([*SEARCH, *LONG, "--trials", "2"]) == 130
    assert capfd.readouterr().err == "torchbp: error: interrupted\n"
    assert [trial.state.name for trial in trials()] == ["FAIL"] * 2
    assert not Path("logs").exists()


def test_a_signal_between_trials_waits_until_the_study_knows(monkeypatch, capfd):
    enqueue = optuna.Study.enqueue_trial

    def interrupted(self, *args, **kwargs):
        enqueue(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", interrupted)
    assert main([*SEARCH, *LONG, "--trials", "2"]) == 143
    assert capfd.readouterr().err == "torchbp: error: terminated\n"
    assert [trial.state.name for trial in trials()] == ["FAIL"] * 2


def test_an_error_at_the_end_saves_what_there_is(monkeypatch, capfd):
    def refit(*_):
        raise FloatingPointError("trained again, the best trial's cost is nan")

    monkeypatch.setattr("torchbp.training._trials.Search.refit", refit)
    assert main([*SEARCH, "--trainer.max_epochs", "3", "--trials", "2", "--output", "b.ckpt"]) == 1
    out, err = capfd.readouterr()
    assert err == "torchbp: error: trained again, the best trial's cost is nan\n"
    assert "best checkpoint so far: b.ckpt" in out
    assert main(["predict", "--ckpt_path", "b.ckpt", "--data.path", "t.csv", "--output", "p.csv"]) == 0


@pytest.mark.parametrize(
    ("lr", "said"),
    [
        (nan, "its cost has no curvature at the start, or is not finite; set --model.lr"),
        (0.5, "its cost was inf in epoch 3, lr 0.5; a smaller --model.lr may help"),
    ],
)
def test_a_best_network_that_diverges_when_trained_again(lr, said, monkeypatch, capfd):
    train = _trials.train_together

    def diverging(jobs, epochs, patience, on_epoch, *rest):
        learners = train(jobs, epochs, patience, on_epoch, *rest)
        if on_epoch is None:  # the best one, again
            learners[0].diverged, learners[0].lr, learners[0].costs = True, lr, [0.1, 0.1, inf]
        return learners

    monkeypatch.setattr(_trials, "train_together", diverging)
    assert main([*SEARCH, "--trainer.max_epochs", "3", "--trials", "2"]) == 1
    assert capfd.readouterr().err == f"torchbp: error: trained again, the best trial diverged: {said}\n"


def test_an_error_while_saving_does_not_replace_the_one_that_ended_the_search(monkeypatch, capfd):
    def refit(*_):
        raise FloatingPointError("trained again, the best trial's cost is nan")

    def full(*_):
        raise OSError(28, "No space left on device", "b.ckpt")

    monkeypatch.setattr("torchbp.training._trials.Search.refit", refit)
    monkeypatch.setattr("torchbp.training._trials.save_network", full)
    assert main([*SEARCH, "--trainer.max_epochs", "3", "--trials", "2", "--output", "b.ckpt"]) == 1
    lost, error = capfd.readouterr().err.splitlines()
    assert lost == "torchbp: the best network so far is not saved in b.ckpt: b.ckpt: No space left on device"
    assert error == "torchbp: error: trained again, the best trial's cost is nan"
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 2


def test_a_cross_validation_that_is_terminated_leaves_no_file():
    process = begun(["cross-validate", *LONG, "--output", "p.csv"])
    wait_for(lambda: len(os.listdir()) > 1, process)  # the partial file of p.csv
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "torchbp: error: terminated\n")
    assert os.listdir() == ["t.csv"]
