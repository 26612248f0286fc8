"""Compares the estimators with scikit-learn's, and networks trained side by side with networks trained one by one."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torchbp.benchmark._rows import Progress, Row, compare, interleaved

OURS, TOGETHER = "BPClassifier", "side by side"
MLP, ALONE = "MLPClassifier", "one by one"
FITS: list[tuple[str, int, int]] = [("breast_cancer", 32, 50), ("digits", 64, 30)]  # data, B, epochs
SEVERAL = 32
FOLDS = 10
TRIALS = 64


def network_times(quick: bool, rounds: int, progress: Progress) -> list[Row]:
    """Seconds of fit, ensembles, cross-validation and search in float64; ours and the peers do the same iterations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = []
        for name, batch_size, epochs in FITS:
            X, y = _data(name, quick)
            setting = f"{name}, B {batch_size}, {epochs if not quick else 2} epochs"
            epochs = 2 if quick else epochs
            runs: dict[str, Callable[[], Any]] = {
                OURS: partial(_fit, _ours, batch_size, epochs, X, y),
                MLP: partial(_fit, _peer, batch_size, epochs, X, y),
            }
            rows.append(_compared("fit", setting, OURS, MLP, runs, rounds, progress))
        X, y = _data("breast_cancer", quick)
        epochs = 2 if quick else 30
        rows.append(_ensemble(X, y, 2 if quick else SEVERAL, epochs, rounds, progress))
        rows += _cross_validation(X, y, 2 if quick else FOLDS, epochs, rounds, progress)
        rows.append(_search(X, y, 2 if quick else TRIALS, min(epochs, 10), rounds, progress))
    return rows


def _data(name: str, quick: bool) -> tuple[Any, Any]:
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X = (X - X.mean(0)) / (X.std(0) + 1e-9)
    return (X[:60], y[:60]) if quick else (X, y)


def _ours(batch_size: int, epochs: int, **arguments: Any) -> Any:
    from torchbp.sklearn import BPClassifier

    given = {"learning_rate_init": 0.1, "standardize": False, "tol": 0.0, "random_state": 0, **arguments}
    return BPClassifier((16,), batch_size=batch_size, max_iter=epochs, **given)


def _peer(batch_size: int, epochs: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        (16,),
        activation="logistic",
        solver="sgd",
        alpha=0,
        momentum=0,
        batch_size=batch_size,
        learning_rate_init=0.1,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=epochs + 1,
        random_state=0,
    )


def _fit(kind: Callable[[int, int], Any], batch_size: int, epochs: int, X: Any, y: Any) -> None:
    kind(batch_size, epochs).fit(X, y)


def _compared(
    measure: str, setting: str, ours: str, peer: str, runs: dict[str, Callable[[], Any]], rounds: int, progress: Progress
) -> Row:
    progress(f"{measure}: {setting}")
    return compare(measure, setting, ours, peer, "s", _times(runs, rounds, progress), {})


def _times(runs: dict[str, Callable[[], Any]], rounds: int, progress: Progress) -> dict[str, list[float]]:
    """Seconds of whole runs, without the first of each, which imports and warms up."""
    times = interleaved(runs, rounds + 1, None, progress=progress)
    return {name: values[1:] for name, values in times.items()}


def _ensemble(X: Any, y: Any, count: int, epochs: int, rounds: int, progress: Progress) -> Row:
    def one_by_one() -> None:
        for seed in range(count):
            _ours(32, epochs, random_state=seed).fit(X, y)

    runs: dict[str, Callable[[], Any]] = {
        TOGETHER: lambda: _ours(32, epochs, n_networks=count).fit(X, y),
        ALONE: one_by_one,
    }
    setting = f"{count} networks, breast_cancer, B 32, {epochs} epochs"
    return _compared("ensemble", setting, TOGETHER, ALONE, runs, rounds, progress)


def _cross_validation(X: Any, y: Any, folds: int, epochs: int, rounds: int, progress: Progress) -> list[Row]:
    from sklearn.model_selection import cross_val_score

    from torchbp.sklearn import cross_validate

    runs: dict[str, Callable[[], Any]] = {
        TOGETHER: lambda: cross_validate(_ours(32, epochs), X, y, cv=folds),
        "cross_val_score of ours": lambda: cross_val_score(_ours(32, epochs), X, y, cv=folds),
        "cross_val_score of MLPClassifier": lambda: cross_val_score(_peer(32, epochs), X, y, cv=folds),
    }
    setting = f"{folds} folds, breast_cancer, B 32, {epochs} epochs"
    progress(f"cross-validation: {setting}")
    times = _times(runs, rounds, progress)
    return [compare("cross-validation", setting, TOGETHER, peer, "s", times, {}) for peer in list(runs)[1:]]


def _search(X: Any, y: Any, trials: int, epochs: int, rounds: int, progress: Progress) -> Row:
    setting = f"{trials} learning rates, 3 folds, breast_cancer, B 32, {epochs} epochs"
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        return Row("search", setting, TOGETHER, ALONE, "s", gap="optuna is not installed: pip install 'torchbp[search]'")
    from torchbp.sklearn import BPSearchCV

    def search(side_by_side: int) -> None:
        space = {"learning_rate_init": (0.01, 1.0)}
        arguments = {"n_trials": trials, "side_by_side": side_by_side, "cv": 3, "random_state": 0, "refit": False}
        BPSearchCV(_ours(32, epochs), space, **arguments).fit(X, y)  # type: ignore[arg-type]

    runs: dict[str, Callable[[], Any]] = {TOGETHER: lambda: search(min(16, trials)), ALONE: lambda: search(1)}
    return _compared("search", setting, TOGETHER, ALONE, runs, rounds, progress)
