"""Finds features that give the target away."""

import json
import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl
from torch import Tensor

from torchbp.data._columns import Column
from torchbp.tasks import Task

SAMPLE = 2000  # rows that are looked at
FEWEST = 30  # with fewer, a column may fit the target by chance
ALL_BUT = 0.999
FEWEST_OTHERS = 5  # rows of other classes than the most frequent; fewer may be told apart by chance
OF_OTHERS = 0.1  # of which this many at most may be mistaken


def warn_of_leaks(x: Tensor, y: Tensor, task: Task, columns: Sequence[Column]) -> None:
    """Warn of each column that tells the target by itself, as a copy of it would, or what is known only afterwards.

    For classes that is one by which a decision tree with a leaf a class makes next to no mistake, and far fewer than to say the
    most frequent class each time; for a quantity one that orders the rows as it does.

    Args:
        x, y: training rows, as encoded by ``columns``, and their targets, as the task has them.
    """
    if len(x) < FEWEST:
        return
    targets = [y.argmax(1)] if task == "multiclass" else y.unbind(1)
    tells = _orders if task == "regression" else _separates
    first = 0
    for column in columns:
        width = len(column.features)
        if width and any(tells(x[:, first : first + width].numpy(), target.numpy()) for target in targets):
            warnings.warn(
                f"column {column.name!r} tells the target by itself; if it is not known when you predict, leave it out: "
                f"--data.ignore '{json.dumps([column.name], ensure_ascii=False)}'",
                stacklevel=2,
            )
        first += width


def _separates(features: np.ndarray, classes: np.ndarray) -> bool:
    _, counts = np.unique(classes, return_counts=True)
    others, leaves = len(classes) - counts.max(), max(len(counts), 2)
    if others < FEWEST_OTHERS:
        return False
    if features.shape[1] == 1:
        # In the order of a single feature the class changes between leaves, and twice more for each mistake; to see that
        # there are more changes takes a tenth of the time of a tree.
        changes = np.count_nonzero(np.diff(classes[features[:, 0].argsort()]))
        if changes > leaves - 1 + 2 * (1 - ALL_BUT) * len(classes):
            return False
    from sklearn.tree import DecisionTreeClassifier  # which takes half a second to import

    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0).fit(features, classes)
    mistakes = np.count_nonzero(tree.predict(features) != classes)
    return bool(mistakes < (1 - ALL_BUT) * len(classes) and mistakes <= OF_OTHERS * others)


def _orders(features: np.ndarray, target: np.ndarray) -> bool:
    varies = features[:, features.std(0) > 0]
    if not varies.size or target.std() == 0:
        return False
    ranks = np.column_stack([pl.Series(values).rank().to_numpy() for values in (*varies.T, target)])
    return bool(np.abs(np.corrcoef(ranks, rowvar=False)[-1, :-1]).max() > ALL_BUT)
