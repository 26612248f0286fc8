"""An estimator's checkpoint on the command line, and a command-line run's as an estimator."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from torchbp.cli import main
from torchbp.sklearn import BPClassifier, BPRegressor
from torchbp.training.checkpoint import newest_checkpoint

SHORT = {"hidden_layer_sizes": (5, 4), "max_iter": 5, "tol": 0, "random_state": 0}


def columns(X, names="abcd"):
    return pl.DataFrame(np.asarray(X, np.float32), schema=list(names))


def predicted(*args):
    assert main(["predict", *args, "--output", "p.csv"]) == 0
    return pl.read_csv("p.csv")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_classifiers_checkpoint_predicts_tests_and_is_exported(capfd):
    X, y = load_iris(return_X_y=True)
    X, names = columns(X), np.array(["setosa", "versi", "virgi"])[y]
    model = BPClassifier(**SHORT, activation=("tanh", "swish"), clip=1.5).fit(X, names)
    model.to_checkpoint("m.ckpt", "kind")
    X.with_columns(kind=pl.Series(names)).write_csv("x.csv")
    rows = predicted("--ckpt_path", "m.ckpt", "--data.path", "x.csv")
    np.testing.assert_allclose(rows.select("^p_.*$").to_numpy(), model.predict_proba(X), atol=1e-5)
    assert rows["class"].to_list() == model.predict(X).tolist()
    capfd.readouterr()
    assert main(["test", "--ckpt_path", "m.ckpt", "--data.path", "x.csv", "--data.target", "kind"]) == 0
    assert f"{model.score(X, names):.3f}"[:5] in capfd.readouterr().out
    assert main(["export", "--ckpt_path", "m.ckpt", "--output", "m.pt2"]) == 0
    program = torch.export.load("m.pt2").module()
    np.testing.assert_allclose(program(X.to_torch()).numpy(), model.predict_proba(X), atol=1e-5)
    again = BPClassifier.from_checkpoint("m.ckpt", max_iter=3, tol=0)
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert list(again.feature_names_in_) == list("abcd")
    assert again.get_params()["hidden_layer_sizes"] == (5, 4)
    again.set_params(warm_start=True).fit(X, names)  # training continues where it stopped
    assert again.loss_curve_[0] < model.loss_curve_[-1]


@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression"])
def test_without_columns_names_it_takes_arrays(kind):
    X, y = load_breast_cancer(return_X_y=True)
    y = y * 2 + 3
    if kind == "multilabel":
        y = np.stack([y > 4, X[:, 0] > 15], 1).astype(int)
    if kind == "regression":
        X, y = load_diabetes(return_X_y=True)
        y = 1e6 + y
    model = (BPRegressor if kind == "regression" else BPClassifier)(**SHORT, standardize=kind != "binary").fit(X, y)
    model.to_checkpoint("m.ckpt")
    np.save("x.npy", X)
    rows = predicted("--ckpt_path", "m.ckpt", "--data.path", "x.npy")
    if kind == "regression":
        np.testing.assert_allclose(rows["prediction"], model.predict(X), atol=1)
    else:
        p = model.predict_proba(X)
        np.testing.assert_allclose(rows.select("^p_.*$").to_numpy(), p, atol=1e-4)
    again = type(model).from_checkpoint("m.ckpt")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    if kind == "binary":
        assert again.classes_.tolist() == [3, 5]


@pytest.mark.parametrize("classes", [[False, True], [1, 7, 9], ["02", "10"]])
def test_classes_are_those_of_a_file_and_come_back(classes):
    X, y = load_iris(return_X_y=True)
    y = np.array(classes)[y % len(classes)]
    model = BPClassifier(**SHORT).fit(columns(X), y)
    model.to_checkpoint("m.ckpt")
    columns(X).with_columns(target=pl.Series(y)).write_csv("x.csv")
    assert main(["test", "--ckpt_path", "m.ckpt", "--data.path", "x.csv"]) == 0
    again = BPClassifier.from_checkpoint("m.ckpt").predict(columns(X))
    assert [str(value).lower() for value in again] == [str(value).lower() for value in model.predict(columns(X))]


def test_far_columns_and_targets_keep_their_digits():
    X, y = load_diabetes(return_X_y=True)
    X, y = 1e9 + X * 100, 1e9 + y
    names = [f"c{number}" for number in range(10)]
    model = BPRegressor(**SHORT).fit(pl.DataFrame(X, schema=names), y)
    model.to_checkpoint("m.ckpt")
    frame = pl.DataFrame(X, schema=names)
    frame.write_parquet("x.parquet")
    ours = model.predict(frame)
    assert ours.std() > 1
    np.testing.assert_allclose(
        predicted("--ckpt_path", "m.ckpt", "--data.path", "x.parquet")["prediction"], ours, atol=0.01, rtol=0
    )
    np.testing.assert_allclose(BPRegressor.from_checkpoint("m.ckpt").predict(frame), ours, atol=0.01, rtol=0)


def test_a_runs_checkpoint_is_an_estimator(capfd):
    draw = np.random.default_rng(0)
    city, x = draw.choice(list("uvw"), 80), draw.normal(size=80).round(4)
    pl.DataFrame({"city": city, "x": x, "good": np.where(x + (city == "u") > 0, "yes", "no")}).write_csv("t.csv")
    options = ["--data.path", "t.csv", "--data.target", "good", "--trainer.max_epochs", "3", "--model.threshold", "0.3"]
    assert main(["fit", *options]) == 0
    path = newest_checkpoint(None, "last")
    model = BPClassifier.from_checkpoint(path)
    assert list(model.feature_names_in_) == ["city=u", "city=v", "city=w", "x"]
    X = np.column_stack([city[:, None] == list("uvw"), x]).astype(np.float32)
    rows = predicted("--ckpt_path", path, "--data.path", "t.csv")
    p = model.predict_proba(pl.DataFrame(X, schema=list(model.feature_names_in_)))
    np.testing.assert_allclose(p[:, 1], rows["p_yes"], atol=1e-6)
    assert model.predict(pl.DataFrame(X, schema=list(model.feature_names_in_))).tolist() == rows["class"].to_list()
    assert ((p[:, 1] > 0.3) & (p[:, 1] < 0.5)).sum() > 0
    with pytest.raises(ValueError, match="the checkpoint is for binary; use BPClassifier"):
        BPRegressor.from_checkpoint(path)


def test_what_a_checkpoint_cannot_hold_is_said():
    from torchbp.activations import Activation

    own = Activation("own", "z", "1", value=lambda z, out=None: z, slope=torch.ones_like, reference=lambda z: z)
    model = BPClassifier((4,), own, max_iter=2, tol=0).fit(*load_iris(return_X_y=True))
    with pytest.raises(ValueError, match="a checkpoint names it, so give it as 'package"):
        model.to_checkpoint("m.ckpt")
    assert not Path("m.ckpt").exists()
    with pytest.raises(FileNotFoundError):
        BPClassifier.from_checkpoint("m.ckpt")


def test_a_checkpoint_for_sequences_is_no_estimator():
    x = np.random.default_rng(0).normal(size=(30, 4, 3))
    np.savez("s.npz", x=x, y=x[:, :, 0].mean(1) > 0)
    run = ["fit", "--data", "SequenceDataModule", "--data.path", "s.npz", "--model.hidden_sizes", "[3]"]
    assert main([*run, "--trainer.max_epochs", "1"]) == 0
    with pytest.raises(ValueError, match=r"the network in .*best.ckpt takes sequences, and an estimator rows"):
        BPClassifier.from_checkpoint(newest_checkpoint(None, "best"))
