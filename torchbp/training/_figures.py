"""Draws the pictures of a report with matplotlib and torchmetrics, and computes their numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryPrecisionRecallCurve,
    BinaryROC,
    MulticlassPrecisionRecallCurve,
    MulticlassROC,
    MultilabelPrecisionRecallCurve,
    MultilabelROC,
)

from torchbp.data.rows import evenly_spaced
from torchbp.training._evaluation import Outcome
from torchbp.training._grids import confusion_of

if TYPE_CHECKING:
    from torchbp.training._results import Results

BINS = 10
POINTS = 500  # kept of each curve, evenly spaced
DRAWN = 10  # maximum targets, and curves with a legend; a confusion matrix of up to twice as many classes has numbers
COLUMNS = 20  # maximum columns in the picture of importances


@dataclass
class Bin:
    """One bin of a calibration curve; values that are not defined are NaN.

    Args:
        low, high: the range of predicted probabilities.
        probability: the mean predicted probability of its rows.
        share: the share of its rows that are of the class.
        rows: the number of its rows.
    """

    low: float
    high: float
    probability: float
    share: float
    rows: int


def calibration(outcome: Outcome, task: str) -> list[Bin]:
    """The share of rows of the predicted class, by its predicted probability, in ten bins.

    The class is the positive one, a label, or for ``multiclass`` the likeliest class.
    """
    if task == "multiclass":
        p, place = outcome.prediction.max(1)
        hit = (outcome.y.argmax(1) == place).double()
    else:
        p, hit = outcome.prediction.flatten(), (outcome.y > 0.5).double().flatten()
    p = p.double().clamp(0, 1)
    bins = (p * BINS).long().clamp(max=BINS - 1)
    counts, probabilities, hits = (torch.bincount(bins, w, BINS) for w in (torch.ones_like(p), p, hit))
    return [
        Bin(number / BINS, (number + 1) / BINS, (probabilities[number] / n).item(), (hits[number] / n).item(), int(n))
        for number, n in enumerate(counts)
    ]


def _metric(task: str, classes: int, kind: str) -> Metric:
    of_task = {
        "roc": {"binary": BinaryROC, "multiclass": MulticlassROC, "multilabel": MultilabelROC},
        "precision_recall": {
            "binary": BinaryPrecisionRecallCurve,
            "multiclass": MulticlassPrecisionRecallCurve,
            "multilabel": MultilabelPrecisionRecallCurve,
        },
    }[kind][task]
    return of_task(*([] if task == "binary" else [classes]), sync_on_compute=False)  # one process reports


def _curves(outcome: Outcome, task: str, kind: str) -> list[tuple[Tensor, ...]]:
    """For each class or label torchmetrics' curve: two rates, and the thresholds."""
    metric = _metric(task, outcome.prediction.shape[1], kind)
    y = outcome.y.argmax(1) if task == "multiclass" else (outcome.y > 0.5).long()
    prediction = outcome.prediction.clamp(0, 1)  # a sum of rounded values may lie outside
    if task == "binary":
        prediction, y = prediction[:, 0], y[:, 0]
    metric.update(prediction, y)
    found: Any = metric.compute()
    return [found] if task == "binary" else [*zip(*found, strict=True)]


def curves(outcome: Outcome, task: str, names: Sequence[str]) -> dict[str, Any]:
    """ROC and precision-recall curves of each class or label (of two classes, the positive one); up to 500 points each."""
    named = names[1:] if task == "binary" else names
    result: dict[str, Any] = {}
    for kind, axes in (("roc", ("false_positive_rate", "true_positive_rate")), ("precision_recall", ("precision", "recall"))):
        of_each = {}
        for name, points in zip(named, _curves(outcome, task, kind), strict=True):
            of_each[name] = {
                axis: values[evenly_spaced(len(values), POINTS)].tolist()
                for axis, values in zip((*axes, "threshold"), points, strict=True)
            }
        result[kind] = of_each
    return result


