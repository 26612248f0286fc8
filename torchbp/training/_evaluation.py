"""Computes the predictions of a network and of the baseline for a split's rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from torchbp.data.rows import Rows, targets
from torchbp.recurrence import rows_with_target

if TYPE_CHECKING:
    from torchbp.training._module import BPModule


@dataclass
class Outcome:
    """Predictions and targets, each (N, num_outputs), of rows or of steps with a target; and the mean cost, if known."""

    prediction: Tensor
    y: Tensor
    cost: float | None = None

    def __len__(self) -> int:
        return len(self.y)


class Collected(Metric):
    """Collects predictions and targets of an evaluation, over all processes."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("prediction", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, y: Tensor) -> None:
        """Add a batch, (B, num_outputs) each; in sequences each step with a target counts as a row."""
        prediction, y = rows_with_target(prediction.detach(), y)
        self.prediction.append(prediction)  # type: ignore[operator, union-attr]
        self.y.append(y)  # type: ignore[operator, union-attr]

    def compute(self) -> tuple[Tensor, Tensor]:
        """All predictions and targets, on the CPU; a Metric turns a single row into a number, see :meth:`rows`."""
        return dim_zero_cat(self.prediction).float().cpu(), dim_zero_cat(self.y).float().cpu()  # type: ignore[arg-type]

    def rows(self, num_outputs: int) -> tuple[Tensor, Tensor]:
        """All predictions and targets, (N, num_outputs) each, on the CPU."""
        prediction, y = self.compute()
        return prediction.reshape(-1, num_outputs), y.reshape(-1, num_outputs)


@torch.no_grad()
def evaluate(module: "BPModule", rows: Rows) -> Outcome:
    """The module's predictions for all rows, and their mean cost."""
    like = next(module.parameters())
    predictions, ys, total = [], [], 0.0
    for x, y in rows.chunks():
        cost, prediction = module.cost_and_prediction(x.to(like), y.to(like))
        prediction, y = rows_with_target(prediction.float().cpu(), y.cpu())
        total += cost.item() * len(y)
        predictions.append(prediction)
        ys.append(y)
    return Outcome(torch.cat(predictions), torch.cat(ys), total / sum(map(len, ys)))


@dataclass
class Baseline:
    """A prediction that ignores x: the class shares, or the mean target, of the training rows."""

    constant: Tensor  # (num_outputs)
    name: str

    def of(self, outcome: Outcome) -> Outcome:
        """The baseline's predictions for the same rows."""
        return replace(outcome, prediction=self.constant.expand_as(outcome.y).contiguous(), cost=None)


def baseline_of(rows: Rows, task: str, names: Sequence[str]) -> Baseline:
    """The baseline of the training rows.

    Args:
        rows: the training rows (x, y).
        task: the network's task.
        names: the classes' names, both of them for ``binary``.
    """
    total: Any = 0
    number = 0
    for y in targets(rows):
        total, number = total + y.double().sum(0), number + len(y)
    constant = (total / number).float()
    if task == "binary":
        return Baseline(constant, f"always {names[int(constant.item() > 0.5)]}")
    if task == "multiclass":
        return Baseline(constant, f"always {names[int(constant.argmax())]}")
    return Baseline(constant, "the mean" if task == "regression" else "each label's more frequent value")
