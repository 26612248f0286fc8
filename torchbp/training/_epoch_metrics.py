"""Computes a split's cost and metrics over an epoch from the costs and predictions of its steps."""

from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import MetricCollection

from torchbp._plain import Count
from torchbp.recurrence import rows_with_target

ROWS_AT_ONCE = 8192  # rows per update of the metrics: an update takes longer than a step


class RowsSoFar(TypedDict):
    """What an unfinished epoch has summed: costs, rows, and each metric's states."""

    cost_sum: float
    rows: Count
    norms: Annotated[Tensor, "a list of numbers", lambda value: value.ndim == 1 and value.is_floating_point()]
    metrics: dict[str, dict[str, Tensor]] | None


class EpochRows:
    """Collects costs, predictions and targets of the rows that an epoch has seen.

    It replaces ``LightningModule.log``, which takes as long for one value as ten steps of a small network.

    Args:
        split: ``train`` or ``val``.
        metrics: the metrics to compute besides the mean cost; None for none.
        for_metrics: converts predictions and targets to the form that the metrics take.
    """

    def __init__(
        self, split: str, metrics: MetricCollection | None, for_metrics: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        self.name, self.metrics, self.for_metrics = f"cost/{split}", metrics, for_metrics
        self.with_metrics = metrics is not None  # set at the start of an epoch, which may leave them out
        self._values: dict[str, Tensor] = {}
        self.forget()  # an earlier run may have ended in the middle of an epoch

    def forget(self) -> None:
        """Start again without rows."""
        self.cost_sum, self.rows = 0.0, 0
        self.norms: list[Tensor] = []  # of each step's gradient, if gradients are clipped
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._rows_waiting = 0
        if self.metrics is not None and self.with_metrics:
            self.metrics.reset()

    def add(self, cost: float, prediction: Tensor, y: Tensor) -> None:
        """Add the rows of one or several steps, with their mean cost; in sequences each step with a target counts as a row."""
        prediction, y = rows_with_target(prediction, y)
        self.cost_sum += cost * len(y)
        self.rows += len(y)
        if self.with_metrics:
            self._waiting.append((prediction, y))
            self._rows_waiting += len(y)
            if self._rows_waiting >= ROWS_AT_ONCE:
                self._update_metrics()

    def state(self) -> RowsSoFar | None:
        """The rows so far, for a checkpoint; None if there are none."""
        if not self.rows:
            return None
        if self._waiting:
            self._update_metrics()
        states = self.metrics.metric_state if self.metrics is not None and self.with_metrics else None
        return {
            "cost_sum": self.cost_sum,
            "rows": self.rows,
            "norms": torch.stack(self.norms) if self.norms else torch.empty(0),
            "metrics": states and {metric: {name: one.clone() for name, one in states[metric].items()} for metric in states},
        }

    def restore(self, state: RowsSoFar, device: torch.device) -> None:
        """Go on from the rows of a checkpoint.

        Raises:
            ValueError: they are of other metrics.
        """
        self.cost_sum, self.rows, self.norms = state["cost_sum"], state["rows"], [*state["norms"].detach().to(device)]
        saved = state["metrics"]
        self.with_metrics = self.metrics is not None and saved is not None
        if self.metrics is None or saved is None:
            return
        if _kinds(saved) != _kinds(self.metrics.metric_state):
            raise ValueError("the checkpoint's rows of its unfinished epoch are of other metrics than the network's")
        for metric, states in saved.items():
            for name, value in states.items():
                setattr(self.metrics[metric], name, value.detach().to(device))  # a Parameter becomes a Tensor

    def publish(self, trainer: Trainer) -> None:
        """Give the mean cost and the metrics, over all processes, to callbacks and progress bar, and start again.

        All processes must call it at the same time. Without rows it does nothing.
        """
        if not self.rows:
            return
        cost_sum, rows = self.cost_sum, self.rows
        if trainer.world_size > 1:
            total = torch.tensor([cost_sum, rows], dtype=torch.float64, device=trainer.strategy.root_device)
            cost_sum, rows = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        self._values = {self.name: torch.tensor(cost_sum / rows, dtype=torch.float64)}
        if self.norms:
            norms = torch.stack(self.norms).double()
            self._values.update({"norm/gradient": norms.mean(), "norm/gradient/largest": norms.max()})
        if self.metrics is not None and self.with_metrics:
            if self._waiting:
                self._update_metrics()
            self._values.update(self.metrics.compute())
        self.forget()
        trainer.callback_metrics.update(self._values)
        trainer.progress_bar_metrics[self.name] = self._values[self.name].item()

    def log(self, trainer: Trainer) -> None:
        """Write the values published since the last call to the loggers."""
        if trainer.loggers and self._values:
            trainer.logged_metrics.update(self._values)
            values = {name: value.item() for name, value in self._values.items()}
            for logger in trainer.loggers:
                logger.log_metrics({**values, "epoch": trainer.current_epoch}, trainer.global_step - 1)
                logger.save()
        self._values = {}

    def _update_metrics(self) -> None:
        assert self.metrics is not None
        predictions, targets = zip(*self._waiting, strict=True)
        self.metrics.update(*self.for_metrics(torch.cat(predictions), torch.cat(targets)))
        self._waiting, self._rows_waiting = [], 0


def _kinds(states: dict[str, dict[str, Any]]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The shape and type of each state."""
    return {metric: {name: (value.shape, value.dtype) for name, value in of.items()} for metric, of in states.items()}
