"""Computes the predictions of a network and of the baseline for a split's rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from torchbp.data.rows import Rows, targets
from torchbp.recurrence import told

if TYPE_CHECKING:
    from torchbp.training._module import BPModule


@dataclass
class Outcome:
    """Predictions of rows, or of steps that have a target, beside their targets, (N, num_outputs) each; and the mean cost,
    where it is known.
    """

    prediction: Tensor
    y: Tensor
    cost: float | None = None

    def __len__(self) -> int:
        return len(self.y)


class Collected(Metric):
    """Predictions and targets of an evaluation, of all processes."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("prediction", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, y: Tensor) -> None:
        """Add a batch's, (B, num_outputs) each; of sequences with a target at each step, the steps are rows."""
        prediction, y = told(prediction.detach(), y)
        self.prediction.append(prediction)  # type: ignore[operator, union-attr]
        self.y.append(y)  # type: ignore[operator, union-attr]

    def compute(self) -> tuple[Tensor, Tensor]:
        """All of them, on the CPU; a Metric makes one number of one row."""
        return dim_zero_cat(self.prediction).float().cpu(), dim_zero_cat(self.y).float().cpu()  # type: ignore[arg-type]

    def rows(self, num_outputs: int) -> tuple[Tensor, Tensor]:
        """All of them, (N, num_outputs) each, on the CPU."""
        prediction, y = self.compute()
        return prediction.reshape(-1, num_outputs), y.reshape(-1, num_outputs)


@torch.no_grad()
def evaluate(module: "BPModule", rows: Rows) -> Outcome:
    """The module's predictions of all rows, and their mean cost."""
    like = next(module.parameters())
    predictions, ys, total = [], [], 0.0
    for x, y in rows.chunks():
        cost, prediction = module.cost_and_prediction(x.to(like), y.to(like))
        prediction, y = told(prediction.float().cpu(), y.cpu())
        total += cost.item() * len(y)
        predictions.append(prediction)
        ys.append(y)
    return Outcome(torch.cat(predictions), torch.cat(ys), total / sum(map(len, ys)))


@dataclass
class Baseline:
    """What is predicted without looking at x: the training rows' shares of the classes, or their mean."""

    constant: Tensor  # (num_outputs)
    name: str

    def of(self, outcome: Outcome) -> Outcome:
        """The same rows as the baseline predicts them."""
        return replace(outcome, prediction=self.constant.expand_as(outcome.y).contiguous(), cost=None)


def baseline_of(rows: Rows, task: str, names: Sequence[str]) -> Baseline:
    """The baseline that the rows, (x, y), give.

    Args:
        rows: those to train on.
        task: what is learned.
        names: the classes', both of them for ``binary``.
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
