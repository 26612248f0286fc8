"""Checks the type and range of each part of a checkpoint."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor, nn

from torchbp._plain import Count, fits, refuse_misfit, shown
from torchbp.training._epoch_metrics import RowsSoFar

Rate = Annotated[float, "a finite number of 0 or more", lambda value: value >= 0]
Score = Annotated[Tensor, "a single number", lambda value: value.ndim == 0]


class BestModels(TypedDict):
    """The state of Lightning's ModelCheckpoint."""

    monitor: str | None
    best_model_score: Score | None
    best_model_path: str
    current_score: Score | None
    dirpath: str | None
    best_k_models: dict[str, Score]
    kth_best_model_path: str
    kth_value: Score
    last_model_path: str


class Patience(TypedDict):
    """The state of Lightning's EarlyStopping."""

    wait_count: Count
    stopped_epoch: Count
    best_score: Score
    patience: Count
    stopping_reason: Count
    stopping_reason_message: str | None


class Optimizer(TypedDict):
    """The state of torch.optim.SGD."""

    state: dict[int, dict[str, Tensor | None]]
    param_groups: list[dict[str, Any]]


CALLBACKS = {"ModelCheckpoint": BestModels, "EarlyStopping": Patience}
PARTS: dict[str, Any] = {
    "epoch": Count,
    "global_step": Count,
    "pytorch-lightning_version": Annotated[str, "such as 2.6.1", re.compile(r"\d+(\.\w+){1,4}").fullmatch],
    "state_dict": dict[str, Tensor],
    "hyper_parameters": dict[str, Any],
    "datamodule_hyper_parameters": dict[str, Any],
    "optimizer_states": list[Optimizer],
    "lr_schedulers": list[dict[str, Any]],
    "loops": dict[str, Any],
    "callbacks": dict[str, dict[str, Any]],
    "MixedPrecision": dict[str, Rate],
    "rows_so_far": RowsSoFar,
}
NEEDED = {"state_dict": "input_scaling.mean", "hyper_parameters": "num_features"}
# The names of Lightning's counters, each with one number.
COUNTS = ("ready", "started", "processed", "completed", "_batches_that_stepped", "epoch", "batches")


def refuse_contents(path: str | Path, checkpoint: Any) -> None:
    """Refuse a checkpoint with contents that torchbp never saves; drop paths of files outside the checkpoint's folder.

    Parts with other names stay: they are plain values, for the user's own callbacks and data modules.

    Args:
        path: where the checkpoint is.

    Raises:
        ValueError: a part is missing, or has another type or range.
    """
    for part, entry in NEEDED.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(part), dict) or entry not in checkpoint[part]:
            raise ValueError(f"{path} is not a checkpoint of torchbp; one has a {part} with {entry}")
    try:
        for part, annotation in PARTS.items():
            if part in checkpoint:
                refuse_misfit(f"its {part}", checkpoint[part], annotation)
        for name, state in checkpoint.get("callbacks", {}).items():
            if kind := CALLBACKS.get(name.partition("{")[0]):
                refuse_misfit(f"its state of {name.partition('{')[0]}", state, kind)
        for optimizer in checkpoint.get("optimizer_states", []):
            _refuse_optimizer(optimizer)
        if not _counts(checkpoint.get("loops", {})):
            raise ValueError("its loops hold other values than Lightning's counts")
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of torchbp; {error}") from None
    for name, value in checkpoint["state_dict"].items():
        if not value.is_floating_point():
            raise ValueError(f"{path} is not a checkpoint of torchbp; its {name} is not a tensor of floating-point numbers")
        if len(bad := value[~value.isfinite()]):
            raise ValueError(f"{path} is damaged: its {name} holds {bad[0].item()}; all numbers of a network are finite")
    kept = checkpoint["state_dict"].get("kept")
    if kept is not None and not (kept.any() and ((kept == 0) | (kept == 1)).all()):
        raise ValueError(f"{path} is damaged: its kept is {shown(kept)}; it has 1 for each network that is kept, 0 for others")
    for name, state in checkpoint.get("callbacks", {}).items():
        if name.partition("{")[0] == "ModelCheckpoint":
            _forget_other_files(state, Path(path).resolve().parent)


