"""Converts estimators to checkpoints of the command line and back. Importing this imports Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from torchbp.activations import ACTIVATIONS, Activation
from torchbp.data import ArrayDataModule, TabularDataModule
from torchbp.data.values import needs_float64
from torchbp.training import BPModule
from torchbp.training.checkpoint import load_checkpoint, load_data, load_module, save_network

WIDTH = 2  # a column's values are assumed to lie within so many deviations of its mean: would float32 lose their differences?


def write(estimator: Any, path: str | Path, target: str | Sequence[str]) -> None:
    """Write a checkpoint for ``torchbp predict``, ``test`` and ``export``."""
    task, nL, states = estimator._task(), estimator._sizes[-1], estimator._states
    several = len(states) > 1
    output, cost = estimator._output
    named = hasattr(estimator, "feature_names_in_")  # a table's columns are read in float64, arrays are not
    scaling, offsets = _split_off(estimator._scaling, estimator._sizes[0], named)
    target_scaling, target_offsets = _split_off(estimator._target_scaling, nL, named)
    module = BPModule(
        estimator._sizes[0],
        nL,
        list(estimator._sizes[1:-1]),
        task,
        cost,
        output,
        _names(estimator.activation),
        estimator._per_unit,
        lr=float(np.mean(estimator._lrs)) if None not in estimator._lrs else "auto",
        clip=None if estimator._scaling is None else estimator.clip,
        threshold=estimator._threshold if task == "binary" else None,
        engine="auto",
        networks=len(states) if several else None,
    )
    module.to(next(iter(states[0].values())).dtype)
    state = {name: torch.stack([state[name] for state in states]) for name in states[0]} if several else states[0]
    module.network.load_state_dict(state)
    for layer, values in ((module.input_scaling, scaling), (module.target_scaling, target_scaling)):
        if layer is not None:
            layer.mean.copy_(values[0])
            layer.scale.copy_(values[1])
    data, state_of_data = _data(estimator, task, target, offsets, target_offsets)
    save_network(path, module, data, state_of_data, getattr(estimator, "n_iter_", 0))


def read(estimator: Any, path: str | Path) -> Any:
    """Load a checkpoint into the estimator; returns the estimator.

    Raises:
        ValueError: the file is not a checkpoint, or its task is not the estimator's, or its network takes sequences.
    """
    checkpoint = load_checkpoint(path)
    module, data = load_module(checkpoint), load_data(checkpoint)
    hparams, names = module.hparams, getattr(data, "feature_names", None)
    if hparams["sequences"] is not None:
        raise ValueError(f"the network in {path} takes sequences, and an estimator rows; use torchbp predict")
    estimator._take_task(module.task, _classes(data, module))
    estimator.set_params(
        hidden_layer_sizes=tuple(hparams["hidden_sizes"]),
        activation=hparams["activation"],
        cost=hparams["cost"],
        learning_rate_init=hparams["lr"],
        clip=hparams["clip"],
        n_networks=hparams["networks"],
    )
    if module.task == "regression":
        estimator._one_column = hparams["num_outputs"] == 1
    estimator._sizes = (hparams["num_features"], *hparams["hidden_sizes"], hparams["num_outputs"])
    estimator._output, estimator._per_unit = (hparams["output"], hparams["cost"]), hparams["activation_per_unit"]
    estimator._threshold = module.threshold
    estimator._scaling = _joined(module.input_scaling, getattr(data, "offsets", ()))
    estimator._target_scaling = None
    if module.target_scaling is not None:
        estimator._target_scaling = _joined(module.target_scaling, getattr(data, "target_offsets", ()))
    state, networks = module.network.state_dict(), hparams["networks"]
    kept = [] if module.kept is None else module.kept.nonzero().flatten().tolist()
    estimator._states = [state] if networks is None else [{n: v[k] for n, v in state.items()} for k in kept]
    estimator._lrs = [None if hparams["lr"] == "auto" else hparams["lr"]] * len(estimator._states)
    estimator.learning_rate_ = estimator._lrs[0]
    estimator.n_features_in_, estimator.n_outputs_ = estimator._sizes[0], estimator._sizes[-1]
    estimator.n_layers_ = len(estimator._sizes)
    if names:
        estimator.feature_names_in_ = np.array(names, dtype=object)
    return estimator


def _names(activation: Any) -> Any:
    """The names of activations, for a checkpoint.

    Raises:
        ValueError: an activation is a record of the user's own, without an import path.
    """
    if not isinstance(activation, Activation | str):
        return [_names(one) for one in activation]
    if isinstance(activation, Activation):
        if ACTIVATIONS.get(activation.name) is not activation:
            raise ValueError(f"activation is {activation}; a checkpoint names it, so give it as 'package.module:name'")
        return activation.name
    return activation


def _split_off(scaling: Any, width: int, far_ones: bool) -> tuple[tuple[Tensor, Tensor], list[float]]:
    """Mean and scale, and each column's offset: subtracted in float64 if float32 would lose the differences, else 0."""
    if scaling is None:
        return (torch.zeros(width), torch.ones(width)), [0.0] * width
    offsets = [
        float(mean) if far_ones and needs_float64(pl.Series([mean - WIDTH * scale, mean, mean + WIDTH * scale])) else 0.0
        for mean, scale in zip(*scaling, strict=True)
    ]
    mean, scale = map(torch.from_numpy, scaling)
    return (mean - torch.tensor(offsets, dtype=torch.float64), scale), offsets