def figures(results: "Results") -> Iterator[tuple[str, Any]]:
    """Each picture's title and its matplotlib figure."""
    module, outcome, names = results.module, results.outcome, results.names
    if module.task == "regression":
        yield "predicted and true", _of_targets(outcome, names, results.offsets)
    else:
        if module.task != "multilabel":
            yield "confusion matrix", _of_confusion(confusion_of(outcome.prediction, outcome.y, module.threshold), names)
        yield "ROC curve", _of_curves(outcome, module.task, names, "roc")
        yield "precision and recall", _of_curves(outcome, module.task, names, "precision_recall")
        yield "calibration", _of_calibration(calibration(outcome, module.task), module.task, names)
    if results.importances:
        yield "importance of the most important columns", _of_importances(results)


def _figure(width: float = 6.4, height: float = 4.8) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots()


def _of_confusion(confusion: Tensor, names: Sequence[str]) -> Any:
    from torchmetrics.utilities.plot import plot_confusion_matrix

    side = min(max(4.5, 0.55 * len(names) + 2), 14)
    figure, axes = _figure(side, side)
    with_counts = len(names) <= 2 * DRAWN
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    plot_confusion_matrix(shares, axes, add_text=False, labels=[_short(name) for name in names], cmap="Blues")
    axes.images[0].set_clim(0, 1)
    if with_counts:
        for true, row in enumerate(confusion.tolist()):
            for taken, count in enumerate(row):
                color = "white" if shares[true, taken] > 0.5 else "black"
                axes.text(taken, true, f"{count:,}", ha="center", va="center", color=color, fontsize=11)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _of_curves(outcome: Outcome, task: str, names: Sequence[str], kind: str) -> Any:
    from torchmetrics.utilities.plot import plot_curve

    figure, axes = _figure()
    found = _curves(outcome, task, kind)
    roc = kind == "roc"
    labels: Any = [_short(name) for name in (names[1:] if task == "binary" else names)]
    x, y = ([points[axis] for points in found] for axis in ((0, 1) if roc else (1, 0)))
    axis_names = ("false positive rate", "true positive rate") if roc else ("recall", "precision")
    plot_curve((x, y, []), ax=axes, label_names=axis_names, labels=labels)
    if len(found) > DRAWN:
        axes.get_legend().remove()
    if roc:
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    return figure


def _of_calibration(bins: Sequence[Bin], task: str, names: Sequence[str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((6.4, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    some = [one for one in bins if one.rows]
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.plot([one.probability for one in some], [one.share for one in some], marker="o", label="the network")
    of = {"binary": f"class {_short(names[-1])}", "multilabel": "a label", "multiclass": "the likeliest class"}[task]
    upper.set_ylabel(f"share of {'rows right' if task == 'multiclass' else 'rows that have it'}")
    upper.legend()
    upper.grid(alpha=0.3)
    lower.bar([(one.low + one.high) / 2 for one in bins], [one.rows for one in bins], 1 / BINS, edgecolor="white")
    lower.set_ylabel("rows")
    lower.set_xlabel(f"predicted probability of {of}")
    return figure


def _of_targets(outcome: Outcome, names: Sequence[str], offsets: Sequence[float]) -> Any:
    from matplotlib.figure import Figure

    names = names[:DRAWN]
    columns = min(len(names), 2)
    lines = -(-len(names) // columns)
    figure = Figure((5.6 * columns, 4.6 * lines), layout="constrained")
    index = evenly_spaced(len(outcome), 4 * POINTS)
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for number, (name, axes) in enumerate(zip(names, grid, strict=False)):
        offset = offsets[number] if offsets else 0.0
        y, prediction = (one[index, number].double() + offset for one in (outcome.y, outcome.prediction))
        axes.plot(y, prediction, ".", alpha=0.5)
        ends = [min(y.min(), prediction.min()), max(y.max(), prediction.max())]
        axes.plot(ends, ends, color="grey", linestyle="--", linewidth=1)
        axes.set_xlabel(f"true {_short(name)}")
        axes.set_ylabel("predicted")
        axes.grid(alpha=0.3)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure


def _of_importances(results: "Results") -> Any:
    some = results.importances[:COLUMNS][::-1]
    figure, axes = _figure(6.4, 1.2 + 0.28 * len(some))
    axes.barh([_short(one.column) for one in some], [one.cost for one in some], xerr=[one.cost_deviation for one in some])
    axes.set_xlabel("rise of the cost when the column is shuffled")
    axes.grid(axis="x", alpha=0.3)
    return figure
