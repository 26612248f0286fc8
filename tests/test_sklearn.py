"""The estimators: scikit-learn's checks, MLPClassifier's parameters, and ensembles compared with single networks."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchbp.sklearn import BPClassifier, BPRegressor

CHECKS = """
import sys, warnings
warnings.simplefilter("ignore")
from sklearn.exceptions import SkipTestWarning
warnings.simplefilter("error", SkipTestWarning)
from sklearn.utils.estimator_checks import check_estimator
from torchbp.sklearn import BPClassifier, BPRegressor, cross_validate
for estimator in BPClassifier(), BPRegressor():
    check_estimator(estimator)
assert "lightning" not in sys.modules
"""
SHORT = {"hidden_layer_sizes": (5,), "max_iter": 5, "tol": 0, "random_state": 0}
IRIS = load_iris(return_X_y=True)


def test_scikit_learns_checks_pass_whole_and_without_lightning():
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}  # otherwise a check is skipped
    done = subprocess.run([sys.executable, "-c", CHECKS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def targets(task):
    X, y = IRIS
    X = (X - X.mean(0)) / X.std(0)
    if task == "multilabel":
        X, y = make_multilabel_classification(90, 6, n_classes=4, random_state=0)
        X = (X - X.mean(0)) / X.std(0)
    return X, (y == 1).astype(int) if task == "binary" else y


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_parameters_are_those_of_mlpclassifier(task):
    X, y = targets(task)
    outputs = y.shape[1] if task == "multilabel" else 1
    ours = BPClassifier(
        (7,),
        batch_size=16,
        learning_rate_init=0.1 * outputs,
        max_iter=10,
        shuffle=False,
        tol=0,
        standardize=False,
        random_state=3,
    )
    start = BPClassifier(**{**ours.get_params(), "learning_rate_init": 1e-300, "max_iter": 1}).fit(X, y)
    peer = MLPClassifier(
        (7,), activation="logistic", solver="sgd", alpha=0, momentum=0, nesterovs_momentum=False, batch_size=16,
        learning_rate_init=0.1, shuffle=False, tol=0, warm_start=True, n_iter_no_change=99, max_iter=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit(X, y)
        peer.coefs_, peer.intercepts_ = ([w.copy() for w in values] for values in (start.coefs_, start.intercepts_))
        peer.set_params(max_iter=10).n_iter_ = 0
        peer.t_, peer.loss_curve_ = 0, []
        peer._no_improvement_count = 0
        peer.fit(X, y)
    ours.fit(X, y)
    for a, b in zip(ours.coefs_ + ours.intercepts_, peer.coefs_ + peer.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
    assert np.abs(ours.coefs_[0] - start.coefs_[0]).max() > 1e-3
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-8)


@pytest.mark.parametrize("n_networks", [None, 3])
def test_partial_fit_is_an_epoch_of_fit(n_networks):
    X, y = IRIS
    whole = BPClassifier(**SHORT, n_networks=n_networks, batch_size=32).fit(X, y)
    steps = clone(whole)
    for _ in range(5):
        steps.partial_fit(X, y, classes=[0, 1, 2])
        steps = pickle.loads(pickle.dumps(steps))
    for a, b in zip(whole.coefs_, steps.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_an_early_stop_takes_the_best_epochs_parameters_and_names_as_classes():
    X, y = IRIS
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = BPClassifier((8,), early_stopping=True, max_iter=300, n_iter_no_change=3, random_state=0).fit(X, names)
    assert model.n_iter_ == len(model.validation_scores_) < 300
    assert max(model.validation_scores_) == model.best_validation_score_ > model.validation_scores_[0]
    assert model.best_loss_ is None  # as for MLPClassifier
    assert set(model.predict(X)) <= set(names)
    # The same rows as an explicit validation set: scores equal score().
    shown = BPClassifier(**SHORT).fit(X, names, eval_set=(X[::2], names[::2]))
    assert shown.validation_scores_[-1] == pytest.approx(shown.score(X[::2], names[::2]))


def test_warm_start_goes_on():
    X, y = IRIS
    model = BPClassifier(**SHORT, warm_start=True).fit(X, y)
    first = model.loss_curve_
    assert model.fit(X, y).loss_curve_[0] < first[-1]
    before = model.coefs_[0]
    model.set_params(learning_rate_init=1e-9).fit(X, y)  # at another learning rate
    np.testing.assert_allclose(model.coefs_[0], before, atol=1e-6)
    assert model.learning_rate_ == 1e-9
    with pytest.raises(ValueError, match=r"hidden_layer_sizes is \[4\]; with warm_start it must be as before, \[5\]"):
        model.set_params(hidden_layer_sizes=4).fit(X, y)


def test_warm_start_goes_on_without_the_networks_that_diverged():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(**SHORT, n_networks=3, warm_start=True).fit(X, y)
    diverges = clone(model).fit(X, y)
    diverges._states[1]["layers.0.weight"].fill_(float("nan"))
    with pytest.warns(ConvergenceWarning, match="1 of 3 networks diverged"):
        diverges.fit(X, y)
    assert diverges.fit(X, y).coefs_[0].shape == (2, X.shape[1], 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_rows_frames_and_dense_rows_are_one(dtype):
    X, y = IRIS
    X = (X * (X > 2)).astype(dtype)
    dense = BPClassifier(**SHORT).fit(X, y)
    assert dense.coefs_[0].dtype == dense.predict_proba(X).dtype == dtype
    sparse = BPClassifier(**SHORT).fit(sp.csr_matrix(X), y)
    frame = BPClassifier(**SHORT).fit(pl.DataFrame(X, schema=list("abcd")), y)
    assert list(frame.feature_names_in_) == list("abcd")
    for other, rows in ((sparse, sp.csr_matrix(X)), (frame, pl.DataFrame(X, schema=list("abcd")))):
        np.testing.assert_allclose(
            other.predict_proba(rows), dense.predict_proba(X), atol=1e-5 if dtype == np.float32 else 1e-9
        )


def test_class_weights_are_sample_weights():
    X, y = IRIS
    by_class = BPClassifier(**SHORT, class_weight={0: 1, 1: 3, 2: 0.5}).fit(X, y)
    by_row = BPClassifier(**SHORT).fit(X, y, sample_weight=np.array([1, 3, 0.5])[y])
    plain = BPClassifier(**SHORT).fit(X, y)
    np.testing.assert_allclose(by_class.coefs_[0], by_row.coefs_[0], rtol=1e-12)
    assert np.abs(by_class.coefs_[0] - plain.coefs_[0]).max() > 1e-3


def test_a_class_may_be_missing_in_a_call_of_partial_fit():
    X, y = IRIS
    models = [BPClassifier(**SHORT, class_weight=weight) for weight in ({1: 3}, {0: 1, 1: 3, 2: 1})]
    for model in models:
        model.partial_fit(X[:90], y[:90], classes=[0, 1, 2]).partial_fit(X[:40], y[:40])
    np.testing.assert_array_equal(models[0].coefs_[0], models[1].coefs_[0])
    with pytest.raises(ValueError, match="class_weight is 'balanced'; partial_fit does not know all rows"):
        BPClassifier(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="bootstrap is True; partial_fit does not draw rows"):
        BPClassifier(n_networks=2, bootstrap=True).partial_fit(X, y)


@pytest.mark.parametrize("kinds", [(np.asarray, sp.csr_matrix), (sp.csr_matrix, np.asarray), (sp.csr_array, sp.csc_array)])
def test_validation_rows_may_be_sparse(kinds):
    X, y = IRIS
    model = BPClassifier(**SHORT).fit(kinds[0](X), y, eval_set=(kinds[1](X), y))
    assert model.validation_scores_[-1] == pytest.approx(model.score(X, y))
    single = BPClassifier(**SHORT).fit(kinds[0](X.astype(np.float32)), y, eval_set=(kinds[1](X), y))
    assert single.coefs_[0].dtype == np.float32
    whole = BPClassifier(**SHORT).fit(kinds[0](X), y, eval_set=(kinds[1](X.round().astype(int)), y))
    assert whole.validation_scores_[-1] == pytest.approx(whole.score(X.round(), y))


def test_labels_may_be_sparse():
    X, y = targets("multilabel")
    sparse, dense = (BPClassifier(**SHORT, early_stopping=True).fit(X, kind(y)) for kind in (sp.csr_matrix, np.asarray))
    np.testing.assert_array_equal(sparse.predict_proba(X), dense.predict_proba(X))


def test_partial_fit_goes_on_after_an_error_and_after_fit():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(**SHORT, activation="identity", warm_start=True, standardize=False)
    with pytest.raises(FloatingPointError, match="give learning_rate_init a number"):
        model.partial_fit(np.full_like(X, 1e300), y)
    assert model.partial_fit(X, y).loss_curve_[-1] > 0
    model.fit(X, y, eval_set=(X, y)).partial_fit(X[:50], y[:50])
    assert len(model.loss_curve_) == 1


def test_a_cuda_device_with_too_high_a_number_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="device is 'cuda:2', and the last CUDA device is cuda:1; take 'cpu' or 'auto'"):
        BPClassifier(device="cuda:2").fit(*IRIS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_model_of_a_cuda_device_predicts_on_a_machine_without_one():
    X, y = IRIS
    model = BPClassifier(**SHORT).fit(X, y)
    elsewhere = pickle.loads(pickle.dumps(model.set_params(device="cuda")))
    np.testing.assert_array_equal(elsewhere.predict_proba(X), model.set_params(device="cpu").predict_proba(X))
    with pytest.raises(ValueError, match="device is 'cuda', and there is no CUDA device"):
        elsewhere.fit(X, y)


def test_an_ensembles_networks_are_those_of_their_seeds():
    X, y = IRIS
    several = BPClassifier((5,), max_iter=40, batch_size=32, n_networks=3, random_state=0, n_iter_no_change=2, tol=0.02)
    several.fit(X, y)
    rng = np.random.RandomState(0)

    class Seeded(np.random.RandomState):
        def randint(self, *_):
            return seed

    proba = []
    for k in range(3):
        seed = rng.randint(2**31 - 1)
        one = BPClassifier((5,), max_iter=40, batch_size=32, random_state=Seeded(0), n_iter_no_change=2, tol=0.02).fit(X, y)
        for ours, alone in zip(several.coefs_, one.coefs_, strict=True):
            np.testing.assert_allclose(ours[k], alone, rtol=1e-7, atol=1e-10)
        proba.append(one.predict_proba(X))
    mean, spread = several.predict_proba(X, return_std=True)
    np.testing.assert_allclose(mean, np.mean(proba, 0), atol=1e-9)
    np.testing.assert_allclose(spread, np.std(proba, 0), atol=1e-9)
    np.testing.assert_array_equal(several.predict(X), mean.argmax(1))


def test_a_regressor_predicts_in_the_targets_units_with_a_spread():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor((8,), batch_size=32, max_iter=30, tol=0, n_networks=4, bootstrap=True, random_state=0).fit(X, y)
    mean, spread = model.predict(X, return_std=True)
    assert model.score(X, y) > 0.4
    assert mean.shape == spread.shape == y.shape
    assert (spread > 0).all()
    with pytest.warns(ConvergenceWarning, match="after max_iter=20 epochs"):
        assert BPRegressor((8,), max_iter=20, random_state=0).fit(X, np.stack([y, -y], 1)).predict(X).shape == (len(y), 2)


def test_it_works_inside_scikit_learns_tools():
    X, y = IRIS
    model = make_pipeline(StandardScaler(), BPClassifier((5,), max_iter=20, tol=0, random_state=0))
    search = GridSearchCV(model, {"bpclassifier__learning_rate_init": [1e-6, "auto"]}, cv=2, n_jobs=2).fit(X, y)
    assert search.best_params_ == {"bpclassifier__learning_rate_init": "auto"}
    assert CalibratedClassifierCV(search.best_estimator_, cv=2).fit(X, y).score(X, y) > 0.6
    assert permutation_importance(search.best_estimator_, X, y, n_repeats=1).importances_mean.max() > 0


def test_curves_and_bands_are_tensorboards(tmp_path):
    X, y = IRIS
    epochs = []
    model = BPClassifier(**SHORT, n_networks=3, log_dir=str(tmp_path), callbacks=[lambda *seen: epochs.append(seen[1:])])
    model.fit(X, y, eval_set=(X, y))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(model.loss_curve_)
    low, mean, high = (events.Scalars(name)[-1].value for name in ("score_low", "score", "score_high"))
    assert low <= mean <= high
    assert [number for number, _ in epochs] == [1, 2, 3, 4, 5]
    stopped = BPClassifier(**SHORT, callbacks=[lambda model, epoch, losses: epoch == 2]).fit(X, y)
    assert stopped.n_iter_ == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_iter": 0}, "max_iter is 0; it must be a whole number of 1 or more"),
        ({"learning_rate_init": -1}, "learning_rate_init is -1; it must be 'auto', or a finite number above 0"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes is"),
        ({"n_networks": 0}, "n_networks is 0"),
        ({"bootstrap": True}, "bootstrap is True; it is for several networks: set n_networks"),
        ({"device": "gpu"}, "device is 'gpu'; it must be 'cpu', 'cuda' or 'auto'"),
        ({"tol": "no"}, "tol is 'no'; it must be a number of 0 or more"),
        ({"clip": "no"}, "clip is 'no'; it must be a finite number above 0, or None"),
        ({"shuffle": "no"}, "shuffle is 'no'; it must be True or False"),
        ({"log_dir": 1}, "log_dir is 1; it must be a folder's path, or None"),
        ({"callbacks": print}, "callbacks is <built-in function print>; it must be a list or tuple of functions, or None"),
        ({"activation": "sigmod"}, "activation is 'sigmod'; it must be one of"),
        ({"activation": 1}, "activation is 1; it must be one of"),
        ({"activation": [["tanh"]]}, r"activation is \['tanh'\]; it must be one of"),
        ({"batch_size": True}, "batch_size is True; it must be 'auto', or a whole number of 1 or more"),
        ({"batch_size": np.array([1, 2])}, r"batch_size is array\(\[1, 2\]\); it must be"),
        ({"learning_rate_init": True}, "learning_rate_init is True; it must be 'auto', or a finite number above 0"),
        ({"hidden_layer_sizes": (True,)}, r"hidden_layer_sizes is \(True,\); it must be of whole numbers"),
        ({"verbose": "no"}, "verbose is 'no'; it must be True, False, or a whole number of 0 or more"),
        ({"class_weight": [1]}, r"class_weight is \[1\]; it must be 'balanced', or a finite number of 0 or more by class"),
        ({"class_weight": {0: -1}}, r"class_weight is \{0: -1\}; it must be"),
    ],
)
def test_bad_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BPClassifier(**arguments).fit(*IRIS)


@pytest.mark.parametrize("eval_set", [IRIS[0], 5, (*IRIS, None)])
def test_an_eval_set_that_is_no_pair_is_refused_in_one_line(eval_set):
    with pytest.raises(ValueError, match=r"^eval_set is .+; it must be a pair of rows and targets$"):
        BPClassifier(**SHORT).fit(*IRIS, eval_set=eval_set)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"y has one class, 0\.0; a classifier needs two"):
        BPClassifier().fit(IRIS[0], np.zeros(150))
