"""Says in one sentence how a run went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt

from torchbp._text import digits

FEW = 5  # epochs from which a trend is told
FALLING = 0.01  # of the cost over the last tenth of the run
RISEN = 0.05  # of the lowest cost


@dataclass
class History:
    """The costs of a run's epochs.

    Args:
        first: the number of the first epoch, counted from 1.
        train, val: the mean costs of the splits, epoch by epoch; ``val`` is empty where none was measured.
    """

    first: int = 1
    train: list[float] = field(default_factory=list)
    val: list[float] = field(default_factory=list)


def is_no_better(scores: Mapping[str, float], baseline: Mapping[str, float], rows: int, positives: float) -> bool:
    """Whether predictions are no better than the baseline, as far as so many rows can tell.

    They are better if more rows are right, or the ranking of two classes is better than chance by two deviations; of numbers,
    if R² is above what chance gives.

    Args:
        scores, baseline: of the same rows.
        rows: how many there are.
        positives: the share of the rarest class among them, or of the rarest label.
    """
    if "accuracy" not in scores:  # and no R² where too few rows define it
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
        history: of the run.
        baseline: its name, where the network is no better.
    """
    trend = _trend(history)
    if baseline is not None:
        return f"no better than the baseline ({baseline}); {trend}"
    return trend


def _trend(history: History) -> str:
    costs, which = (history.val, "validation") if history.val else (history.train, "training")
    epochs = len(costs)
    if epochs < FEW:
        return f"{epochs} epochs are too few to tell how it goes on" if epochs != 1 else "one epoch is too few to tell a trend"
    tail = max(epochs // 10, 1)
    lowest = min(range(epochs), key=costs.__getitem__)
    end, before, best = _mean(costs[-tail:]), _mean(costs[-2 * tail : -tail]), costs[lowest]
    last = history.first + epochs - 1
    if lowest >= epochs - tail and best > 0 and before - end > FALLING * before:
        return (
            f"the {which} cost was still falling at the end, to {digits(costs[-1])} in epoch {last}: "
            f"more epochs may help (--trainer.max_epochs {2 * last})"
        )
    if history.val and end > (1 + RISEN) * best and _mean(history.train[-tail:]) < history.train[lowest]:
        return (
            f"overfitting since epoch {history.first + lowest}: the validation cost rose from {digits(best)} to {digits(end)} "
            f"while the training cost fell to {digits(history.train[-1])}"
        )
    if end > (1 + RISEN) * best:
        return (
            f"the {which} cost was lowest in epoch {history.first + lowest}, {digits(best)}, and is {digits(end)} at the end: "
            "a smaller lr may help"
        )
    return f"fine: the {which} cost has settled at {digits(end)}, lowest in epoch {history.first + lowest}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
