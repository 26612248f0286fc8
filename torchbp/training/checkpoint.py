"""Checkpoints: loads them as tensors and plain values only, and writes them atomically."""

import glob
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule
from torch import nn

from torchbp._files import replacing, write
from torchbp._plain import plain_arguments, read_plain
from torchbp._text import printable
from torchbp.data import ArrayDataModule, BuiltinDataModule, RowsDataModule, SequenceDataModule, TabularDataModule
from torchbp.data.content import content_of
from torchbp.training._contents import NEEDED, refuse_contents, refuse_other_schedule
from torchbp.training._in_time import MAX_LAYERS
from torchbp.training._module import BPModule

LOGS = Path("logs")
FAILED = "failed.txt"  # holds the error, in the folder of a run that ended with one
# Data settings that are fixed by training; and those fixed for the same file, because they choose the rows held out.
SETTLED = {
    *("types", "missing", "ignore", "max_categories", "null_values", "standardize"),
    *("positive", "rare_classes", "dates"),
    *("window", "horizon"),
}
HELD_OUT = {"val_size", "test_size", "split", "seed"}
WHOLE = {"val_size": 0.0, "test_size": 0.0, "split": None, "val_path": None, "test_path": None}  # no part is held out
TO_GO_ON = ("optimizer_states", "lr_schedulers", "loops")  # needed to resume training
# The data modules that a checkpoint may name; others are named on the command line.
KINDS = (ArrayDataModule, BuiltinDataModule, SequenceDataModule, TabularDataModule)
DATA: dict[str, type[RowsDataModule]] = {f"torchbp.data.{kind.__name__}": kind for kind in KINDS}


class CheckpointIO(TorchCheckpointIO):
    """Saves checkpoints atomically; loads them as :func:`load_checkpoint` does; removes files only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)  # to memory: for a file, torch.save does not say why it cannot be written
        with replacing(path) as partial:
            write(partial, content)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def save_network(path: str | Path, module: BPModule, data: RowsDataModule, of_data: Mapping[str, Any], epoch: int = 0) -> None:
    """Save a network without a Trainer's state: it can test, predict and export, but training cannot be resumed.

    Args:
        path: the file.
        module: the network.
        data: a data module for the network.
        of_data: that data module's state.
        epoch: how many epochs the network was trained for.

    Raises:
        OSError: the file cannot be written.
    """
    checkpoint = {
        "epoch": epoch,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "datamodule_hyper_parameters": dict(data.hparams),
        type(data).__qualname__: of_data,
    }
    CheckpointIO().save_checkpoint(checkpoint, path)


def refuse_lost(path: str | Path) -> None:
    """Refuse a path where no checkpoint can be written, before hours of training.

    Raises:
        ValueError: the name does not end in .ckpt, or the folder does not exist.
    """
    if Path(path).suffix != ".ckpt" or not Path(path).resolve().parent.is_dir():
        raise ValueError(f"output is {path}; it must be a .ckpt file in a folder that exists")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load the checkpoint of a :class:`BPModule`, on the CPU, and check all parts that torchbp saves.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not such a checkpoint, or holds more than tensors and plain values; no object is made from it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    checkpoint = read_plain(path)
    refuse_contents(path, checkpoint)
    checkpoint.setdefault("pytorch-lightning_version", lightning.__version__)  # Lightning requires it
    try:
        _refuse_other_shapes(checkpoint)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or from another version: {error}") from None
    return checkpoint


def _refuse_other_shapes(checkpoint: dict[str, Any]) -> None:
    """Refuse settings that do not fit the tensors, before allocating memory for the network."""
    arguments, tensors = model_arguments(checkpoint), checkpoint["state_dict"].values()
    sizes = [arguments.get("num_features"), arguments.get("num_outputs"), *arguments.get("hidden_sizes", ())]
    most = max(tensor.numel() for tensor in tensors)
    if large := [size for size in sizes if size is not None and size > most]:
        raise ValueError(
            f"the checkpoint is of another network: it says {large[0]} units, its largest tensor has {most} numbers"
        )
    weights = [t for name, t in checkpoint["state_dict"].items() if name.startswith("network.layers.0.weight")]
    networks = len(weights[0]) if weights and weights[0].dim() == 3 else None
    if arguments.get("networks") != networks:
        raise ValueError(
            f"the checkpoint is of another network: it says {arguments.get('networks')} networks, it has {networks}"
        )
    if len(sizes) - 2 > MAX_LAYERS:
        raise ValueError(f"the checkpoint has {len(sizes) - 2} hidden layers; at most {MAX_LAYERS} are allowed")
    with torch.device("meta"):
        BPModule(**arguments).on_load_checkpoint(checkpoint)


def refuse_untrainable(checkpoint: dict[str, Any], lr_scheduler: Callable[[Any], Any] | None) -> None:
    """Refuse a checkpoint from which training cannot be resumed as it began.

    Args:
        checkpoint: the checkpoint.
        lr_scheduler: makes the scheduler of the resumed run.

    Raises:
        ValueError: a part that this needs is missing, or the scheduler is another one.
    """
    if missing := [part for part in TO_GO_ON if part not in checkpoint]:
        raise ValueError(
            f"the checkpoint has no {missing[0]}; it can be used to test, predict and export, but training cannot be resumed"
        )
    if not checkpoint["lr_schedulers"]:
        return
    if lr_scheduler is None:
        raise ValueError("the checkpoint was trained with an lr_scheduler; set the same one, or give its run's --config")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], 1.0)
    refuse_other_schedule(checkpoint["lr_schedulers"], lr_scheduler(optimizer))


def refuse_other(name: str, asked: Any, trained: Any) -> None:
    """Refuse a setting on the command line that differs from the checkpoint's.

    Raises:
        ValueError: they differ.
    """
    if asked != trained:
        raise ValueError(f"{name} is {asked}; a checkpoint keeps its settings, and its {name} is {trained}")


def model_arguments(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the checkpoint's :class:`BPModule`, without ``lr_scheduler``.

    Raises:
        ValueError: an argument has another type.
    """
    return plain_arguments(BPModule.__init__, checkpoint["hyper_parameters"], "the checkpoint is damaged: its ")