def _joined(layer: Any, offsets: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = layer.mean.double().numpy(), layer.scale.double().numpy()
    return mean + np.array(offsets) if any(offsets) else mean, scale


def _data(
    estimator: Any, task: Any, target: str | Sequence[str], offsets: list[float], target_offsets: list[float]
) -> tuple[Any, dict[str, Any]]:
    """A data module for the estimator's columns, and its state."""
    whole: dict[str, Any] = {"val_size": 0.0, "test_size": 0.0}
    outputs, n0 = estimator._sizes[-1], estimator._sizes[0]
    classes = [_plain(value) for value in estimator.classes_] if task in ("binary", "multiclass") else []
    if not hasattr(estimator, "feature_names_in_"):
        arrays = ArrayDataModule("unknown.npz", **whole)
        return arrays, {"task": task, "num_features": n0, "num_outputs": outputs, "classes": classes}
    targets = [target] if isinstance(target, str) else list(target)
    wanted = 1 if classes else outputs
    if isinstance(target, str) and wanted > 1:
        targets = [f"{target}_{number}" for number in range(outputs)]
    if len(targets) != wanted:
        raise ValueError(f"target is {target!r}; it must name each of the estimator's {wanted} targets")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in classes):
        classes = [str(value).lower() if isinstance(value, bool) else str(value) for value in classes]
    columns = [
        {"name": str(name), "type": "numeric", "seen": "a column of an estimator's X", "offset": offset}
        for name, offset in zip(estimator.feature_names_in_, offsets, strict=True)
    ]
    table = TabularDataModule("unknown.csv", targets, task, **whole)
    held = target_offsets if any(target_offsets) else []
    state = {
        "target": {"names": targets, "task": task, "classes": [_number(value) for value in classes], "offsets": held},
        "columns": columns,
        "null_values": list(table.hparams["null_values"]),
        "decimals": {},
    }
    table.load_state_dict(state)  # checks it
    return table, state


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> Any:
    return value if isinstance(value, str) else float(value)


def _classes(data: Any, module: Any) -> np.ndarray:
    """The classes of a checkpoint, whole numbers as integers; 0, 1, ... if it does not name them."""
    if isinstance(data, TabularDataModule):
        known: Any = data.schema.target.classes
    elif isinstance(data, ArrayDataModule):
        known = data.state_dict()["classes"]
    else:
        known = getattr(data, "class_names", ())
    values = np.array(known if len(known) else range(max(module.hparams["num_outputs"], 2)))
    whole = values.dtype.kind == "f" and bool((values == np.round(values)).all())
    return values.astype(int) if whole else values
