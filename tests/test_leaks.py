"""Warnings of columns that determine the target, compared with scikit-learn's tree and correlation."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

from torchbp.data._columns import Column
from torchbp.data._leak import warn_of_leaks


def warned(features: np.ndarray, target: np.ndarray, task: Any) -> bool:
    y = (
        torch.eye(int(target.max()) + 1)[torch.from_numpy(target)]
        if task == "multiclass"
        else torch.from_numpy(target[:, None])
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_leaks(torch.from_numpy(features.astype(np.float32)), y.float(), task, [Column("f", "numeric", "")], ["t"])
    return bool(caught)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_column_by_which_a_tree_makes_no_mistake(task: Any) -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(150):
        classes = 2 if task == "binary" else int(random.integers(3, 6))
        n = int(random.integers(30, 2001))
        target = random.integers(0, classes, n)
        # From a copy of the classes to a noisy one, with few or many distinct values, and with wrong labels.
        feature = (target + random.normal(0, 10 ** random.uniform(-4, 0), n)).round(int(random.integers(0, 4)))[:, None]
        wrong = random.random(n) < random.choice([0, 0.0005, 0.001, 0.01])
        target = np.where(wrong, (target + 1) % classes, target)
        tree = DecisionTreeClassifier(max_leaf_nodes=classes).fit(feature.astype(np.float32), target)
        found.append(tree.score(feature.astype(np.float32), target) > 0.999)
        assert warned(feature, target, task) == found[-1]
    assert 30 < sum(found) < 120


@pytest.mark.parametrize("positives", [3, 12])
def test_of_a_rare_class_only_what_tells_it(positives: int) -> None:
    random = np.random.default_rng(0)
    target = np.zeros(4000, int)
    target[random.choice(4000, positives, replace=False)] = 1
    for _ in range(10):
        assert not warned(random.normal(size=(4000, 1)), target, "binary")
    assert warned((target + random.normal(0, 0.01, 4000))[:, None], target, "binary") == (positives > 5)


@pytest.mark.parametrize("of", [np.exp, lambda y: -(y**3), np.arctan])
def test_a_column_that_orders_the_rows_as_a_quantity_does(of: Any) -> None:
    target = np.random.default_rng(0).normal(size=1000)
    assert warned(of(target)[:, None], target, "regression")
    assert not warned(np.abs(target)[:, None], target, "regression")


@pytest.mark.parametrize(("noise", "tells"), [(0.0, True), (0.01, True), (0.1, False)])
def test_a_column_that_is_proportional_to_a_quantity(noise: float, tells: bool) -> None:
    random = np.random.default_rng(0)
    target = random.normal(size=1000)
    assert warned((3 - 2 * target + noise * random.normal(size=1000))[:, None], target, "regression") == tells


def test_of_several_targets_the_warning_names_those_that_are_determined() -> None:
    x, y = torch.rand(50, 1), torch.rand(50, 2)
    y[:, 1] = x[:, 0] ** 3
    with pytest.warns(UserWarning, match="column 'f' determines the target 'second' by itself"):
        warn_of_leaks(x, y, "regression", [Column("f", "numeric", "")], ["first", "second"])
