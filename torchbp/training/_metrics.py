"""The metrics of each task, from torchmetrics."""

from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score
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


def metrics_of(task: str, num_outputs: int) -> MetricCollection:
    """Accuracy, F1, AUROC and average precision for classes; MAE, MSE and R² for regression."""
    if task == "binary":
        return MetricCollection(
            {
                "accuracy": BinaryAccuracy(),
                "f1": BinaryF1Score(),
                "auroc": BinaryAUROC(),
                "average_precision": BinaryAveragePrecision(),
            }
        )
    if task == "multiclass":
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_outputs, average="micro"),
                "f1": MulticlassF1Score(num_outputs),
                "auroc": MulticlassAUROC(num_outputs),
                "average_precision": MulticlassAveragePrecision(num_outputs),
            }
        )
    if task == "multilabel":
        return MetricCollection(
            {
                "accuracy": MultilabelAccuracy(num_outputs),
                "f1": MultilabelF1Score(num_outputs),
                "auroc": MultilabelAUROC(num_outputs),
                "average_precision": MultilabelAveragePrecision(num_outputs),
            }
        )
    return MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError(), "r2": R2Score()})
