"""Compares torchbp on real tables, given path and target alone, with scikit-learn; prints the table of docs/tables.md.

    python tests/measure_tables.py              # all tables, about an hour on one core
    python tests/measure_tables.py Auto wine    # these alone; the printed rows can be added to the table
    python tests/measure_tables.py --ensemble   # one network beside an ensemble of 8, for docs/many_networks.md

It needs ``pip install '.[tables]'``. Scores are accuracy or R² on the test rows, mean of three seeds. Every model learns from
the same training rows; torchbp also uses the validation rows, to stop. No run is kept.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from real_tables import TABLES
from rich.progress import track
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchbp.cli import main
from torchbp.data import TabularDataModule
from torchbp.training import BPModule

SEEDS = (0, 1, 2)
NAMES = ("torchbp", "MLP", "linear", "boosting", "majority or mean")
ENSEMBLE = ("one network", "ensemble of 8")


def peers(regression: bool, seed: int) -> list:
    """scikit-learn's models with their defaults; all except boosting get scaled x and y."""
    if regression:
        network = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
        return [network, Ridge(), HistGradientBoostingRegressor(random_state=seed)]
    return [
        MLPClassifier(random_state=seed),
        LogisticRegression(max_iter=1000),
        HistGradientBoostingClassifier(random_state=seed),
    ]


def score(prediction: np.ndarray, y: np.ndarray, regression: bool) -> float:
    return float(1 - ((prediction - y) ** 2).sum() / ((y - y.mean()) ** 2).sum() if regression else (prediction == y).mean())


def ours(name: str, seed: int, *options: str) -> tuple[TabularDataModule, np.ndarray]:
    """A table's data, and the predictions of its test rows by a network that the options train."""
    target, read = TABLES[name]
    read().write_csv("table.csv")
    seeded = ["--seed_everything", str(seed), "--data.seed", str(seed)]
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--model.engine", "fused"]
    with contextlib.redirect_stdout(io.StringIO()):
        if main(["fit", "--data.path", "table.csv", "--data.target", target, *seeded, *quiet, *options]):
            raise SystemExit(f"{name}, seed {seed}: torchbp failed")
    data = TabularDataModule("table.csv", target, seed=seed)
    best = BPModule.load_from_checkpoint("checkpoints/version_0/best.ckpt")
    predicted = best(data.split_rows("test").all()[0]).detach().numpy()
    shutil.rmtree("checkpoints")
    return data, predicted


def label(values: np.ndarray, regression: bool) -> np.ndarray:
    if regression:
        return values[:, 0].astype(float)
    return values.argmax(1) if values.shape[1] > 1 else (values[:, 0] > 0.5).astype(int)


def measured(name: str, seed: int) -> list[float]:
    """The scores of one table, in the order of NAMES."""
    data, predicted = ours(name, seed)
    (x, y), (x_test, y_test) = (data.split_rows(part).all() for part in ("train", "test"))
    regression = data.task == "regression"
    train, test = label(y.numpy(), regression), label(y_test.numpy(), regression)
    scores = [score(label(predicted, regression), test, regression)]
    for model in peers(regression, seed):
        fitted = make_pipeline(StandardScaler(), model).fit(x.numpy(), train)
        scores.append(score(fitted.predict(x_test.numpy()), test, regression))
    constant = train.mean() if regression else np.bincount(train).argmax()
    return [*scores, score(np.full_like(test, constant), test, regression)]


def measured_ensemble(name: str, seed: int) -> list[float]:
    """The scores of one table, in the order of ENSEMBLE."""
    scores = []
    for options in ([], ["--model.networks", "8"]):
        data, predicted = ours(name, seed, *options)
        regression = data.task == "regression"
        y = label(data.split_rows("test").all()[1].numpy(), regression)
        scores.append(score(label(predicted, regression), y, regression))
    return scores


def report(names: list[str], columns: tuple[str, ...], measure: Callable[[str, int], list[float]]) -> np.ndarray:
    """Print a line for each table, and one for their mean; returns the scores, (tables, columns)."""
    if unknown := [name for name in names if name not in TABLES]:
        raise SystemExit(f"no table {unknown[0]!r}; there are {', '.join(TABLES)}")
    warnings.simplefilter("ignore")
    home, rows = Path.cwd(), []
    print(f"| table | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name in track(names or [*TABLES], disable=not sys.stderr.isatty()):
                rows.append(np.mean([measure(name, seed) for seed in SEEDS], 0))
                print(f"| {name} | {' | '.join(f'{value:.3f}' for value in rows[-1])} |", flush=True)
        finally:
            os.chdir(home)
    print(f"| mean | {' | '.join(f'{value:.3f}' for value in np.mean(rows, 0))} |")
    return np.array(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ensemble"]:
        one, several = report(sys.argv[2:], ENSEMBLE, measured_ensemble).T
        print(f"\nOf {len(one)} tables the ensemble is better on {(several > one).sum()}, worse on {(several < one).sum()}.")
    else:
        own, mlp, linear, _, constant = report(sys.argv[1:], NAMES, measured).T
        below = (own < mlp - 0.005).sum(), (own < np.maximum(linear, constant) - 0.01).sum()
        print(f"\nOf {len(own)} tables {below[0]} are below MLP - 0.005, {below[1]} below max(linear, constant) - 0.01.")
