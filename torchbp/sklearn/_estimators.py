"""BPClassifier and BPRegressor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from torchbp.outputs import output_of
from torchbp.sklearn._base import BPEstimator
from torchbp.sklearn._checks import check_class_weight

PARAMETERS = """
    Args:
        hidden_layer_sizes: the widths of the hidden layers.
        activation: the activation of the hidden layers, as for :class:`torchbp.nn.BPNetwork`.
        cost: a cost for the task's outputs; None for the first that fits.
        batch_size: the number of rows per step; ``auto`` is 200, or all rows if there are fewer.
        learning_rate_init: α; ``auto`` takes 1/λ from :func:`torchbp.curvature.lr_from_curvature`.
        max_iter: the maximum number of epochs.
        shuffle: whether each epoch has a new order of the rows.
        random_state: the seed of initial weights, orders and splits, or a generator.
        tol, n_iter_no_change: training ends after more than ``n_iter_no_change`` epochs in which loss or score has not improved
            by ``tol``.
        verbose: whether to print each epoch.
        warm_start: whether ``fit`` continues from the present networks, with ``learning_rate_init`` if it is a number.
        early_stopping: whether the score of held-out rows ends training, and chooses the epoch whose parameters are kept.
        validation_fraction: the share of rows held out for that, if ``fit`` gets no ``eval_set``.
        standardize: whether the model standardises columns by the mean and deviation of the rows in ``fit``.
        clip: clips standardised values to this many standard deviations from the mean; None for no limit.
        n_networks: the number of networks with different seeds that are trained side by side; the prediction is their mean.
            None for one network.
        bootstrap: whether each of these is trained on rows drawn with replacement.
        callbacks: functions called after each epoch, ``callback(estimator, epoch, losses)``; a true result ends training.
        device: ``cpu``, ``cuda`` or ``auto``.
        log_dir: the folder for TensorBoard's files; None to write none.
"""


class BPClassifier(ClassifierMixin, BPEstimator):
    __doc__ = f"""A classifier: networks of sigmoid layers trained by plain gradient descent (equation 3.2g).

    Two classes have one sigmoid output, more have softmax outputs; labels, y (N, C) of 0 and 1, have a sigmoid each.
    {PARAMETERS}
        class_weight: the factor of the cost of each class's rows: a dict by class, or ``balanced``.

    Attributes:
        classes_, coefs_, intercepts_, loss_curve_, validation_scores_, n_iter_: as for MLPClassifier.
        learning_rate_: α, given or found; one for each if there are several networks.
    """

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
        class_weight: Any = None,
        callbacks: Sequence[Callable[..., Any]] | None = None,
        device: str = "cpu",
        log_dir: str | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            cost=cost,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            standardize=standardize,
            clip=clip,
            n_networks=n_networks,
            bootstrap=bootstrap,
            callbacks=callbacks,
            device=device,
            log_dir=log_dir,
        )
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, eval_set: Any = None) -> "BPClassifier":
        """Train on rows X (N, n0) with classes y (N), or labels (N, C) of 0 and 1.

        Args:
            sample_weight: (N), the factor of each row's cost.
            eval_set: ``(X, y)`` to score each epoch.

        Raises:
            ValueError: rows, classes or parameters do not allow training.
            FloatingPointError: the cost of every network is no longer finite.
        """
        return self._fit(X, y, sample_weight, eval_set)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "BPClassifier":
        """Train one epoch on these rows.

        Args:
            classes: all classes; needed in the first call if y does not have all of them.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(f"class_weight is {self.class_weight!r}; partial_fit does not know all rows, give a dict")
        return self._partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, (N), or its labels, (N, C)."""
        z = self._decision(X)
        if self._multilabel:
            return (z > 0).astype(int)
        if z.ndim == 2:
            return self.classes_[z.argmax(1)]
        return self.classes_[(z > np.log(self._threshold / (1 - self._threshold))).astype(int)]

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Each class's probability, (N, C), the mean over the networks.

        Args:
            return_std: return its standard deviation over the networks too, (N, C).
        """
        z = self._logits(X)
        a = output_of(self._output[1], self._output[0]).activation(z)
        if self._kind == "binary":
            a = torch.cat([1 - a, a], -1)
        mean, spread = a.mean(0).numpy(), a.std(0, correction=0).numpy()
        return (mean, spread) if return_std else mean

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of :meth:`predict_proba`."""
        return np.log(self.predict_proba(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """For two classes the log odds of the second, (N), else each class's logit, (N, C); of the mean of several networks."""
        return self._decision(X)

    def _decision(self, X: Any) -> np.ndarray:
        z = self._logits(X)
        z = z[0] if len(z) == 1 else output_of(self._output[1], self._output[0]).pooled(z)
        return z.numpy().ravel() if self._kind == "binary" else z.numpy()

    @property
    def _multilabel(self) -> bool:
        return self._kind == "multilabel"

    def _task(self) -> str:
        return getattr(self, "_kind", "binary")

    def _take_task(self, task: str, classes: np.ndarray) -> None:
        if task == "regression":
            raise ValueError("the checkpoint is for regression; use BPRegressor.from_checkpoint")
        self._kind, self.classes_ = task, classes

    def _encode(self, y: Any, first: bool, classes: Any = None) -> np.ndarray:
        check_classification_targets(y)
        labels = type_of_target(y, input_name="y").startswith("multilabel")
        if not labels:
            y = column_or_1d(y, warn=True)
        if first:
            seen = np.arange(y.shape[1]) if labels else unique_labels(y)
            self.classes_ = seen if classes is None else unique_labels(classes)
            if not labels and len(self.classes_) < 2:
                raise ValueError(f"y has one class, {self.classes_.tolist()[0]!r}; a classifier needs two classes or more")
            self._kind = "multilabel" if labels else "binary" if len(self.classes_) == 2 else "multiclass"
        elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            given = np.asarray(classes).tolist()
            raise ValueError(f"classes is {given}; it must be as in the first call, {self.classes_.tolist()}")
        if labels:
            if (not first and not self._multilabel) or y.shape[1] != len(self.classes_):
                raise ValueError(f"y has {y.shape[1]} labels; it was fitted with {len(self.classes_)} classes")
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has the class {unknown.tolist()[0]!r}; the classes are {self.classes_.tolist()}")
        codes = np.searchsorted(self.classes_, y)
        if self._kind == "binary":
            return codes[:, None].astype(np.float64)
        return np.eye(len(self.classes_))[codes]

    def _class_weights(self, y: Any) -> np.ndarray | None:
        check_class_weight(self.class_weight, self._multilabel)
        if isinstance(self.class_weight, Mapping) and not self._multilabel:  # rows of partial_fit may lack a class
            of_each = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
            return of_each[np.searchsorted(self.classes_, np.ravel(y))]
        return None if self.class_weight is None else compute_sample_weight(self.class_weight, y)

    def _strata(self, y: Any) -> Any:
        return None if self._multilabel else y

    def _score_of(self, a: Tensor, y: Tensor, weight: Tensor) -> float:
        many = self._kind == "multiclass"
        right = a.argmax(-1) == y.argmax(-1) if many else ((a > 0.5) == (y > 0.5)).all(-1)
        return ((right * weight).sum() / weight.sum()).item()


