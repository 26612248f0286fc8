"""Compares ``torchbp fit`` with scripts that do the same without torchbp: whole processes, and an epoch of a long run."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from torchbp.benchmark._peers import SETTINGS, TABLE
from torchbp.benchmark._rows import Progress, Row, compare, interleaved
from torchbp.benchmark._table import COLUMNS, write_table

FUSED, AUTOGRAD = "torchbp fit, fused", "torchbp fit, autograd"
LIGHTNING, SKLEARN = "plain Lightning", "MLPClassifier"
WHOLE = "command, whole process"
# The number of additional epochs that measures the time of one: they must take longer than the start.
MORE = {FUSED: 1000, AUTOGRAD: 200, LIGHTNING: 60, SKLEARN: 1000}

Times = Callable[[dict[str, list[str]]], dict[str, list[float]]]  # from commands by name to seconds per round by name


def command_times(quick: bool, rounds: int, progress: Progress) -> list[Row]:
    """Seconds of whole processes, and of an epoch with default settings, from the difference of a long and a short run."""
    rows = 1_000 if quick else 100_000
    with TemporaryDirectory() as folder:
        progress("command: writing tables")
        write_table(Path(folder, "table.csv"), rows)
        write_table(Path(folder, "new.csv"), 1_000)

        def times(commands: dict[str, list[str]]) -> dict[str, list[float]]:
            calls = {name: partial(_run, command, folder) for name, command in commands.items()}
            return interleaved(calls, rounds, None, progress=lambda done: progress(f"command: {done}"))

        table = f"CSV, {rows} x {COLUMNS + 1}"
        if quick:
            return [*_starts(times), *_whole(times, "table.csv", table, 2)]
        return [
            *_starts(times),
            *_whole(times, "breast_cancer", "breast_cancer", 30),
            *_whole(times, "digits", "digits", 30),
            *_whole(times, "table.csv", table, 5),
            *epochs(times, "breast_cancer", MORE),
            *_pictures(times, Path(folder)),
        ]


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def _fit(engine: str, data: str, epochs: int) -> list[str]:
    hidden, batch, lr = SETTINGS.get(data, TABLE)
    builtin = ["--data", "BuiltinDataModule", "--data.name", data]
    source = builtin if data in SETTINGS else ["--data.path", data, "--data.target", "label"]
    network = ["--model.hidden_sizes", str(hidden), "--model.lr", str(lr), "--model.engine", engine]
    network += ["--model.activation", "sigmoid", "--model.clip", "null"]  # the peers', not the command's defaults for tables
    length = ["--data.batch_size", str(batch), "--trainer.max_epochs", str(epochs)]
    return ["-m", "torchbp", "fit", *source, *network, *length]


def _peer(name: str, data: str, epochs: int) -> list[str]:
    return ["-m", "torchbp.benchmark._peers", name, data, str(epochs)]


CONTESTANTS: dict[str, Callable[[str, int], list[str]]] = {
    FUSED: partial(_fit, "fused"),
    AUTOGRAD: partial(_fit, "autograd"),
    LIGHTNING: partial(_peer, "lightning"),
    SKLEARN: partial(_peer, "sklearn"),
}


def _starts(times: Times) -> list[Row]:
    fit, predict, help = "fit, breast_cancer, 30 epochs", "predict, CSV of 1000 rows", "--help"
    checkpoint = "logs/new/version_0/checkpoints/last.ckpt"
    times({"": ["-m", "torchbp", "fit", "--data.path", "new.csv", "--data.target", "label", "--trainer.max_epochs", "1"]})
    found = times(
        {
            help: ["-m", "torchbp", "--help"],
            "python -c pass": ["-c", "pass"],
            predict: ["-m", "torchbp", "predict", "--ckpt_path", checkpoint, "--data.path", "new.csv", "--output", "p.csv"],
            "import torch": ["-c", "import torch"],
            fit: _fit("fused", "breast_cancer", 30),
        }
    )
    peers = {help: "python -c pass", predict: "import torch", fit: "import torch"}
    return [
        compare(WHOLE, setting, "torchbp", peer, "s", {"torchbp": found[setting], peer: found[peer]}, {})
        for setting, peer in peers.items()
    ]


def _whole(times: Times, data: str, name: str, epochs: int) -> list[Row]:
    found = times({contestant: make(data, epochs) for contestant, make in CONTESTANTS.items()})
    return _rows(WHOLE, f"{name}, {epochs} epochs", found)


def epochs(times: Times, data: str, more: dict[str, int]) -> list[Row]:
    """Seconds per epoch: (a run of 1 + n epochs - a run of 1 epoch) / n, with n from ``more``, by contestant."""
    commands = {}
    for name, count in more.items():
        commands[f"{name}, short"], commands[f"{name}, long"] = CONTESTANTS[name](data, 1), CONTESTANTS[name](data, 1 + count)
    found = times(commands)
    seconds = {
        name: [(long - short) / count for short, long in zip(found[f"{name}, short"], found[f"{name}, long"], strict=True)]
        for name, count in more.items()
    }
    return _rows("command, per epoch", data, seconds)


def _pictures(times: Times, folder: Path) -> list[Row]:
    """60,000 random pictures of 28x28 pixels, with 36,000 for training, beside the descent alone on as many rows."""
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.integers(0, 256, (60_000, 28, 28), np.uint8))
    np.save(folder / "y.npy", rng.integers(0, 10, 60_000))
    rows = ["--data", "ArrayDataModule", "--data.path", "x.npy", "--data.target", "y.npy", "--data.divide_by", "255"]
    network = ["--model.hidden_sizes", "[30]", "--model.lr", "0.1", "--data.batch_size", "10", "--trainer.max_epochs", "30"]
    fit, alone = FUSED, "its descent alone"
    found = times(
        {
            fit: ["-m", "torchbp", "fit", *rows, *network, "--model.engine", "fused"],
            alone: ["-m", "torchbp.benchmark._peers", "descent", "x.npy", "30"],
        }
    )
    return [compare(WHOLE, "60000 x 784, 784-30-10, B 10, 30 epochs", fit, alone, "s", found, {})]


def _rows(measure: str, setting: str, times: dict[str, list[float]]) -> list[Row]:
    return [
        compare(measure, setting, ours, peer, "s", times, {}) for ours in (FUSED, AUTOGRAD) for peer in (LIGHTNING, SKLEARN)
    ]
