"""Says in one sentence how a run went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt

from torchbp._text import digits

FEW = 5  # minimum epochs to see a trend
FALLING = 0.01  # minimum relative fall of the cost over the last tenth of the run, to call it falling
RISEN = 0.05  # minimum relative rise above the lowest cost, to call it risen


@dataclass
class History:
    """The costs of a run's epochs.

    Args:
        first: the number of the first epoch, counted from 1.
        train, val: the mean costs of the splits, epoch by epoch; ``val`` is empty if none was measured.
    """

    first: int = 1
    train: list[float] = field(default_factory=list)
    val: list[float] = field(default_factory=list)


def is_no_better(scores: Mapping[str, float], baseline: Mapping[str, float], rows: int, positives: float) -> bool:
    """Whether predictions are no better than the baseline, as far as this number of rows can tell.

    Classes are better predicted if the accuracy is higher, or if AUROC is above 0.5 by two standard deviations of chance;
    numbers, if R² is above what chance gives.

    Args:
        scores, baseline: the scores of both for the same rows.
        rows: the number of rows.
        positives: the share of the rarest class or label among them.
    """
    if "accuracy" not in scores:  # regression; there is no R² for too few rows
        return "r2" in scores and not scores["r2"] > 4 / max(rows, 1)
    if scores["accuracy"] > baseline["accuracy"]:
        return False
    of_class = max(rows * min(positives, 1 - positives), 1)
    chance = sqrt((rows + 1) / (12 * of_class * max(rows - of_class, 1)))
    auroc = scores.get("auroc", float("nan"))
    return not (isfinite(auroc) and auroc > 0.5 + 2 * chance)


def verdict(history: History, baseline: str | None = None) -> str:
    """One sentence: no better than the baseline, still falling at the end, overfitting since an epoch, or fine.

    Args:
        history: the run's costs.
        baseline: the baseline's name if the network is no better, else None.
    """
    trend = _trend(history)
    if baseline is not None:
        return f"no better than the baseline ({baseline}); {trend}"
    return trend


def _trend(history: History) -> str:
    costs, which = (history.val, "validation") if history.val else (history.train, "training")
    epochs = len(costs)
    if epochs < FEW:
        return f"{epochs} epochs are too few to see a trend" if epochs != 1 else "one epoch is too few to see a trend"
    tail = max(epochs // 10, 1)
    lowest = min(range(epochs), key=costs.__getitem__)
    end, before, best = _mean(costs[-tail:]), _mean(costs[-2 * tail : -tail]), costs[lowest]
    last = history.first + epochs - 1
    risen = end - best > RISEN * abs(best)  # abs: Poisson's cost may be below 0
    if lowest >= epochs - tail and best != 0 and before - end > FALLING * abs(before):
        return (
            f"the {which} cost was still falling at the end, to {digits(costs[-1])} in epoch {last}: "
            f"more epochs may help (--trainer.max_epochs {2 * last})"
        )
    # An epoch's training cost is the mean over its steps: that at the end of the lowest epoch is nearer to the next one's.
    after = history.train[lowest + 1 :]
    fallen = len(after) >= FEW and after[0] - _mean(history.train[-tail:]) > FALLING * abs(after[0])
    if history.val and risen and fallen:
        return (
            f"overfitting since epoch {history.first + lowest}: the validation cost rose from {digits(best)} to {digits(end)} "
            f"while the training cost fell to {digits(history.train[-1])}"
        )
    if risen:
        return (
            f"the {which} cost was lowest in epoch {history.first + lowest}, {digits(best)}, and is {digits(end)} at the end: "
            "a smaller lr may help"
        )
    return f"fine: the {which} cost has settled at {digits(end)}, lowest in epoch {history.first + lowest}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
