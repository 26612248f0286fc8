"""The metrics of each task, from torchmetrics."""

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


def metrics_of(task: str, num_outputs: int, split: str) -> MetricCollection:
    """Accuracy, F1, AUROC and average precision for classes; MAE, MSE and R² for regression.

    Named after the split, ``accuracy/val``. The training split has no AUROC and average precision, which keep every prediction
    and sort them.
    """
    if task == "regression":
        return MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError(), "r2": R2Score()}, postfix=f"/{split}")
    metrics: dict[str, Metric]
    ranked: dict[str, Metric]
    if task == "binary":
        metrics = {"accuracy": BinaryAccuracy(), "f1": BinaryF1Score()}
        ranked = {"auroc": BinaryAUROC(), "average_precision": BinaryAveragePrecision()}
    elif task == "multiclass":
        metrics = {"accuracy": MulticlassAccuracy(num_outputs, average="micro"), "f1": MulticlassF1Score(num_outputs)}
        ranked = {"auroc": MulticlassAUROC(num_outputs), "average_precision": MulticlassAveragePrecision(num_outputs)}
    else:
        metrics = {"accuracy": MultilabelAccuracy(num_outputs), "f1": MultilabelF1Score(num_outputs)}
        ranked = {"auroc": MultilabelAUROC(num_outputs), "average_precision": MultilabelAveragePrecision(num_outputs)}
    return MetricCollection({**metrics, **({} if split == "train" else ranked)}, postfix=f"/{split}")
