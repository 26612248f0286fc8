"""The probability above which a binary network predicts its positive class: given, or chosen on validation rows."""

import re
from math import isfinite

import torch
from torch import Tensor

DEFAULT = 0.5
ALLOWED = (
    "a number from 0 to 1; f1, for the highest F1 on the validation rows; or miss:R, for the lowest cost there if a missed "
    "positive costs R false alarms"
)


def refuse_threshold(threshold: float | str | None, task: str) -> None:
    """Refuse a value that is not a threshold, and any threshold for a task other than ``binary``.

    Raises:
        ValueError: such a threshold.
    """
    if threshold is None:
        return
    if task != "binary":
        raise ValueError(f"threshold is {threshold}; it is for two classes, and the task is {task}")
    if isinstance(threshold, str):
        known = threshold == "f1" or miss_cost(threshold) is not None
    else:
        known = not isinstance(threshold, bool) and 0 <= threshold <= 1
    if not known:
        raise ValueError(f"threshold is {threshold}; it must be {ALLOWED}")


def miss_cost(rule: str) -> float | None:
    """R of ``miss:R``; None for any other text."""
    found = re.fullmatch(r"miss:(\d+(?:\.\d*)?(?:e[+-]?\d+)?)", rule)
    return float(found[1]) if found and float(found[1]) > 0 and isfinite(float(found[1])) else None


def best_threshold(prediction: Tensor, y: Tensor, rule: str) -> float:
    """The best threshold by a rule: between the lowest probability predicted as positive and the next lower one.

    Args:
        prediction: the probabilities of the positive class, (N).
        y: the targets, (N); positive above 1/2.
        rule: ``f1`` or ``miss:R``.
    """
    p, order = prediction.float().sort(descending=True)
    positive = (y[order] > 0.5).double()
    # If the first k rows are predicted positive, k = 0 .. N.
    hits = torch.cat([torch.zeros(1, dtype=torch.float64, device=p.device), positive.cumsum(0)])
    taken = torch.arange(len(p) + 1, dtype=torch.float64, device=p.device)
    if rule == "f1":
        worth = 2 * hits / (taken + hits[-1]).clamp(min=1)
    else:
        cost = miss_cost(rule)
        assert cost is not None
        worth = -(cost * (hits[-1] - hits) + (taken - hits))
    edges = torch.cat([p.new_ones(1), p, p.new_zeros(1)])
    apart = edges[:-1] > edges[1:]  # rows with the same probability must be on one side
    apart[0] = True
    k = int(worth.where(apart, -torch.inf).argmax())
    above, below = edges[k], edges[k + 1]
    middle = (above + below) / 2
    return (middle if middle < above else below).item() if k else max(middle.item(), below.item())
