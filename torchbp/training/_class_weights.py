"""Weights of the classes in the cross-entropy, and the checks of these settings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.data.rows import Rows, targets
from torchbp.outputs import OUTPUTS, Output


def refuse_class_weight(class_weight: Sequence[float] | str | None, label_smoothing: float, output: Output) -> None:
    """Refuse weights of classes and label smoothing that do not fit the output.

    Raises:
        ValueError: an output other than softmax with cross-entropy has one of them, or ``label_smoothing`` is outside [0, 1).
    """
    if output is not OUTPUTS["cross_entropy", "softmax"] and (class_weight is not None or label_smoothing):
        name, value = ("class_weight", class_weight) if class_weight is not None else ("label_smoothing", label_smoothing)
        raise ValueError(f"{name} is {value}; it is for softmax outputs, here they are {output.name}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")


def weight_of_each(name: str, weight: float | Sequence[float] | str | None, num_outputs: int) -> Tensor | None:
    """The weights that an option sets, (num_outputs); all 1 for ``'balanced'``, until the data are known; None for None.

    Raises:
        ValueError: not ``'balanced'``, None, a finite number above 0, or a list of ``num_outputs`` such numbers.
    """
    if weight is None:
        return None
    one = 1.0 if weight == "balanced" else weight
    values = [one] * num_outputs if isinstance(one, int | float) else one
    if isinstance(values, str) or len(values) != num_outputs or not all(0 < w < float("inf") for w in values):
        raise ValueError(
            f"{name} is {weight}; it must be 'balanced', or a finite number above 0, or a list of {num_outputs} of them"
        )
    return torch.tensor(values, dtype=torch.get_default_dtype())


def balanced_positives(rows: Rows) -> Tensor:
    """pos_weight = negatives / positives of each output, (num_outputs); 1 if an output has no negatives or no positives."""
    positives, number = _sums(rows)
    weight = (number - positives) / positives
    return torch.where((weight > 0) & weight.isfinite(), weight, 1.0)


def balanced_classes(rows: Rows) -> Tensor:
    """Each class's weight N / (C n_c), (C); the mean over the rows is 1. A class without rows has weight 1."""
    count, number = _sums(rows)
    weight = number / ((count > 0).sum() * count)
    return torch.where(weight.isfinite(), weight, 1.0)


def _sums(rows: Rows) -> tuple[Tensor, int]:
    """The sum of the targets, (num_outputs), and their number."""
    parts = [(y.double().sum(0), len(y)) for y in targets(rows)]
    return torch.stack([total for total, _ in parts]).sum(0), sum(number for _, number in parts)
