"""Finds features that give the target away."""

import json
import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl
from torch import Tensor

from torchbp.data._columns import Column
from torchbp.tasks import Task

SAMPLE = 2000  # maximum rows to look at
FEWEST = 30  # with fewer rows, a column may fit the target by chance
ALL_BUT = 0.999  # minimum share of rows classified right, and minimum rank correlation
FEWEST_OTHERS = 5  # with fewer rows outside the most frequent class, a column may separate them by chance
OF_OTHERS = 0.1  # maximum mistakes / rows outside the most frequent class


def warn_of_leaks(x: Tensor, y: Tensor, task: Task, columns: Sequence[Column], names: Sequence[str]) -> None:
    """Warn of each column that determines a target by itself, such as a copy of it, or a value known only afterwards.

    For classes: a decision tree on that column, with one leaf per class, makes almost no mistake, and far fewer than always
    predicting the most frequent class. For numbers: the column orders the rows as the target does.

    Args:
        x, y: training rows, encoded by ``columns``, and their targets.
        task: the task.
        columns: the columns of x.
        names: the targets' names.
    """
    if len(x) < FEWEST:
        return
    targets = [y.argmax(1)] if task == "multiclass" else y.unbind(1)
    tells = _orders if task == "regression" else _separates
    first = 0
    for column in columns:
        width = len(column.features)
        features = x[:, first : first + width].numpy()
        determined = [name for name, y in zip(names, targets, strict=True) if width and tells(features, y.numpy())]
        if determined:
            which = f"the target {', '.join(map(repr, determined))}" if len(targets) > 1 else "the target"
            warnings.warn(
                f"column {column.name!r} determines {which} by itself; if it is not known when you predict, leave it out: "
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
        # Sorted by a single feature, the class changes between leaves, and twice for each mistake. Counting the changes takes
        # a tenth of the time of a tree.
        changes = np.count_nonzero(np.diff(classes[features[:, 0].argsort()]))
        if changes > leaves - 1 + 2 * (1 - ALL_BUT) * len(classes):
            return False
    from sklearn.tree import DecisionTreeClassifier  # imported here: it takes half a second

    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0).fit(features, classes)
    mistakes = np.count_nonzero(tree.predict(features) != classes)
    return bool(mistakes < (1 - ALL_BUT) * len(classes) and mistakes <= OF_OTHERS * others)


def _orders(features: np.ndarray, target: np.ndarray) -> bool:
    varies = features[:, features.std(0) > 0]
    if not varies.size or target.std() == 0:
        return False
    ranks = np.column_stack([pl.Series(values).rank().to_numpy() for values in (*varies.T, target)])
    return bool(np.abs(np.corrcoef(ranks, rowvar=False)[-1, :-1]).max() > ALL_BUT)
