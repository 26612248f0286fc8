"""Permutation importance: how much worse a network gets when one column of the table is shuffled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbp.data.rows import Rows, evenly_spaced
from torchbp.training._evaluation import evaluate

if TYPE_CHECKING:
    from torchbp.training._module import BPModule

REPEATS = 10
VALUES = 2**27  # values of x over all evaluations: the more columns, the fewer rows


@dataclass
class Importance:
    """A column's importance: how much the cost rises and the leading metric falls, as mean and deviation of the repeats."""

    column: str
    cost: float
    cost_deviation: float
    score: float
    score_deviation: float


def importances(
    module: "BPModule", rows: Rows, schema: Any = None, seed: int = 0, names: Sequence[str] | None = None
) -> list[Importance]:
    """The importance of each column, sorted by the rise of the cost, largest first.

    All features of one column, such as those of a category, are shuffled together. A channel of sequences is shuffled over
    all steps.

    Args:
        rows: x (N, num_features) and y.
        schema: a table's schema, with the ``features`` of each column; None if each column is one feature.
        seed: the seed of the shuffles.
        names: the names of the channels, for sequences.
    """
    shape = rows.shapes[0]
    groups = _groups(schema, shape[-1]) if names is None else [(name, at, at + 1) for at, name in enumerate(names)]
    most = max(VALUES // (REPEATS * math.prod(shape[1:]) * len(groups)), 100)
    index = evenly_spaced(len(rows), most)
    x, y = rows.take(index)
    start = _cost_and_score(module, x, y)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, first, end in groups:
        changes, column = [], x[..., first:end]
        there = column.isfinite().all(-1)
        own = column[there]
        for _ in range(REPEATS):
            column[there] = own[torch.randperm(len(own), generator=generator).to(own.device)]
            cost, score = _cost_and_score(module, x, y)
            changes.append((cost - start[0], start[1] - score))
        column[there] = own
        mean, deviation = (f(torch.tensor(changes, dtype=torch.float64), 0) for f in (torch.mean, _deviation))
        found.append(Importance(name, mean[0].item(), deviation[0].item(), mean[1].item(), deviation[1].item()))
    return sorted(found, key=lambda one: -one.cost)


def _groups(schema: Any, width: int) -> list[tuple[str, int, int]]:
    """Each column's name, and the first and the end index of its features."""
    if schema is None:
        return [(f"x{number}", number, number + 1) for number in range(width)]
    groups, first = [], 0
    for column in schema.columns:
        if count := len(column.features):
            groups.append((column.name, first, first + count))
            first += count
    return groups


def _cost_and_score(module: "BPModule", x: Tensor, y: Tensor) -> tuple[float, float]:
    """The mean cost and the leading metric: R² for ``regression``, else accuracy."""
    outcome = evaluate(module, Rows(x, y))
    assert outcome.cost is not None
    prediction, y = outcome.prediction.double(), outcome.y.double()
    if module.task == "regression":  # the mean R² of the targets
        variance = (y - y.mean(0)).square().sum(0)
        return outcome.cost, (1 - (prediction - y).square().sum(0) / variance).mean().item()
    if module.task == "multiclass":
        return outcome.cost, (prediction.argmax(1) == y.argmax(1)).double().mean().item()
    threshold = module.threshold if module.task == "binary" else 0.5
    return outcome.cost, ((prediction > threshold) == (y > 0.5)).double().mean().item()


def _deviation(values: Tensor, dim: int) -> Tensor:
    return values.std(dim, correction=0)
