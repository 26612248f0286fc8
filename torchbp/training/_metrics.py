"""Chooses the metrics of each task, from torchmetrics."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelAUROC,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)
from torchmetrics.utilities import dim_zero_cat


class _Ranked(Metric):
    """A mixin for metrics that rank rows, which are undefined for a class that no row has, or every row has.

    The mean is over the classes where the metric is defined, and NaN if there are none.
    """

    target: Any
    absent: Sequence[int] = ()  # the outputs where the metric was undefined when last computed

    def compute(self) -> Tensor:
        target = dim_zero_cat(self.target)
        of_each = target.sum(0, keepdim=True) if target.ndim == 2 else self._counts(target)
        defined = ((of_each > 0) & (of_each < len(target))).flatten()
        self.absent = (~defined).nonzero().flatten().tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they say that an undefined value counts as 0
            values = torch.atleast_1d(super().compute())  # type: ignore[safe-super]
        return values[defined].mean()

    def _counts(self, target: Tensor) -> Tensor:
        classes = getattr(self, "num_classes", None)
        return torch.bincount(target, minlength=classes) if classes else target.sum().reshape(1)


class _DefinedF1(Metric):
    """A mixin for F1, which is undefined for a class that no row has and that is predicted for none.

    The mean is over the classes where it is defined, and NaN if there are none.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor

    def compute(self) -> Tensor:
        values = torch.atleast_1d(super().compute())  # type: ignore[safe-super]
        return values[(self.tp + self.fp + self.fn > 0).flatten()].mean()


def _mixed(mixin: type, kind: type[Metric], *args: Any, **options: Any) -> Metric:
    return type(kind.__name__, (mixin, kind), {})(*args, **options)


class _DefinedR2(R2Score):
    """The mean R² over the targets that are not constant; NaN for fewer than two rows.

    In float64: in float32, sums of squares lose the differences of targets far from 0.
    """

    def __init__(self, num_targets: int) -> None:
        super().__init__(multioutput="raw_values")
        if num_targets > 1:  # torchmetrics' states have their shape only after the first update
            for name in ("sum_squared_error", "sum_error", "residual"):
                self.add_state(name, torch.zeros(num_targets), "sum")
        self.set_dtype(torch.float64)

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.double(), target.double())

    def compute(self) -> Tensor:
        if self.total < 2:
            return torch.tensor(torch.nan)
        spread = torch.atleast_1d(self.sum_squared_error - self.sum_error.square() / self.total)
        r2 = 1 - torch.atleast_1d(self.residual) / spread  # torchmetrics' own compute takes sums below 1e-4 for 0
        return r2[spread > 1e-12 * self.sum_squared_error].mean()


class SplitMetrics(MetricCollection):
    """The metrics of a split; those in the target's units have one value per target.

    Attributes:
        targets: the names of the targets, if there are several.
        undefined: the names of the metrics that were undefined when last computed.
        absent: the outputs (classes or labels) where some metric was undefined.
    """

    def __init__(self, metrics: Mapping[str, Metric], postfix: str, num_targets: int = 1) -> None:
        super().__init__(dict(metrics), postfix=postfix)
        self.targets: Sequence[str] = [str(number + 1) for number in range(num_targets)]
        self.undefined: list[str] = []
        self.absent: Sequence[int] = ()

    def compute(self) -> dict[str, Any]:
        """The value of each metric that is defined, by its name in :attr:`names`."""
        values: dict[str, Tensor] = {}
        for name, value in super().compute().items():
            values.update(zip(self._of_targets(name, value.numel()), value.flatten(), strict=True))
        metrics = self.values(copy_state=False)
        self.absent = next((metric.absent for metric in metrics if isinstance(metric, _Ranked)), ())
        self.undefined = [name for name, value in values.items() if value.isnan()]
        return {name: value for name, value in values.items() if name not in self.undefined}

    def why_undefined(self, classes: Sequence[str]) -> str:
        """Which metrics are undefined for the rows, and why, in one or more lines.

        Args:
            classes: the names of the outputs; for two classes, both.
        """
        ranked = [str(name) for name, metric in self.items(copy_state=False) if isinstance(metric, _Ranked)]
        lines = [f"{name}: n/a, undefined for these rows" for name in self.undefined if name not in ranked]
        if self.absent:
            names = [repr(classes[number]) for number in self.absent] if len(self.absent) < len(classes) else ["one class"]
            if len(classes) == 2 and len(self.absent) == 1:
                why = "all rows are of one class"
            else:
                why = f"no row, or every row, is of {', '.join(names[:10])}" + (" and more" if len(names) > 10 else "")
            rest = "n/a" if self.undefined else "of the other classes"
            lines.append(f"{' and '.join(ranked)}: {rest}; {why}")
        return "\n".join(lines)

    @property
    def names(self) -> list[str]:
        """The names that :meth:`compute` may return."""
        sizes = [getattr(metric, "num_outputs", 1) for metric in self.values(copy_state=False)]
        return [one for name, size in zip(self.keys(), sizes, strict=True) for one in self._of_targets(str(name), size)]

    def _of_targets(self, name: str, size: int) -> Iterable[str]:
        metric, _, split = name.partition("/")
        return [name] if size == 1 else [f"{metric}_{target}/{split}" for target in self.targets]


