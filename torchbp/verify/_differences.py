"""Finite differences, the reference for derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp.verify._outcome import Tolerance

Tensors = Sequence[Tensor]

# The step and tolerances of torch.autograd.gradcheck.
EPS = 1e-6
FINITE_DIFFERENCES = Tolerance(1e-5, 1e-3)


def numerical_gradient(scalar: Callable[..., Tensor], tensors: Tensors) -> tuple[Tensor, ...]:
    """Central differences of ``scalar(*tensors)`` by every entry of every tensor."""
    result = []
    for i, tensor in enumerate(tensors):
        gradient = torch.zeros_like(tensor, memory_format=torch.contiguous_format, requires_grad=False)
        for entry in range(tensor.numel()):
            direction = torch.zeros_like(gradient)
            direction.view(-1)[entry] = 1
            (slope,) = numerical_derivative(lambda *t: (scalar(*t),), tensors, {i: direction})
            gradient.view(-1)[entry] = slope
        result.append(gradient)
    return tuple(result)


def numerical_derivative(
    function: Callable[..., Tensors], tensors: Tensors, directions: dict[int, Tensor], step: float = EPS
) -> tuple[Tensor, ...]:
    """Central difference of every output of ``function(*tensors)`` as tensor i moves along ``directions[i]``."""
    high, low = (moved(function, tensors, directions, size) for size in (step, -step))
    return tuple((h - l) / (2 * step) for h, l in zip(high, low, strict=True))


def moved(function: Callable[..., Tensors], tensors: Tensors, directions: dict[int, Tensor], step: float) -> list[Tensor]:
    """The outputs after each tensor i has moved by ``step`` along ``directions[i]``."""
    there = [t.detach() + step * directions[i] if i in directions else t.detach().clone() for i, t in enumerate(tensors)]
    return [output.detach() for output in function(*(t.requires_grad_() for t in there))]


def slope_and_doubt(scalar: Callable[..., Tensor], tensors: Tensors, directions: dict[int, Tensor]) -> tuple[Tensor, float]:
    """The slope along the directions, and how much the one-sided differences disagree: infinitely at a pole, much at a kink."""
    # Steps of unequal length: at a jump, one-sided differences of equal length can agree.
    ahead, behind = EPS, EPS / 2
    high, low = (moved(lambda *t: (scalar(*t),), tensors, directions, size)[0] for size in (ahead, -behind))
    here = scalar(*(t.detach() for t in tensors)).detach()
    right, left = (high - here) / ahead, (here - low) / behind
    slope = (right * behind + left * ahead) / (ahead + behind)  # the derivative of the parabola through all three
    return slope, (right - left).abs().nan_to_num(nan=torch.inf).item()


def dot(left: Tensors, right: Tensors) -> Tensor:
    """Σ left·right over all entries of all tensors."""
    total = (left[0] * right[0]).sum()
    for a, b in zip(left[1:], right[1:], strict=True):
        total = total + (a * b).sum()
    return total
