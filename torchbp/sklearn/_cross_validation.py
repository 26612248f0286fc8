"""Cross-validation with the networks of all folds side by side."""

import warnings
from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from torch import Tensor

from torchbp.fitting import Learner, fit_together
from torchbp.sklearn._base import MAX_SEED, BPEstimator
from torchbp.sklearn._checks import check_parameters
from torchbp.sklearn._rows import Rows, scaled

ALONE = {"early_stopping": False, "warm_start": False, "n_networks": None, "class_weight": None, "callbacks": None}


def cross_validate(
    estimator: BPEstimator, X: Any, y: Any, *, groups: Any = None, cv: Any = None, scoring: Any = None
) -> dict[str, Any]:
    """Train a network for each split, all side by side, and score each on the split's other rows.

    Each network has its own training rows, and its own scaling of columns and target from these. It equals the network that
    ``clone(estimator).fit`` trains on them, except that it has all classes of y.

    Args:
        estimator: the estimator with the parameters to use; it is not changed.
        X, y: rows (N, n0) and their targets.
        groups: (N), for a splitter that keeps groups together.
        cv: a scikit-learn splitter, or the number of folds; None for 5.
        scoring: as for :func:`sklearn.model_selection.cross_validate`, one metric; None for the estimator's ``score``.

    Returns:
        ``test_score`` (splits), NaN with a warning for a network that diverged; ``estimator``, the fitted estimators; and
        ``indices``, those of each split's rows, ``train`` and ``test``.

    Raises:
        ValueError: the estimator has a setting that networks side by side cannot have.
    """
    whole = clone(estimator)
    X, y, t = encoded(whole, X, y)
    splitter = check_cv(cv, y, classifier=whole._task() != "regression")
    splits = list(splitter.split(X, y, groups))
    [models] = fit_folds([whole], X, t, splits)
    if scoring is None:
        [scores] = own_scores([models], X, t, splits)
    else:
        scores = scores_of(models, X, y, splits, check_scoring(whole, scoring))
    indices = {name: [split[number] for split in splits] for number, name in enumerate(("train", "test"))}
    return {"test_score": scores, "estimator": models, "indices": indices}


def encoded(whole: BPEstimator, X: Any, y: Any) -> tuple[Any, Any, np.ndarray]:
    """Check X and y; return them, and y as targets. Sets the estimator's attributes for them.

    Raises:
        ValueError: one that asks for what is done by one network at a time.
    """
    for name, value in ALONE.items():
        if getattr(whole, name, value) != value:
            raise ValueError(f"{name} is {getattr(whole, name)!r}; networks of folds side by side need {value!r}")
    check_parameters(whole)
    X, y = whole._checked(X, y, reset=True)
    return X, y, whole._encode(y, first=True)


def fit_folds(
    wholes: Sequence[BPEstimator], X: Any, t: np.ndarray, splits: Sequence[Any], raises: bool = False
) -> list[list[BPEstimator]]:
    """Train a model of each estimator for each split, all side by side; they must have one network shape and batch size.

    A model whose network diverged is not fitted; with ``raises``, that is a FloatingPointError.
    """
    models, learners = [], []
    parts = [(X[train], t[train]) for train, _ in splits]
    starts: list[tuple[Any, Any]] = []  # what networks are drawn by, and their states
    for whole in wholes:
        for (train, _), part in zip(splits, parts, strict=True):
            model = copy(whole)
            seed = int(check_random_state(deepcopy(model.random_state)).randint(MAX_SEED))
            drawn_by = model._hidden(), model.activation, seed
            model._start(*part, None, [seed], next((states for by, states in starts if by == drawn_by), None))
            starts.append((drawn_by, model._states))
            [learner] = model._learners(len(train), train, None, [seed])
            learner.scaling = _tensors(model._scaling, X.dtype, model._device())
            learner.target_scaling = _tensors(model._target_scaling, X.dtype, model._device())
            models.append(model)
            learners.append(learner)
    _train(models[0], learners, X, t)
    for number, (model, learner) in enumerate(zip(models, learners, strict=True)):
        try:
            model._take([learner], model.max_iter, stops=True)
        except FloatingPointError as error:
            if raises:
                raise
            del model._states
            split = f"split {number % len(splits) + 1} of {len(splits)}"
            warnings.warn(f"the network of {split} diverged: {error}", ConvergenceWarning, 3)
    return [models[begin : begin + len(splits)] for begin in range(0, len(models), len(splits))]


def scores_of(models: Sequence[BPEstimator], X: Any, y: Any, splits: Sequence[Any], scorer: Any) -> np.ndarray:
    """Each model's score on its split's test rows; NaN for a model that is not fitted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")  # these rows of a frame are an array
        return np.array(
            [
                scorer(model, X[test], y[test]) if model.__sklearn_is_fitted__() else np.nan
                for model, (_, test) in zip(models, splits, strict=True)
            ]
        )


@torch.no_grad()
def own_scores(models: Sequence[Sequence[BPEstimator]], X: Any, t: np.ndarray, splits: Sequence[Any]) -> list[np.ndarray]:
    """The same as :func:`scores_of` with the estimators' ``score``, from one joint prediction for each split."""
    scores = np.full((len(models), len(splits)), np.nan)
    for number, (_, test) in enumerate(splits):
        of_split = [of_splits[number] for of_splits in models]
        there = [k for k, model in enumerate(of_split) if model.__sklearn_is_fitted__()]
        if not there:
            continue
        first = of_split[there[0]]
        a = first._outputs(X[test], [of_split[k]._states[0] for k in there])
        for k, prediction in zip(there, a, strict=True):
            model = of_split[k]
            y = t[test] if model._target_scaling is None else scaled(t[test], model._target_scaling)
            target = torch.from_numpy(y).to(prediction.dtype)
            scores[k, number] = model._score_of(prediction, target, target.new_ones(len(target)))
    return list(scores)


def _train(model: BPEstimator, learners: list[Learner], X: Any, t: np.ndarray) -> None:
    batch = model._batch_of(max(len(learner.rows) for learner in learners))
    plan = model._plan(batch, model.max_iter, tol=model.tol, patience=model.n_iter_no_change)
    fit_together(learners, Rows(X, t, None, None, model._device()), plan)


def _tensors(scaling: Any, dtype: Any, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if scaling is None:
        return None
    mean, scale = (torch.from_numpy(values.astype(dtype)).to(device) for values in scaling)
    return mean, scale
