"""Cross-validation of the estimators: folds side by side compared with folds one by one."""

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from sklearn.model_selection import cross_validate as one_by_one

from torchbp.sklearn import BPClassifier, BPRegressor, cross_validate

SHORT = {"hidden_layer_sizes": (5,), "max_iter": 5, "tol": 0, "random_state": 0}
IRIS = load_iris(return_X_y=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", [BPClassifier, BPRegressor])
def test_folds_side_by_side_equal_those_one_by_one(kind):
    X, y = IRIS if kind is BPClassifier else load_diabetes(return_X_y=True)
    X = X * [1, 10, *[3] * (X.shape[1] - 2)] + 5
    model = kind((6,), batch_size=16, max_iter=12, n_iter_no_change=2, tol=0.01, random_state=0)
    cv = KFold(7, shuffle=True, random_state=0)  # folds of different sizes
    together, alone = cross_validate(model, X, y, cv=cv), one_by_one(model, X, y, cv=cv, return_estimator=True)
    np.testing.assert_allclose(together["test_score"], alone["test_score"], rtol=1e-6)
    for ours, one in zip(together["estimator"], alone["estimator"], strict=True):
        assert ours.n_iter_ == one.n_iter_
        np.testing.assert_allclose(ours.coefs_[0], one.coefs_[0], rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("error:X does not have valid feature names")
def test_folds_of_a_frame_are_scored_by_any_metric():
    X, y = pl.DataFrame(IRIS[0], schema=list("abcd")), IRIS[1]
    scores = [
        run(BPClassifier(**SHORT), X, y, cv=3, scoring="neg_log_loss")["test_score"] for run in (cross_validate, one_by_one)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-9)


def test_folds_side_by_side_refuse_what_one_network_refuses():
    with pytest.raises(ValueError, match="early_stopping is True; networks of folds side by side need False"):
        cross_validate(BPClassifier(early_stopping=True), *IRIS)


def test_a_fold_that_diverges_has_no_score():
    X, y = load_diabetes(return_X_y=True)
    X[0] = 1e3  # a row of the first fold's test part and of all other folds' training parts
    model = BPRegressor((), batch_size=1000, max_iter=60, learning_rate_init=0.3, tol=0, standardize=False)
    model.set_params(n_iter_no_change=99, random_state=0)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        scores = cross_validate(model, X, y, cv=KFold(3))["test_score"]
    assert np.isnan(scores).tolist() == [False, True, True]