def for_metrics(task: str, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets (N, num_outputs) in the form that torchmetrics takes for the task."""
    if task == "multiclass":
        return prediction, y.argmax(1)
    if task == "regression":
        return prediction.squeeze(1), y.squeeze(1)
    # A target may be a probability: round it to a class.
    y = (y > 0.5).long()
    return (prediction.squeeze(1), y.squeeze(1)) if task == "binary" else (prediction, y)


def scores_of(task: str, prediction: Tensor, y: Tensor, threshold: float, targets: Sequence[str]) -> dict[str, float]:
    """The metrics of predictions and targets (N, num_outputs) in this process alone, by name.

    Args:
        task: the task.
        prediction, y: the predictions and the targets.
        threshold: for ``binary``, predict the positive class above this probability.
        targets: the names of the targets.
    """
    metrics = metrics_of(task, y.shape[1], "test", threshold)
    metrics.targets = targets
    for metric in metrics.values():
        metric.distributed_available_fn = _alone  # sync_on_compute can be set only in the constructor
    metrics.update(*for_metrics(task, prediction, y))
    values: Any = metrics.compute()
    return {name.removesuffix("/test"): value.item() for name, value in values.items()}


def _alone() -> bool:
    return False


def metrics_of(task: str, num_outputs: int, split: str, threshold: float = 0.5) -> SplitMetrics:
    """Accuracy, F1, AUROC and average precision for classes; MAE, MSE and R² for regression.

    Names end with the split, as in ``accuracy/val``. The training split has no AUROC and no average precision: these keep and
    sort all predictions. Each target has its own MAE and MSE. For two classes, the positive one is predicted above
    ``threshold``.
    """
    if task == "regression":
        errors = {"mae": MeanAbsoluteError(num_outputs=num_outputs), "mse": MeanSquaredError(num_outputs=num_outputs)}
        return SplitMetrics({**errors, "r2": _DefinedR2(num_outputs)}, f"/{split}", num_outputs)
    metrics: dict[str, Metric]
    ranked: dict[str, Metric]
    if task == "binary":
        metrics = {"accuracy": BinaryAccuracy(threshold), "f1": _mixed(_DefinedF1, BinaryF1Score, threshold)}
        ranked = {"auroc": _mixed(_Ranked, BinaryAUROC), "average_precision": _mixed(_Ranked, BinaryAveragePrecision)}
    elif task == "multiclass":
        f1 = _mixed(_DefinedF1, MulticlassF1Score, num_outputs, average="none")
        metrics = {"accuracy": MulticlassAccuracy(num_outputs, average="micro"), "f1": f1}
        ranked = {
            "auroc": _mixed(_Ranked, MulticlassAUROC, num_outputs, average="none"),
            "average_precision": _mixed(_Ranked, MulticlassAveragePrecision, num_outputs, average="none"),
        }
    else:
        metrics = {
            "accuracy": MultilabelAccuracy(num_outputs),
            "f1": _mixed(_DefinedF1, MultilabelF1Score, num_outputs, average="none"),
        }
        ranked = {
            "auroc": _mixed(_Ranked, MultilabelAUROC, num_outputs, average="none"),
            "average_precision": _mixed(_Ranked, MultilabelAveragePrecision, num_outputs, average="none"),
        }
    return SplitMetrics({**metrics, **({} if split == "train" else ranked)}, f"/{split}")