def refuse_other_data(arguments: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse data of another shape or task than the network's.

    Args:
        arguments: the arguments of a network for the data.
        saved: the arguments of the checkpoint's network.

    Raises:
        ValueError: they differ.
    """
    for name in ("num_features", "num_outputs", "task", "sequences"):
        if arguments.get(name) != saved.get(name, arguments.get(name)):
            raise ValueError(
                f"the checkpoint is of another network: its {name} is {saved[name]}, here it is {arguments.get(name)}"
            )


def load_module(checkpoint: dict[str, Any], kind: type[BPModule] = BPModule, **arguments: Any) -> BPModule:
    """The network of the checkpoint; ``arguments`` override those of its class."""
    module = kind(**{**model_arguments(checkpoint), **arguments})
    module.to(checkpoint["state_dict"][NEEDED["state_dict"]].dtype)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return module


def saved_data(checkpoint: dict[str, Any]) -> tuple[type[RowsDataModule] | None, dict[str, Any]]:
    """The class of torchbp.data that the checkpoint was trained with, or None; and its arguments, without any path.

    Raises:
        ValueError: an argument has another type.
    """
    saved = checkpoint.get("datamodule_hyper_parameters") or {}
    path = saved.get("_class_path")
    kind = DATA.get(path) if isinstance(path, str) else None
    return kind, kind.saved_arguments(saved) if kind else {}


def load_data(checkpoint: dict[str, Any]) -> RowsDataModule | None:
    """The data module that the checkpoint was trained with, for its names; None if that is not known."""
    kind, arguments = saved_data(checkpoint)
    if kind is None or (checkpoint.get(kind.__qualname__) is None and "path" in inspect.signature(kind).parameters):
        return None
    arguments = dict.fromkeys(required_arguments(kind), "unknown.npz") | arguments  # a file's name, which is never opened
    data = kind(**arguments)
    restore(data, checkpoint)
    return data


def required_arguments(kind: type[RowsDataModule]) -> list[str]:
    """The names of the arguments that have no default."""
    return [name for name, known in inspect.signature(kind).parameters.items() if known.default is known.empty]


def restore(data: LightningDataModule, checkpoint: dict[str, Any]) -> None:
    """Restore the data module's state from the checkpoint, if there is one.

    Raises:
        ValueError: the state is not one that this data module saves, or does not fit its settings.
    """
    name = type(data).__qualname__
    if state := checkpoint.get(name):
        try:
            data.load_state_dict(state)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"the checkpoint's state of {name} is damaged or from another version ({type(error).__name__}: {error})"
            ) from None


def newest_checkpoint(name: str | None, kind: str) -> str:
    """The newest ``best`` or ``last`` checkpoint of the runs in ``logs/name``, or of all runs if ``name`` is None.

    If a ``last`` checkpoint is damaged, the newest undamaged one replaces it. Runs that diverged are skipped if another did
    not. Standard error names them, newer runs that failed without a checkpoint, and the error of the run that is chosen.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: all are damaged.
    """
    folder, file = "*" if name is None else glob.escape(name), "best" if kind == "best" else "*"
    paths = sorted(LOGS.glob(f"{folder}/version_*/checkpoints/{file}.ckpt"), key=_age, reverse=True)
    # Within a run `last` comes first: a run killed after it wrote `best` repeats that epoch, and writes both.
    runs = list(dict.fromkeys(path.parent for path in paths))
    paths.sort(key=lambda path: (runs.index(path.parent), path.stem != "last"))
    if not paths:
        where = LOGS if name is None else LOGS / name
        raise FileNotFoundError(f"{where} holds no {kind} checkpoint; train first with torchbp fit, or give a path")
    failures = {run.parent: _failure(run.parent) for run in runs}
    diverged = [path for path in paths if failures[path.parent.parent].startswith(FloatingPointError.__name__)]
    if passed_over := diverged[: len(diverged) if len(diverged) < len(paths) else 0]:
        first = next(number for number, path in enumerate(paths) if path not in passed_over)
        for run in dict.fromkeys(path.parent.parent for path in paths[:first]):
            print(printable(f"torchbp: {run} is skipped; it failed: {failures[run]}"), file=sys.stderr)
        paths = [path for path in paths if path not in passed_over]
    for mark in LOGS.glob(f"{folder}/version_*/{FAILED}"):
        if mark.parent not in failures and os.path.getmtime(mark) > os.path.getmtime(paths[0]):
            print(printable(f"torchbp: {mark.parent} has no checkpoint; it failed: {_failure(mark.parent)}"), file=sys.stderr)
    if failure := failures[paths[0].parent.parent]:
        print(printable(f"torchbp: {paths[0]} is from a run that failed: {failure}"), file=sys.stderr)
    damage = None
    for path in paths[:1] if kind == "best" else paths:
        try:
            load_checkpoint(path)
        except ValueError as error:
            damage = damage or error
        else:
            if damage:
                print(printable(f"torchbp: {damage}; {path} takes its place"), file=sys.stderr)
            return str(path)
    assert damage is not None
    raise damage


def _failure(run: Path) -> str:
    """The error that a run in ``logs/`` ended with, in one line; empty if there was none."""
    try:
        with open(run / FAILED, encoding="utf-8", errors="replace") as file:
            return file.readline(1000).strip() or "an error"
    except OSError:
        return ""


def _age(path: Path) -> tuple[float, int]:
    """A sort key: the time of writing, then the run's number."""
    number = re.fullmatch(r"version_(\d+)", path.parent.parent.name)
    return os.path.getmtime(path), int(number[1]) if number else -1


def another_file(checkpoint: dict[str, Any], path: str | None) -> str | None:
    """The path, if its file is known to differ in content from the one that was trained on; else None."""
    known = (checkpoint.get("datamodule_hyper_parameters") or {}).get("_content")
    return path if known and path and os.path.isfile(path) and content_of(path) != known else None
