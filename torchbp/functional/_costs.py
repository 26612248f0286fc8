"""Costs: equations 3.1a to 3.2c, and 4.2."""

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.functional._calls import cost_call
from torchbp.functional._checks import check_tensors, checked_cost
from torchbp.functions import check_broadcast, positives_weighted, reduce
from torchbp.outputs import CROSS_ENTROPY_OF_ACTIVATION, OUTPUTS, Output

_SQUARED_ERROR = OUTPUTS["squared_error", "linear"]
_SIGMOID = OUTPUTS["cross_entropy", "sigmoid"]
_SOFTMAX = OUTPUTS["cross_entropy", "softmax"]


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared-error cost (a - y)² (equation 3.1a), like ``torch.nn.functional.mse_loss``.

    Args:
        input: activations or predictions, any shape.
        target: the shape of ``input``; unlike in PyTorch, it is never broadcast.
        reduction: ``'mean'`` divides by the number of elements, ``'sum'`` adds them, ``'none'`` keeps the shape.

    Returns:
        A scalar, or the shape of ``input`` for ``'none'``.

    Raises:
        ValueError: the shapes differ, or there is no such ``reduction``.
        TypeError: a tensor does not have a real floating-point type.

    >>> mse_loss(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]))
    tensor(0.1250)
    """
    check_tensors(input=input, target=target)
    return cost_call(_SQUARED_ERROR)(*checked_cost(input, target, reduction))


def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy cost of activations (equation 3.1c), like ``torch.nn.functional.binary_cross_entropy``.

    ``input`` and ``target`` are in [0, 1]; shapes, ``reduction`` and errors are those of :func:`mse_loss`. ``weight``
    multiplies each cost; it is broadcast to ``input``. For activations of a sigmoid, use
    :func:`binary_cross_entropy_with_logits`: it stays exact at saturation, and its gradient does not vanish.

    >>> binary_cross_entropy(torch.tensor([0.5]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    check_tensors("weight", input=input, target=target, weight=weight)
    input, target, reduction = checked_cost(input, target, reduction)
    return _weighted_cost(CROSS_ENTROPY_OF_ACTIVATION, input, target, weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean", pos_weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy cost of g(z) from the weighted input z (equations 2.4 and 3.1c); its backward is a - y (3.2c).

    Like ``torch.nn.functional.binary_cross_entropy_with_logits``; finite for every finite ``input``. ``target`` is in [0, 1];
    shapes, ``reduction`` and errors are those of :func:`mse_loss`. ``weight`` multiplies each cost; ``pos_weight``, 0 or above,
    the cost's term of the positive class, y ln a. Both are broadcast to ``input`` and may have gradients.

    >>> binary_cross_entropy_with_logits(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    check_tensors("weight", "pos_weight", input=input, target=target, weight=weight, pos_weight=pos_weight)
    input, target, reduction = checked_cost(input, target, reduction)
    if pos_weight is not None:
        u, target = positives_weighted(target.to(input.dtype), pos_weight)
        weight = u if weight is None else weight * u
    return _weighted_cost(_SIGMOID, input, target, weight, reduction)


def _weighted_cost(output: Output, input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return cost_call(output)(input, target, reduction)
    check_broadcast("weight", weight, input.shape)
    return reduce(weight * cost_call(output)(input, target, "none"), reduction)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean", label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy cost of softmax outputs (equation 4.2), like ``torch.nn.functional.cross_entropy``; its backward is a - y.

    Args:
        input: weighted inputs, finite, (C) or (B, C).
        target: class indices, () or (B), or probabilities with the shape of ``input``.
        weight: (C), the factor of each class's term.
        reduction: ``'mean'`` divides by the number of rows, or for class indices by the sum of their weights; ``'sum'`` adds
            the rows' costs, ``'none'`` returns one cost per row.
        label_smoothing: the share of the target, in [0, 1], that is spread evenly over all classes.

    Returns:
        A scalar; () or (B) for ``'none'``.

    Raises:
        ValueError: shapes do not fit, there is no such ``reduction``, or ``label_smoothing`` is outside [0, 1].
        TypeError: ``input`` does not have a real floating-point type.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    check_tensors("weight", input=input, target=target, weight=weight)
    if input.dim() not in (1, 2):
        raise ValueError(f"input has shape {tuple(input.shape)}; it must be (C) or (B, C)")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to 1")
    if weight is not None and weight.shape != input.shape[-1:]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each class, {tuple(input.shape[-1:])}")
    divisor = None
    if not (target.is_floating_point() or target.is_complex()):
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"target has shape {tuple(target.shape)}; class indices for an input of shape {tuple(input.shape)} "
                f"must have shape {tuple(input.shape[:-1])}"
            )
        divisor = None if weight is None else weight[target].sum()
        target = torch.zeros_like(input).scatter(-1, target.long().unsqueeze(-1), 1)  # one-hot, also under vmap
    input, target, reduction = checked_cost(input, target, reduction)
    if label_smoothing:
        target = eq.smoothed(target, label_smoothing)
    if weight is not None:
        target = target * weight
    one_row = input.dim() == 1
    if one_row:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    if reduction == "none":
        costs = cost_call(_SOFTMAX)(input, target, "none").squeeze(-1)
        return costs.squeeze(0) if one_row else costs
    if reduction == "mean" and divisor is not None:
        return cost_call(_SOFTMAX)(input, target, "sum") / divisor
    return cost_call(_SOFTMAX)(input, target, reduction)


def output_cost(
    output: Output,
    z: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    pos_weight: Tensor | None = None,
    of_networks: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cost and prediction from the weighted inputs of the last layer."""
    if pos_weight is not None:
        u, target = positives_weighted(target, pos_weight)
        weight = u if weight is None else weight * u
    prediction = output.activation(z.detach())
    weighted = weight is not None
    z, target, reduction = checked_cost(z, target, reduction)
    if z.dim() == 1:  # one row
        z, target = z.unsqueeze(0), target.unsqueeze(0)
    costs = cost_call(output)(z, target, "none" if weighted or of_networks else reduction)
    if weight is not None:
        costs = weight * costs
    if reduction == "none":
        return (costs.reshape(*prediction.shape[:-1], -1) if z.dim() != prediction.dim() else costs), prediction
    if of_networks:
        return (costs.mean((-2, -1)) if reduction == "mean" else costs.sum((-2, -1))), prediction
    return (reduce(costs, reduction) if weighted else costs), prediction
