"""Tables of predictions: scores beside the baseline, each class or target, and the confusion of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from rich.table import Table as RichTable
from rich.text import Text
from torch import Tensor

from torchbp._text import digits, printable

SHOWN = 30  # maximum classes or targets in a terminal
WIDE = 12  # maximum classes for a confusion matrix in a terminal
PAIRS = 10  # pairs of confused classes that are shown instead of a wider matrix
NONE = "–"


@dataclass
class Grid:
    """A table to show in a terminal, in Markdown or in HTML.

    Args:
        title: the title.
        header: the names of its columns; the first column holds names, the others numbers.
        rows: its cells, as text.
        note: a line below the table.
    """

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def as_rich(self) -> RichTable:
        """The table for a terminal, without title and note."""
        table = RichTable()
        for number, name in enumerate(self.header):
            table.add_column(Text(printable(name)), justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    def as_markdown(self, titled: bool = True) -> str:
        """The table in Markdown; with ``titled``, the title is a line above it."""
        lines = [[*self.header], ["---", *["--:"] * (len(self.header) - 1)], *self.rows]
        text = "\n".join(f"| {' | '.join(map(in_markdown, line))} |" for line in lines)
        return "\n\n".join(filter(None, [in_markdown(self.title) if titled else "", text, in_markdown(self.note)]))


def in_markdown(text: str) -> str:
    """The text with the special characters of Markdown and HTML escaped."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#&!$~" else c for c in printable(text))


def score_grid(title: str, columns: Mapping[str, Mapping[str, float]], rows: Mapping[str, int], note: str = "") -> Grid:
    """A table of scores: one row per score, one column per split or baseline.

    Args:
        title: the table's title.
        columns: each column's scores by name; a score that is missing or not finite is shown as a dash.
        rows: the number of rows behind each column's scores.
        note: a line below the table.
    """
    grid = Grid(title, ["", *columns], note=note)
    grid.rows.append(["rows", *(f"{rows[name]:,}" if name in rows else "" for name in columns)])
    for name in dict.fromkeys(name for scores in columns.values() for name in scores):
        grid.rows.append([name.replace("_", " "), *(shown(scores.get(name)) for scores in columns.values())])
    return grid


def shown(value: float | None) -> str:
    """A number in three digits, or a dash for None, NaN and infinity."""
    return NONE if value is None or not isfinite(value) else digits(value)


def confusion_of(prediction: Tensor, y: Tensor, threshold: float) -> Tensor:
    """The confusion matrix (C, C), true class by predicted class, for predictions (N, C), or (N, 1) for two classes."""
    if prediction.shape[1] == 1:
        true, taken, classes = (y[:, 0] > 0.5).long(), (prediction[:, 0] > threshold).long(), 2
    else:
        true, taken, classes = y.argmax(1), prediction.argmax(1), prediction.shape[1]
    return torch.bincount(true * classes + taken, minlength=classes**2).reshape(classes, classes)


@dataclass
class ClassScores:
    """Scores of one class or label against the rest; None where one is not defined."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    rows: int


def class_scores(confusion: Tensor, names: Sequence[str]) -> list[ClassScores]:
    """The scores of each class, from the confusion matrix (C, C)."""
    hits, taken, true = confusion.diag().tolist(), confusion.sum(0).tolist(), confusion.sum(1).tolist()
    return [_scores_of(*one) for one in zip(names, hits, taken, true, strict=True)]


def label_scores(prediction: Tensor, y: Tensor, names: Sequence[str]) -> list[ClassScores]:
    """The scores of each label of ``multilabel``, from predictions (N, C)."""
    taken, true = prediction > 0.5, y > 0.5
    sums = ((taken & true).sum(0).tolist(), taken.sum(0).tolist(), true.sum(0).tolist())
    return [_scores_of(*one) for one in zip(names, *sums, strict=True)]


def _scores_of(name: str, hits: int, taken: int, true: int) -> ClassScores:
    both = taken + true
    precision, recall = hits / taken if taken else None, hits / true if true else None
    return ClassScores(name, precision, recall, 2 * hits / both if both else None, true)


def class_grid(title: str, scores: Sequence[ClassScores], most: int | None = SHOWN) -> Grid:
    """Precision, recall and F1 of each class; if there are more than ``most``, of those with the lowest F1."""
    chosen, note = scores, ""
    if most is not None and len(scores) > most:
        chosen = sorted(scores, key=lambda one: one.f1 if one.f1 is not None else 2)[:most]
        note = f"the {most} of {len(scores)} with the lowest f1"
    rows = [[one.name, *map(shown, (one.precision, one.recall, one.f1)), f"{one.rows:,}"] for one in chosen]
    return Grid(title, ["", "precision", "recall", "f1", "rows"], [*rows], note)


def confusion_grid(confusion: Tensor, names: Sequence[str], wide: int | None = WIDE) -> Grid:
    """The confusion matrix; for more than ``wide`` classes, the pairs that are confused most often."""
    if wide is None or len(names) <= wide:
        rows = [[name, *(f"{count:,}" for count in counts)] for name, counts in zip(names, confusion.tolist(), strict=True)]
        return Grid("true class, and what it was taken for", ["", *names], [*rows])
    wrong = confusion - confusion.diag().diag()
    counts, places = wrong.flatten().topk(min(PAIRS, wrong.numel()))
    pairs = [
        (count, *divmod(place, len(names))) for count, place in zip(counts.tolist(), places.tolist(), strict=True) if count
    ]
    rows = [[names[true], names[taken], f"{count:,}"] for count, true, taken in pairs]
    return Grid("most often confused", ["class", "taken for", "rows"], [*rows])


@dataclass
class TargetScores:
    """Errors of the predictions of one target, in its units; ``r2`` is None if all rows have the same value."""

    name: str
    mae: float
    rmse: float
    r2: float | None
    mean: float
    deviation: float
    rows: int


def target_scores(prediction: Tensor, y: Tensor, names: Sequence[str], offsets: Sequence[float] = ()) -> list[TargetScores]:
    """The scores of each target of ``regression``, from predictions (N, C); ``offsets`` were subtracted from the targets."""
    error, y = (prediction - y).double(), y.double()
    scores = []
    for number, name in enumerate(names):
        of_error, of_y = error[:, number], y[:, number]
        mean, square, variance = of_y.mean().item(), of_error.square().mean().item(), of_y.var(correction=0).item()
        r2 = 1 - square / variance if variance else None
        mean += offsets[number] if offsets else 0.0
        mae = of_error.abs().mean().item()
        scores.append(TargetScores(name, mae, square**0.5, r2, mean, variance**0.5, len(y)))
    return scores


def target_grid(title: str, scores: Sequence[TargetScores], most: int | None = SHOWN) -> Grid:
    """Errors, mean and deviation of each target; if there are more than ``most``, of those with the lowest R²."""
    chosen, note = scores, ""
    if most is not None and len(scores) > most:
        chosen = sorted(scores, key=lambda one: one.r2 if one.r2 is not None else 2)[:most]
        note = f"the {most} of {len(scores)} with the lowest r2"
    rows = [[one.name, *map(shown, (one.mae, one.rmse, one.r2, one.mean, one.deviation)), f"{one.rows:,}"] for one in chosen]
    return Grid(title, ["", "mae", "rmse", "r2", "its mean", "its deviation", "rows"], [*rows], note)