def _refuse_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Refuse any state but that of plain gradient descent; a scheduler may have changed its rate and momentum."""
    own = torch.optim.SGD([nn.Parameter(torch.zeros(()))], 1.0).state_dict()["param_groups"][0]
    for group in optimizer["param_groups"]:
        refuse_misfit("its params", group.get("params"), list[Count])
        for name, value in group.items():
            if name == "momentum":
                refuse_misfit("its momentum", value, Annotated[float, "from 0 to 1", lambda value: 0 <= value <= 1])
            elif name == "lr" or name not in own:
                refuse_misfit(f"its {name}", value, Rate)
            elif name not in ("params", "foreach", "fused") and (type(value) is not type(own[name]) or value != own[name]):
                refuse_misfit(f"its {name}", value, Annotated[Any, repr(own[name]), lambda _: False])
            elif name in ("foreach", "fused"):
                refuse_misfit(f"its {name}", value, bool | None)
    for state in optimizer["state"].values():
        for name, value in state.items():
            if value is not None and not (value.is_floating_point() and value.isfinite().all()):
                raise ValueError(f"its {name} holds other values than finite numbers")


def _counts(tree: Any, name: str = "") -> bool:
    """Whether the tree has only the names and counts that Lightning's loops save."""
    if name in COUNTS:
        return fits(tree, Count)
    if name == "is_last_batch":
        return fits(tree, bool)
    if name == "combined_loader":  # one state per loader
        return isinstance(tree, list) and all(isinstance(one, dict) for one in tree)
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        return False
    if name in ("current", "total") and not tree.keys() <= {*COUNTS}:
        return False
    return all(_counts(value, key) for key, value in tree.items())


def _forget_other_files(state: dict[str, Any], folder: Path) -> None:
    """Drop the paths that a ModelCheckpoint could remove, unless the file is in the checkpoint's own folder."""

    def own(path: str) -> bool:
        # Compare the spelling too: Lightning takes another spelling for another file.
        inside = os.path.dirname(path) == state["dirpath"] and path.endswith(".ckpt") and "\0" not in path
        return inside and os.path.isfile(path) and Path(path).resolve().parent == folder

    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        if not own(state[name]):
            state[name] = ""
    if state["best_k_models"] and not all(map(own, [state["kth_best_model_path"], *state["best_k_models"]])):
        state.update(best_k_models={}, kth_best_model_path="")


def refuse_other_network(checkpoint: Mapping[str, Any], own: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of another network.

    Args:
        checkpoint: the checkpoint.
        own: the network's hyperparameters.
        state: the network's state_dict.

    Raises:
        ValueError: a hyperparameter or the shape of a tensor differs.
    """
    saved = checkpoint.get("hyper_parameters", {})
    for name in ("num_features", "hidden_sizes", "num_outputs", "task", "networks", "sequences"):
        if name in saved and saved[name] != own[name]:
            raise ValueError(f"the checkpoint is of another network: its {name} is {saved[name]}, here it is {own[name]}")
    shapes, own_shapes = ({name: tuple(t.shape) for name, t in s.items()} for s in (checkpoint["state_dict"], state))
    for name in {**own_shapes, **shapes}:
        shape, wanted = shapes.get(name), own_shapes.get(name)
        if shape != wanted:
            raise ValueError(f"the checkpoint is of another network: its {name} has shape {shape}, here it is {wanted}")


def refuse_other_schedule(states: list[dict[str, Any]], scheduler: Any) -> None:
    """Refuse states of another scheduler than ``scheduler``.

    Raises:
        ValueError: a state has an entry that ``scheduler`` does not save.
    """
    for state in states:
        if unknown := state.keys() - scheduler.state_dict().keys():
            name = type(scheduler).__name__
            raise ValueError(f"the checkpoint was trained with another lr_scheduler than {name}: it has {min(unknown)!r}")