class BPRegressor(RegressorMixin, BPEstimator):
    __doc__ = f"""A regressor: networks with linear outputs, trained by plain gradient descent (equation 3.2g).

    The target, y (N) or (N, nL), is standardised inside the model: ``loss_curve_`` is for the standardised target.
    {PARAMETERS}
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, eval_set: Any = None) -> "BPRegressor":
        """Train on rows X (N, n0) with values y (N), or (N, nL).

        Args:
            sample_weight: (N), the factor of each row's cost.
            eval_set: ``(X, y)`` to score each epoch.

        Raises:
            ValueError: rows, values or parameters do not allow training.
            FloatingPointError: the cost of every network is no longer finite.
        """
        return self._fit(X, y, sample_weight, eval_set)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BPRegressor":
        """Train one epoch on these rows."""
        return self._partial_fit(X, y, sample_weight, None)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The value of each row, (N) or (N, nL), the mean over the networks.

        Args:
            return_std: return its standard deviation over the networks too.
        """
        z = self._logits(X)
        a = output_of(self._output[1], self._output[0]).activation(z).double()
        if self._target_scaling is not None:
            mean, scale = map(torch.from_numpy, self._target_scaling)
            a = a * scale + mean
        dtype = next(iter(self._states[0].values())).dtype
        result = [self._shaped(v.to(dtype).numpy()) for v in (a.mean(0), a.std(0, correction=0))]
        return (result[0], result[1]) if return_std else result[0]

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values.ravel() if self._one_column else values

    def _task(self) -> str:
        return "regression"

    def _take_task(self, task: str, classes: np.ndarray) -> None:
        if task != "regression":
            raise ValueError(f"the checkpoint is for {task}; use BPClassifier.from_checkpoint")

    def _encode(self, y: Any, first: bool, classes: Any = None) -> np.ndarray:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        t = y[:, None] if y.ndim == 1 else y
        if first:
            self._one_column = y.ndim == 1
        elif t.shape[1] != self._sizes[-1]:
            raise ValueError(f"y has {t.shape[1]} columns; it was fitted with {self._sizes[-1]}")
        return np.asarray(t, dtype=np.float64)

    def _score_of(self, a: Tensor, y: Tensor, weight: Tensor) -> float:
        w = weight.unsqueeze(-1) / weight.sum()
        residual = (w * (y - a).square()).sum(0)
        total = (w * (y - (w * y).sum(0)).square()).sum(0)
        return (1 - residual / torch.where(total > 0, total, 1.0)).mean().item()
