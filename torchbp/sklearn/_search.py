"""Searches parameters by cross-validation, with the networks of all folds of several candidates side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from numbers import Real
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from torchbp.fitting import SHAPES, group_size
from torchbp.sklearn._base import MAX_SEED
from torchbp.sklearn._checks import check_parameters, is_whole
from torchbp.sklearn._cross_validation import encoded, fit_folds, own_scores, scores_of

OWN = ("learning_rate_init", "random_state")  # networks side by side may differ in these
Candidate = tuple[dict[str, Any], dict[str, np.ndarray], float]  # parameters, scores of the splits, seconds
SPACE: dict[str, Any] = {
    "hidden_layer_sizes": [(16,), (32,), (64,), (128,), (32, 32)],
    "activation": ["sigmoid", "tanh", "relu"],
    "batch_size": [16, 32, 64, 128],
    "learning_rate_init": (0.01, 3.0),
}


def _of_best(name: str) -> Callable[[Any], bool]:
    def has(search: Any) -> bool:
        getattr(search.best_estimator_ if hasattr(search, "best_estimator_") else search.estimator, name)
        return True

    return has


class BPSearchCV(MetaEstimatorMixin, BaseEstimator):
    """Search an estimator's parameters with Optuna; cross-validation scores each candidate.

    Candidates that differ only in learning rate or seed are trained side by side, with all their folds.

    Args:
        estimator: a :class:`BPClassifier` or a :class:`BPRegressor`.
        param_distributions: for each parameter a list of choices, a tuple with the two ends of a range that is searched on a
            logarithmic scale, or an Optuna distribution; None for hidden layers, activation, batch size and learning rate.
        n_trials: the number of candidates.
        side_by_side: the maximum number of candidates of one shape that are trained side by side; of S shapes at most 1/S of
            all, rounded up, and an eighth from 8 shapes on.
        cv: a scikit-learn splitter, or the number of folds; None for 5.
        scoring: one metric, as for :func:`sklearn.model_selection.cross_validate`; None for the estimator's ``score``.
        refit: whether to fit the best candidate on all rows at the end.
        error_score: the score in a fold where there is none, as its network diverged; ``raise`` ends the search with a
            FloatingPointError.
        return_train_score: whether ``cv_results_`` has the scores on the training rows too.
        random_state: the seed of the proposals.
        storage, study_name: those of Optuna's study, which several machines may share; in memory by default.

    Attributes:
        best_params_, best_score_, best_index_, best_estimator_, cv_results_, n_splits_, scorer_, refit_time_: as for
            GridSearchCV.
        study_: the Optuna study.
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Mapping[str, Any] | None = None,
        *,
        n_trials: int = 64,
        side_by_side: int = 8,
        cv: Any = None,
        scoring: Any = None,
        refit: bool = True,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        random_state: Any = None,
        storage: Any = None,
        study_name: str | None = None,
    ) -> None:
        self.estimator = estimator
        self.param_distributions = param_distributions
        self.n_trials = n_trials
        self.side_by_side = side_by_side
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.error_score = error_score
        self.return_train_score = return_train_score
        self.random_state = random_state
        self.storage = storage
        self.study_name = study_name

    def fit(self, X: Any, y: Any, groups: Any = None) -> "BPSearchCV":
        """Search on rows X (N, n0) and their targets y.

        Args:
            groups: (N), for a splitter that keeps groups together.

        Raises:
            ModuleNotFoundError: Optuna is not installed.
            FloatingPointError: a network diverged, and ``error_score`` is ``raise``.
            ValueError: parameters or rows do not allow training, all candidates diverged, or the study proposes a value out
                of range.
        """
        try:
            import optuna
        except ModuleNotFoundError:
            raise ModuleNotFoundError("to search, install optuna: pip install 'torchbp[search]'") from None
        for name in ("n_trials", "side_by_side"):
            if not is_whole(getattr(self, name), 1):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a whole number of 1 or more")
        if not isinstance(self.error_score, Real) and self.error_score != "raise":
            raise ValueError(f"error_score is {self.error_score!r}; it must be 'raise' or a number")
        base = clone(self.estimator)
        whole = clone(base)
        rows, targets, t = encoded(whole, X, y)
        parameters = whole.get_params()
        known = {name: value for name, value in whole.__dict__.items() if name not in parameters}
        classes = base._task() != "regression"
        splits = list(check_cv(self.cv, targets, classifier=classes).split(rows, targets, groups))
        self.n_splits_, self.scorer_ = len(splits), check_scoring(base, self.scoring)
        spaces = {name: _Space(name, space) for name, space in (self.param_distributions or SPACE).items()}
        seed = int(check_random_state(self.random_state).randint(MAX_SEED))
        quiet = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(max(quiet, optuna.logging.WARNING))
        try:
            self.study_ = optuna.create_study(
                direction="maximize", storage=self.storage, study_name=self.study_name, load_if_exists=True
            )
            self.study_.sampler = optuna.samplers.TPESampler(seed=(seed + len(self.study_.trials)) % MAX_SEED)
            done: list[Candidate] = []
            size = group_size(self.side_by_side, self.n_trials, prod(s.count for n, s in spaces.items() if n not in OWN))
            while len(done) < self.n_trials:
                most = min(size, self.n_trials - len(done))
                done += self._side_by_side(base, known, rows, targets, t, splits, spaces, most)
        finally:
            optuna.logging.set_verbosity(quiet)
        self._keep(done)
        if self.refit:
            begun = perf_counter()
            self.best_estimator_ = clone(base).set_params(**self.best_params_).fit(X, y)
            self.refit_time_ = perf_counter() - begun
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        return self

    def _side_by_side(
        self,
        base: Any,
        known: dict[str, Any],
        X: Any,
        y: Any,
        t: np.ndarray,
        splits: list[Any],
        spaces: dict[str, "_Space"],
        most: int,
    ) -> list[Candidate]:
        """Candidates of one shape: their parameters, the scores of their splits, and the seconds that each took.

        ``known`` is the estimator's attributes that come from X and y.
        """
        from optuna.trial import TrialState

        trials: list[Any] = []
        with _failing(self.study_, trials):
            asked = self._asked(spaces, trials, most)
            begun = perf_counter()
            wholes = [clone(base).set_params(**params) for params in asked]
            for whole in wholes:
                check_parameters(whole)
                whole.__dict__.update(known)
            fitted = fit_folds(wholes, X, t, splits, raises=self.error_score == "raise")
            scored = self._scored(fitted, X, y, t, splits)
            took = (perf_counter() - begun) / len(trials)
            results = []
            for trial, params, scores in zip(trials, asked, scored, strict=True):
                mean = float(scores["test"].mean())
                finite = np.isfinite(mean)
                self.study_.tell(trial, mean if finite else None, state=None if finite else TrialState.FAIL)
                results.append((params, scores, took))
        return results

    def _scored(self, fitted: Any, X: Any, y: Any, t: np.ndarray, splits: list[Any]) -> list[dict[str, np.ndarray]]:
        """The scores of each candidate's splits, by ``test`` and, if they are wanted, ``train``; NaN if it diverged."""
        rows = {"test": splits, **({"train": [(test, train) for train, test in splits]} if self.return_train_score else {})}
        scored: list[dict[str, np.ndarray]] = [{} for _ in fitted]
        for kind, parts in rows.items():
            own = own_scores(fitted, X, t, parts) if self.scoring is None else None
            for number, models in enumerate(fitted):
                scored[number][kind] = own[number] if own else scores_of(models, X, y, parts, self.scorer_)
        return scored

    def _asked(self, spaces: dict[str, "_Space"], trials: list[Any], most: int) -> list[dict[str, Any]]:
        """The parameters of candidates of one shape; their trials are added to ``trials``."""
        from optuna.trial import TrialState

        trials.append(self.study_.ask())
        asked = [{name: space.suggest(trials[0]) for name, space in spaces.items()}]
        shared = {name: value for name, value in trials[0].params.items() if name not in OWN}
        while len(trials) < most and any(name in spaces for name in OWN):
            self.study_.enqueue_trial(shared)
            trials.append(self.study_.ask())
            params = {name: space.suggest(trials[-1]) for name, space in spaces.items()}
            if any(trials[-1].params[name] != value for name, value in shared.items()):  # queued by another process
                self.study_.tell(trials.pop(), state=TrialState.FAIL)
            else:
                asked.append(params)
        return asked

    def _keep(self, done: list[Candidate]) -> None:
        """Attributes as GridSearchCV's."""
        scores = {kind: np.array([of_splits[kind] for _, of_splits, _ in done]) for kind in done[0][1]}
        reached = np.isfinite(scores["test"])
        if self.error_score != "raise":
            scores = {kind: np.where(np.isnan(of_kind), self.error_score, of_kind) for kind, of_kind in scores.items()}
        mean = scores["test"].mean(1)
        if not reached.any() or not np.isfinite(mean).any():
            raise ValueError(f"every one of {len(done)} candidates diverged in a fold; give lower learning rates")
        order = np.where(np.isfinite(mean), -mean, np.inf)
        self.cv_results_: dict[str, Any] = {
            "mean_fit_time": np.array([took for *_, took in done]),
            **{f"param_{name}": np.array([params[name] for params, *_ in done], dtype=object) for name in done[0][0]},
            "params": [params for params, *_ in done],
            "rank_test_score": np.searchsorted(np.sort(order), order).astype(np.int32) + 1,
        }
        for kind, of_kind in scores.items():
            self.cv_results_ |= {f"split{number}_{kind}_score": column for number, column in enumerate(of_kind.T)}
            self.cv_results_ |= {f"mean_{kind}_score": of_kind.mean(1), f"std_{kind}_score": of_kind.std(1)}
        self.best_index_ = int(order.argmin())
        self.best_params_, self.best_score_ = done[self.best_index_][0], float(mean[self.best_index_])

    def _best(self) -> Any:
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_

    @property
    def classes_(self) -> np.ndarray:
        """Of the best estimator."""
        return self._best().classes_

    @property
    def n_features_in_(self) -> int:
        """Of the best estimator."""
        return self._best().n_features_in_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        own = self.estimator.__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags, tags.regressor_tags = (
            own.estimator_type,
            own.classifier_tags,
            own.regressor_tags,
        )
        tags.input_tags, tags.target_tags = own.input_tags, own.target_tags
        return tags

    def predict(self, X: Any) -> np.ndarray:
        """The best estimator's."""
        return self._best().predict(X)

    @available_if(_of_best("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """The best estimator's."""
        return self._best().predict_proba(X)

    @available_if(_of_best("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The best estimator's."""
        return self._best().predict_log_proba(X)

    @available_if(_of_best("decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """The best estimator's."""
        return self._best().decision_function(X)

    def score(self, X: Any, y: Any) -> float:
        """The best estimator's, by ``scoring``."""
        return self.scorer_(self._best(), X, y)


@contextmanager
def _failing(study: Any, trials: Sequence[Any]) -> Iterator[None]:
    """Mark trials as failed if an error or an interrupt ends the block."""
    from optuna.trial import TrialState

    try:
        yield
    except BaseException:
        for trial in trials:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


class _Space:
    """The values of one parameter."""

    def __init__(self, name: str, space: Any) -> None:
        from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

        self.name, self.values = name, None
        if isinstance(space, BaseDistribution):
            self.distribution: Any = space
        elif isinstance(space, tuple) and len(space) == 2 and all(isinstance(end, int | float) for end in space):
            if not 0 < space[0] <= space[1] < np.inf:
                raise ValueError(f"{name} is {space}; a range (low, high) must be finite, above 0, and have low first")
            self.distribution = FloatDistribution(float(space[0]), float(space[1]), log=True)
        elif isinstance(space, list) and space:
            self.values = {str(value): value for value in space}  # Optuna stores texts
            self.distribution = CategoricalDistribution(list(self.values))
        else:
            raise ValueError(
                f"{name} is {space!r}; it must be a list of choices, a range (low, high), or an Optuna distribution"
            )

    @property
    def count(self) -> int:
        """The number of choices; for a range, more than any search has groups."""
        choices = getattr(self.distribution, "choices", None)
        return SHAPES if choices is None else len(choices)

    def suggest(self, trial: Any) -> Any:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            chosen = trial.suggest_categorical(self.name, of.choices)
            return chosen if self.values is None else self.values[chosen]
        suggest = trial.suggest_int if isinstance(of, IntDistribution) else trial.suggest_float
        value = suggest(self.name, of.low, of.high, step=of.step, log=of.log)
        if not of.low <= value <= of.high:  # Optuna accepts such a value from a storage
            raise ValueError(f"the study proposes {self.name} {value!r}; it must be from {of.low} to {of.high}")
        return value
