"""What the estimators share: train networks from rows, and compute outputs."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from torchbp.fitting import Learner, Plan, fit_together, network_of
from torchbp.nn import BPNetwork
from torchbp.outputs import output_for, output_of
from torchbp.sklearn._board import Board
from torchbp.sklearn._checks import check_parameters, device_of, is_whole, weights_of
from torchbp.sklearn._learners import initial_state, learner_of, mean_curve, on_cpu
from torchbp.sklearn._rows import Rows, scaled, scaling_of

MAX_SEED = 2**31 - 1
CHUNK = 2**24  # numbers of a layer that a prediction holds at once
DTYPES = (np.float64, np.float32)


class BPEstimator(BaseEstimator, ABC):
    """Networks trained on the rows of a matrix; the subclasses say what y means."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (100,),
        activation: Any = "sigmoid",
        *,
        cost: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float | Literal["auto"] = "auto",
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        standardize: bool = True,
        clip: float | None = None,
        n_networks: int | None = None,
        bootstrap: bool = False,
        callbacks: Sequence[Callable[..., Any]] | None = None,
        device: str = "cpu",
        log_dir: str | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.cost = cost
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.standardize = standardize
        self.clip = clip
        self.n_networks = n_networks
        self.bootstrap = bootstrap
        self.callbacks = callbacks
        self.device = device
        self.log_dir = log_dir

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags

    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    # What the subclasses say.

    @abstractmethod
    def _task(self) -> str:
        """Of :mod:`torchbp.tasks`."""

    @abstractmethod
    def _encode(self, y: Any, first: bool, classes: Any = None) -> np.ndarray:
        """y as the network's targets, (N, nL)."""

    @abstractmethod
    def _score_of(self, a: Tensor, y: Tensor, weight: Tensor) -> float:
        """The score of predictions (V, nL), as :meth:`score` has it."""

    @abstractmethod
    def _take_task(self, task: str, classes: np.ndarray) -> None:
        """Be of a checkpoint's task, or refuse it."""

    def _class_weights(self, y: Any) -> np.ndarray | None:
        """What each row counts by its class."""
        return None

    def _strata(self, y: Any) -> Any:
        """What a split into rows to train on and rows to validate by keeps the shares of."""
        return None

    # Training.

    def _fit(self, X: Any, y: Any, sample_weight: Any, eval_set: Any) -> Any:
        check_parameters(self)
        again = self.warm_start and hasattr(self, "_states")
        X, y = self._checked(X, y, reset=not again)
        t = self._encode(y, first=not again)
        X, y, t, weight = self._weighted(X, y, t, sample_weight)
        rng = check_random_state(self.random_state)
        seeds = [int(rng.randint(MAX_SEED)) for _ in range(len(self._states) if again else self.n_networks or 1)]
        train, held_out = np.arange(X.shape[0]), None
        if eval_set is not None:
            X, t, weight, held_out = self._with_eval_set(X, t, weight, eval_set)
        elif self.early_stopping:
            train, held_out = self._split(y, rng)
        if again:
            self._continue()
        else:
            seen = train if self.early_stopping and eval_set is None else slice(len(train))  # which is no copy
            self._start(X[seen], t[seen], None if weight is None else weight[seen], seeds)
        learners = self._learners(len(train), train, held_out, seeds)
        self.validation_scores_ = self.best_validation_score_ = None
        self._train(learners, X, t, weight, self.max_iter, stops=True)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any) -> Any:
        check_parameters(self)
        if self.early_stopping:
            raise ValueError("early_stopping is True; partial_fit has no rows to validate by, take fit")
        if self.bootstrap:
            raise ValueError("bootstrap is True; partial_fit does not draw rows, take fit")
        first = not hasattr(self, "_states")
        X, y = self._checked(X, y, reset=first)
        t = self._encode(y, first=first, classes=classes)
        X, y, t, weight = self._weighted(X, y, t, sample_weight)
        if first:
            rng = check_random_state(self.random_state)
            seeds = [int(rng.randint(MAX_SEED)) for _ in range(self.n_networks or 1)]
            self._start(X, t, weight, seeds)
            self._partial = self._learners(X.shape[0], np.arange(X.shape[0]), None, seeds)
            self.validation_scores_ = self.best_validation_score_ = None
        elif not hasattr(self, "_partial"):
            seeds = [0] * len(self._states)
            self._partial = self._learners(X.shape[0], np.arange(X.shape[0]), None, seeds)
        rows = torch.arange(X.shape[0])
        for learner in self._partial:
            learner.rows = rows.to(self._device())
        self._train(self._partial, X, t, weight, 1, stops=False)
        return self

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        return [int(n) if is_whole(n, 1) else n for n in (sizes if np.iterable(sizes) else [sizes])]

    def _device(self) -> torch.device:
        return device_of(self.device)

    def _device_to_predict(self) -> torch.device:
        """The device to train on, or the CPU if this machine does not have that device."""
        try:
            return self._device()
        except ValueError:
            return torch.device("cpu")

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        return validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=self._task() == "regression",
            dtype=DTYPES,
            reset=reset,
        )

    def _weighted(self, X: Any, y: Any, t: np.ndarray, sample_weight: Any) -> tuple[Any, Any, np.ndarray, np.ndarray | None]:
        """Rows and their weights, None for all alike; a row of weight 0 is none."""
        weight = None if sample_weight is None else weights_of(sample_weight, X)
        own = self._class_weights(y)
        if own is not None:
            weight = own if weight is None else weight * own
        if weight is None:
            return X, y, t, None
        there = weight > 0
        if not there.any():
            raise ValueError("sample_weight is zero for every row; at least one must be above 0")
        return X[there], y[there], t[there], weight[there]

    def _split(self, y: Any, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.model_selection import train_test_split

        rows = np.arange(y.shape[0])
        return train_test_split(rows, test_size=self.validation_fraction, random_state=rng, stratify=self._strata(y))

    def _with_eval_set(self, X: Any, t: np.ndarray, weight: Any, eval_set: Any) -> tuple[Any, np.ndarray, Any, np.ndarray]:
        """All rows in one table, and the numbers of those to validate by."""
        if not isinstance(eval_set, tuple | list) or len(eval_set) != 2:
            raise ValueError(f"eval_set is {' '.join(repr(eval_set).split()):.80}; it must be a pair of rows and targets")
        X_val, y_val = self._checked(eval_set[0], eval_set[1], reset=False)
        if sp.issparse(X_val) and not sp.issparse(X):
            X_val = X_val.toarray()
        t_val = self._encode(y_val, first=False)
        held_out = X.shape[0] + np.arange(X_val.shape[0])
        if weight is not None:
            weight = np.concatenate([weight, np.full(len(t_val), weight.mean())])
        X_val = X_val.astype(X.dtype)
        joined = sp.vstack([X, X_val], format="csr") if sp.issparse(X) else np.concatenate([X, X_val])
        return joined, np.concatenate([t, t_val]), weight, held_out

    def _start(self, X: Any, t: np.ndarray, weight: np.ndarray | None, seeds: Sequence[int], states: Any = None) -> None:
        """Scaling and networks at the start: those of ``states`` where they are drawn already."""
        self._scaling = scaling_of(X, weight) if self.standardize else None
        entry = output_for(self._task(), self.cost)
        self._output, self._per_unit, self._threshold = (entry.name, entry.cost), False, 0.5
        self._target_scaling = scaling_of(t, weight) if self._task() == "regression" and entry.takes_any else None
        if self._target_scaling is None:
            entry.check_targets(torch.from_numpy(np.asarray(t)))
        self._sizes = (X.shape[1], *self._hidden(), t.shape[1])
        self._states = states or [initial_state(self._sizes, entry.name, self.activation, seed, X.dtype) for seed in seeds]
        self._lrs = [None if self.learning_rate_init == "auto" else float(self.learning_rate_init)] * len(seeds)
        self.__dict__.pop("_partial", None)

    def _continue(self) -> None:
        """Continue from the present networks: they keep their shape, but take another learning rate."""
        fitted = list(self._sizes[1:-1])
        if self._hidden() != fitted:
            raise ValueError(f"hidden_layer_sizes is {self._hidden()}; with warm_start it must be as before, {fitted}")
        if self.learning_rate_init != "auto":
            self._lrs = [float(self.learning_rate_init)] * len(self._states)
        self.__dict__.pop("_partial", None)

    def _learners(self, rows: int, train: np.ndarray, held_out: np.ndarray | None, seeds: Sequence[int]) -> list[Learner]:
        device = self._device()
        numbers = torch.from_numpy(train).to(device), None if held_out is None else torch.from_numpy(held_out).to(device)
        sample = rows if self.bootstrap and len(seeds) > 1 else None
        networks = zip(self._states, self._lrs, seeds, strict=True)
        return [learner_of(*one, *numbers, self.shuffle, sample) for one in networks]

    def _train(self, learners: list[Learner], X: Any, t: Any, weight: Any, epochs: int, stops: bool) -> None:
        if self._target_scaling is not None:
            t = scaled(np.asarray(t, np.float64), self._target_scaling)
        batch = self._batch_of(len(learners[0].rows))
        if weight is not None:
            weight = weight / weight[learners[0].rows.cpu().numpy()].mean()
        table = Rows(X, t, weight, self._scaling, self._device(), self.clip)
        validates = learners[0].held_out is not None
        plan = self._plan(
            batch,
            epochs,
            tol=self.tol if stops else 0.0,
            patience=self.n_iter_no_change if stops else None,
            score=self._score_of if validates else None,
            decide=self.early_stopping,
        )
        board = Board(self.log_dir, len(learners)) if self.log_dir is not None else None

        def on_epoch(number: int, trained: Sequence[Learner]) -> bool:
            if self.verbose:
                score = f", validation score {np.mean([s.scores[-1] for s in trained if s.scores]):.6g}" if validates else ""
                print(f"epoch {number}: loss {np.mean([s.costs[-1] for s in trained]):.6g}{score}")
            if board is not None:
                board.write(number, trained)
            results = [callback(self, number, [s.costs[-1] for s in trained]) for callback in self.callbacks or ()]
            return any(results)

        try:
            watched = self.verbose or board is not None or self.callbacks
            fit_together(learners, table, plan, on_epoch if watched else None)
        finally:
            if board is not None:
                board.close()
        self._take(learners, epochs, stops)

    def _batch_of(self, rows: int) -> int:
        return min(200 if self.batch_size == "auto" else self.batch_size, rows)

    def _take(self, learners: list[Learner], epochs: int, stops: bool) -> None:
        """What the networks have learned, as attributes."""
        diverged = [k for k, learner in enumerate(learners) if learner.diverged]
        if diverged:
            first = learners[diverged[0]]
            epoch = len(first.costs)
            say = f"the cost is {first.costs[-1]} in epoch {epoch}; give a smaller learning_rate_init than {first.lr:g}"
            if first.lr is None or not isfinite(first.lr):
                say = "the cost has no curvature at the start, or is not finite; give learning_rate_init a number"
            if len(diverged) == len(learners):
                self.__dict__.pop("_partial", None)  # the next call continues from the networks before this one
                raise FloatingPointError(say)
            warnings.warn(f"{len(diverged)} of {len(learners)} networks diverged, left out: {say}", ConvergenceWarning, 4)
        kept = [learner for learner in learners if not learner.diverged]
        self._states = [{name: value.detach().cpu() for name, value in learner.state.items()} for learner in kept]
        self._lrs = [learner.lr for learner in kept]
        if hasattr(self, "_partial"):
            self._partial = kept
        length = max(len(learner.costs) for learner in kept)
        self.loss_curve_ = mean_curve([learner.costs for learner in kept])
        if kept[0].held_out is not None:
            self.validation_scores_ = mean_curve([learner.scores for learner in kept])
            self.best_validation_score_ = max(self.validation_scores_)
        self.loss_ = self.loss_curve_[-1]
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_)
        self.n_iter_ = length
        self.n_layers_, self.n_outputs_ = len(self._sizes), self._sizes[-1]
        self.learning_rate_ = self._lrs[0] if len(kept) == 1 else np.array(self._lrs)
        if stops and any(len(s.costs) == epochs and s.waited <= self.n_iter_no_change for s in kept) and self.tol > 0:
            warnings.warn(
                f"the networks were still learning after max_iter={epochs} epochs; more epochs may do better",
                ConvergenceWarning,
                4,
            )

    # What is known of trained networks.

    @property
    def networks_(self) -> BPNetwork:
        """The network, or K of them side by side, on the CPU."""
        check_is_fitted(self, "_states")
        return network_of(self._plan(1, 1), self._states)

    def _plan(self, batch_size: int, epochs: int, **arguments: Any) -> Plan:
        output, cost = self._output
        return Plan(self._sizes, output, self.activation, cost, batch_size, epochs, self._per_unit, self.clip, **arguments)

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Each layer's weights, (n_in, n_out); of K networks (K, n_in, n_out). They are of standardised columns."""
        return [np.swapaxes(value, -1, -2) for value in self._stacked("weight")]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Each layer's biases, (n_out); of K networks (K, n_out)."""
        return self._stacked("bias")

    def _stacked(self, kind: str) -> list[np.ndarray]:
        if "_states" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        names = [f"layers.{layer}.{kind}" for layer in range(len(self._sizes) - 1)]
        stacks = [[state[name].numpy() for state in self._states] for name in names]
        return [stack[0] if len(stack) == 1 else np.stack(stack) for stack in stacks]

    def to_checkpoint(self, path: str | Path, target: str | Sequence[str] = "target") -> None:
        """Write a checkpoint that ``torchbp predict``, ``test`` and ``export`` take with ``--ckpt_path``.

        Fitted on a frame, it takes tables with the frame's columns; else arrays, ``.npy`` and ``.npz``. It imports Lightning.

        Args:
            path: the file.
            target: what the target's column is called in tables, or the columns of several targets.

        Raises:
            ValueError: what a checkpoint cannot hold.
            OSError: the file cannot be written.
        """
        check_is_fitted(self)
        from torchbp.sklearn import _checkpoint

        _checkpoint.write(self, path, target)

    @classmethod
    def from_checkpoint(cls, path: str | Path, **parameters: Any) -> Any:
        """The estimator of a checkpoint's network, such as ``torchbp fit`` has written; it imports Lightning.

        X is what the network takes: of a table the columns as they are encoded, :attr:`feature_names_in_`. The checkpoint is
        read as tensors and plain values: nothing is imported, made or opened because it says so.

        Args:
            path: the file.
            parameters: of the estimator, where they are not the checkpoint's.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no checkpoint, or one of another task.
        """
        from torchbp.sklearn import _checkpoint

        return _checkpoint.read(cls(**parameters), path)

    def __sklearn_is_fitted__(self) -> bool:
        return "_states" in self.__dict__

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_partial" in state:  # wherever it was trained, it may be loaded on a CPU
            state["_partial"] = [on_cpu(learner) for learner in state["_partial"]]
        return state

    @torch.no_grad()
    def _logits(self, X: Any) -> Tensor:
        """The weighted inputs of the last layer, (K, N, nL)."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        return self._weighted_inputs(X, self._states)

    def _weighted_inputs(self, X: Any, states: Sequence[dict[str, Tensor]]) -> Tensor:
        """The same of networks of these states, whose rows are scaled alike."""
        dtype, device, many = next(iter(states[0].values())).dtype, self._device_to_predict(), len(states) > 1
        network = network_of(self._plan(1, 1), states).to(device)
        step = max(1, CHUNK // (len(states) * max(self._sizes)))
        parts = []
        for begin in range(0, X.shape[0], step):
            part = X[begin : begin + step]
            part = scaled(part.toarray() if sp.issparse(part) else part, self._scaling, self.clip)
            x = torch.from_numpy(part).to(device, dtype)
            parts.append(network.logits(x.expand(len(states), *x.shape) if many else x).cpu())
        z = torch.cat(parts, -2)
        return z if many else z.unsqueeze(0)

    def _outputs(self, X: Any, states: Sequence[dict[str, Tensor]]) -> Tensor:
        """The activations of the last layer of networks of these states, (K, N, nL)."""
        return output_of(self._output[1], self._output[0]).activation(self._weighted_inputs(X, states))
