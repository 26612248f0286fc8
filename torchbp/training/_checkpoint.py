"""Checkpoints: read as tensors and plain values alone, written whole or not at all."""

import glob
import inspect
import io
import json
import os
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import instantiate_module
from torch import Tensor

from torchbp._files import replacing
from torchbp._text import printable
from torchbp.data._content import content_of
from torchbp.training._module import BPModule

LOGS = Path("logs")
# In training, once and for all; and of the file that was trained on, which of its rows were held out.
SETTLED = {"types", "missing", "ignore", "max_categories", "null_values", "standardize"}
HELD_OUT = {"val_size", "test_size", "split", "seed"}
WHOLE = {"val_size": 0.0, "test_size": 0.0, "split": None, "val_path": None, "test_path": None}  # no part is held out
PARTS = {"state_dict": "network.layers.0.weight", "hyper_parameters": "num_features"}
# Lightning's parts, of which the first are needed to go on training.
KINDS = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict, "datamodule_hyper_parameters": dict}
TO_GO_ON = [*KINDS][:3]


class CheckpointIO(TorchCheckpointIO):
    """What carries a checkpoint's name is a whole checkpoint at every moment, and to load it runs no code of its own."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)  # which does not say of a file why it cannot be written
        with replacing(path) as partial:
            partial.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_checkpoint(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint of a :class:`BPModule`, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: any other file, or one that holds more than tensors and plain values; none of its objects is made.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():  # torch.load takes no notice of a sum that does not match
                raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or no checkpoint of torchbp: it cannot be read as tensors and plain values "
            f"({type(error).__name__})"
        ) from None
    for part, entry in PARTS.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(part), dict) or entry not in checkpoint[part]:
            raise ValueError(f"{path} is no checkpoint of torchbp; one has a {part} with {entry}")
    for part, kind in KINDS.items():
        if not isinstance(checkpoint.get(part, kind()), kind):
            raise ValueError(f"{path} is no checkpoint of torchbp; its {part} is {checkpoint[part]!r}, no {kind.__name__}")
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ValueError(f"{path} is no checkpoint of torchbp; its {name} is no tensor of floating-point numbers")
        if len(bad := value[~value.isfinite()]):
            raise ValueError(f"{path} is damaged: its {name} holds {bad[0].item()}; all numbers of a network are finite")
    checkpoint.setdefault("pytorch-lightning_version", lightning.__version__)  # Lightning cannot do without
    return checkpoint


def refuse_untrainable(checkpoint: dict[str, Any], lr_scheduler: object | None) -> None:
    """Refuse a checkpoint from which training cannot go on, or not as it began.

    Args:
        lr_scheduler: with which it is to go on.

    Raises:
        ValueError: what is needed for that is not there.
    """
    if missing := [part for part in TO_GO_ON if part not in checkpoint]:
        raise ValueError(
            f"the checkpoint has no {missing[0]}; with its network alone one can test, predict and export, but not go on"
        )
    if checkpoint["lr_schedulers"] and lr_scheduler is None:
        raise ValueError("the checkpoint was trained with an lr_scheduler; say which, or give its run's --config")


def refuse_other(name: str, asked: Any, trained: Any) -> None:
    """Refuse a setting that is asked for and is not that of the checkpoint.

    Raises:
        ValueError: they differ.
    """
    if asked != trained:
        raise ValueError(f"{name} is {asked}; a checkpoint goes on as it was trained, and its {name} is {trained}")


def load_module(checkpoint: dict[str, Any]) -> BPModule:
    """The network that the checkpoint was made of."""
    known = inspect.signature(BPModule).parameters
    module = BPModule(**{name: value for name, value in checkpoint["hyper_parameters"].items() if name in known})
    module.to(checkpoint["state_dict"][PARTS["state_dict"]].dtype)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return module


def load_data(checkpoint: dict[str, Any]) -> LightningDataModule | None:
    """The data module that the checkpoint was trained with, as far as it needs no file; None where it does not say."""
    saved = checkpoint.get("datamodule_hyper_parameters") or {}
    if "_class_path" not in saved:
        return None
    arguments = {name: value for name, value in saved.items() if name == "_class_path" or not name.startswith("_")}
    data = instantiate_module(LightningDataModule, arguments)
    restore(data, checkpoint)
    return data


def restore(data: LightningDataModule, checkpoint: dict[str, Any]) -> None:
    """Tell the data module what the checkpoint knows of it, if anything.

    Raises:
        ValueError: that is not what such a module saves, or does not suit it.
    """
    name = type(data).__qualname__
    if state := checkpoint.get(name):
        try:
            data.load_state_dict(state)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"what the checkpoint holds of a {name} is damaged or another version's ({type(error).__name__}: {error})"
            ) from None


def newest_checkpoint(name: str | None, kind: str) -> str:
    """The newest ``best`` or ``last`` checkpoint of the runs in ``logs/name``, or of all runs.

    Where the last is damaged, the newest that is whole takes its place, and standard error says so.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are, but none is whole.
    """
    folder, file = "*" if name is None else glob.escape(name), "best" if kind == "best" else "*"
    paths = sorted(LOGS.glob(f"{folder}/version_*/checkpoints/{file}.ckpt"), key=os.path.getmtime, reverse=True)
    # Of the newest run the last comes first: one that was killed after its best repeats that epoch, and writes both.
    runs = list(dict.fromkeys(path.parent for path in paths))
    paths.sort(key=lambda path: (runs.index(path.parent), path.stem != "last"))
    if not paths:
        where = LOGS if name is None else LOGS / name
        raise FileNotFoundError(f"{where} holds no {kind} checkpoint; train first with torchbp fit, or give a path")
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


def another_file(checkpoint: dict[str, Any], path: str | None) -> str | None:
    """The path, if the file there is known not to be the one that was trained on, under whatever name; else None."""
    known = (checkpoint.get("datamodule_hyper_parameters") or {}).get("_content")
    return path if known and path and os.path.isfile(path) and content_of(path) != known else None


def saved_arguments(checkpoint: dict[str, Any]) -> list[str]:
    """The options that make the data module that the checkpoint was trained with; none where it does not say."""
    saved = checkpoint.get("datamodule_hyper_parameters") or {}
    if "_class_path" not in saved:
        return []
    arguments = {name: value for name, value in saved.items() if not name.startswith("_")}
    return ["--data", json.dumps({"class_path": saved["_class_path"], "init_args": arguments})]
