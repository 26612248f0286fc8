"""Kills runs at random moments and resumes them: python killed_runs.py KILLS SEED EPOCHS OPTIONS OF FIT...

Uses the working folder. Fails if a checkpoint is incomplete, or if a run's best or last differs from the uninterrupted run's.
A run is a fork of this process, which has imported everything, so that a run spends most of its time in training.
"""

import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

import torchbp.training.command
from torchbp.cli import main

# Checkpoints are saved after some epochs only, as in a longer run.
torchbp.training.command.LIMITS["checkpoints"] = (0.0, 0.02)
RESULT = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


def fit(*options: str) -> int:
    """Starts a process that trains; returns its process id."""
    Path("output").write_text("")
    if process := os.fork():
        return process
    with open("output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os._exit(main(["fit", *options]))


def epochs_done() -> int:
    """How many epochs the run has reported."""
    return max(map(int, re.findall(r"^epoch (\d+)/", Path("output").read_text(), re.MULTILINE)), default=0)


def ended(process: int, epoch: float = float("inf")) -> bool:
    """Waits until the process or the epoch ends; returns whether the process has ended."""
    while epochs_done() < epoch:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            if status:
                sys.exit(Path("output").read_text())
            return True
        time.sleep(0.002)
    return False


def killed(process: int, epoch: int, seconds: float) -> bool:
    """Kills the process this long after the end of an epoch; returns False if it had ended before."""
    if ended(process, epoch):
        return False
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def checkpoints() -> list[Path]:
    """All checkpoints; checks that each is complete."""
    paths = list(Path("logs").rglob("*.ckpt"))
    for path in paths:
        assert set(RESULT) < set(torch.load(path, weights_only=True)), path
        assert yaml.safe_load((path.parent.parent / "config.yaml").read_text())["model"], path
    return paths


def result() -> dict[str, Any]:
    last = max(Path("logs").rglob("last.ckpt"), key=os.path.getmtime)
    checkpoints = {kind: torch.load(last.with_stem(kind), weights_only=True) for kind in ("last", "best")}
    return {kind: {part: checkpoint[part] for part in RESULT} for kind, checkpoint in checkpoints.items()}


def equal(a: Any, b: Any) -> bool:
    """Whether all values are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


if __name__ == "__main__":
    kills, draw, epochs = int(sys.argv[1]), random.Random(int(sys.argv[2])), int(sys.argv[3])
    options = [*sys.argv[4:], "--trainer.max_epochs", str(epochs)]
    assert main(["fit", *options]) == 0
    expected = result()
    shutil.rmtree("logs")
    times = [time.monotonic()]
    process = fit(*options)
    for epoch in (1, epochs):
        assert not ended(process, epoch)
        times.append(time.monotonic())
    assert ended(process)
    assert equal(result(), expected)
    begin, step = times[1] - times[0], (times[2] - times[1]) / (epochs - 1)

    dead = resumed = finished = 0
    while dead < kills or not finished:
        shutil.rmtree("logs")
        deaths = 0
        while True:
            there = checkpoints()
            resumed += bool(there)
            process = fit(*(["--ckpt_path", "last"] if there else options))  # config.yaml has the other options
            epoch = 0 if there and draw.random() < 0.4 else draw.randint(0, epochs)  # often 0: soon after the resume
            seconds = draw.random() * (step if epoch else begin)
            if dead == kills or deaths == 6:
                assert ended(process)
                break
            if not killed(process, epoch, seconds):
                break
            dead, deaths = dead + 1, deaths + 1
        finished += 1
        assert equal(result(), expected)
    print(f"{dead} kills in {finished} runs, {resumed} resumed from a checkpoint")
