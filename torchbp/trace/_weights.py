"""Makes a network with weights from a file, to replay a textbook's example."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from torchbp.activations import Activation
from torchbp.nn import BPNetwork


def network_from(path: str, output: str, activation: str | Activation | Sequence[str | Activation]) -> BPNetwork:
    """A network in float64 with the weights in a file; their shapes give the layer sizes.

    Args:
        path: a JSON (``.json``) or YAML file with W1, a row for each unit; b1, a number for each unit or one for all; W2, ...;
            and, if not the initial values, parameters of activations, such as beta1, a number for each unit or one for all.
        output, activation: as for :class:`torchbp.nn.BPNetwork`.

    Raises:
        ValueError: the file does not have these values.
    """
    values = _read(path)
    depth = 1 + max((int(found[1]) for name in values if (found := re.fullmatch(r"W([1-9]\d{0,3})", name))), default=0)
    for name in (f"{letter}{l}" for l in range(1, max(depth, 2)) for letter in "Wb"):
        if name not in values:
            raise ValueError(f"{path} has no {name}; it must hold W1, b1, W2, ... of every layer")
    weights = [_matrix(path, f"W{l}", values.pop(f"W{l}")) for l in range(1, depth)]
    network = BPNetwork([weights[0].shape[1], *map(len, weights)], output, activation=activation, dtype=torch.float64)
    with torch.no_grad():
        layer: Any
        for l, (layer, W) in enumerate(zip(network.layers, weights, strict=True), 1):
            if W.shape[1] != layer.in_features:
                raise ValueError(
                    f"W{l} in {path} has shape {tuple(W.shape)}; it must be ({len(W)}, {layer.in_features}), for layer {l - 1} "
                    f"has {layer.in_features} units"
                )
            layer.weight.copy_(W)
            layer.bias.copy_(_for_units(path, f"b{l}", values.pop(f"b{l}"), len(W))[0])
            for name, parameter in layer.activation.parameters.items() if l < len(weights) else ():
                if f"{name}{l}" in values:
                    theta = _for_units(path, f"{name}{l}", values.pop(f"{name}{l}"), len(W), len(parameter.initial))
                    setattr(layer, name, torch.nn.Parameter(theta))
    if values:
        names = [f"{name}{l}" for l, g in enumerate(network.activations, 1) for name in g.parameters]
        also = f", and {', '.join(names)}" if names else ""
        raise ValueError(f"{path} has {next(iter(values))}; it may hold W1, b1, ... to W{len(weights)}, b{len(weights)}{also}")
    return network


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"the weights file {path} does not exist")
    kind, read, error_of = (
        ("JSON", json.loads, ValueError) if path.endswith(".json") else ("YAML", yaml.safe_load, yaml.YAMLError)
    )
    try:
        values = read(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, RecursionError, error_of) as error:
        raise ValueError(f"the weights file {path} is no {kind}: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"the weights file {path} is {_short(values)}; it must be names and values, such as W1: [[0.1, 0.2]]")
    return values


def _matrix(path: str, name: str, value: Any) -> Tensor:
    """A matrix with a row of numbers for each unit."""
    rows = value if isinstance(value, list) and value and all(isinstance(row, list) and row for row in value) else None
    if rows is None or len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"{name} in {path} is {_short(value)}; it must be a row of numbers for each unit, such as [[0.1, 0.2]]"
        )
    return torch.tensor([[_number(path, name, each) for each in row] for row in rows], dtype=torch.float64)


def _for_units(path: str, name: str, value: Any, units: int, count: int = 1) -> Tensor:
    """``count`` values for all units, (count, 1), or for each, (count, units)."""
    rows = [value] if count == 1 else value
    rows = [row if isinstance(row, list) else [row] for row in rows] if isinstance(rows, list) else []
    widths = {len(row) for row in rows}
    if len(rows) != count or widths not in ({1}, {units}):
        one = "a number" if count == 1 else f"{count} numbers"
        each = f"a list of {units}" if count == 1 else f"{count} lists of {units}"
        raise ValueError(
            f"{name} in {path} is {_short(value)}; it must be {one} for all {units} units, or {each}, one for each"
        )
    return torch.tensor([[_number(path, name, each) for each in row] for row in rows], dtype=torch.float64)


def _number(path: str, name: str, value: Any) -> float:
    try:
        # Numbers in a string too: YAML reads 1e-3 as a string. But yes and no are not numbers.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} in {path} has {_short(value)}; it must have finite numbers")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
