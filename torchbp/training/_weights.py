"""What the positive class of each output weighs in the cross-entropy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.data._loader import Rows


def weight_of_each(pos_weight: float | Sequence[float] | str | None, num_outputs: int) -> Tensor | None:
    """The weights that are asked for, (num_outputs), all 1 until they are balanced; None for none.

    Raises:
        ValueError: anything but ``'balanced'``, finite numbers above 0, one or as many as there are outputs, or None.
    """
    if pos_weight is None:
        return None
    one = 1.0 if pos_weight == "balanced" else pos_weight
    values = [one] * num_outputs if isinstance(one, int | float) else one
    if isinstance(values, str) or len(values) != num_outputs or not all(0 < w < float("inf") for w in values):
        raise ValueError(
            f"pos_weight is {pos_weight}; it must be 'balanced', or a finite number above 0, or a list of {num_outputs} of them"
        )
    return torch.tensor(values, dtype=torch.get_default_dtype())


def balanced(rows: Rows) -> Tensor:
    """Each output's negatives by its positives, (num_outputs); 1 where there are none of either, with nothing to balance."""
    positives = torch.stack([y.double().sum(0) for (y,) in rows.only(1).chunks()]).sum(0)
    weight = (len(rows) - positives) / positives
    return torch.where((weight > 0) & weight.isfinite(), weight, 1.0)
