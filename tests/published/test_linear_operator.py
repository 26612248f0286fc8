"""linear_operator 0.6.1: three operations whose second derivatives are wrong, and one that cannot be checkpointed."""

from collections.abc import Callable

import pytest
import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error, published
from torch import Tensor

operators = published("linear_operator", "0.6.1", "linear_operator")

SIDE = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)


def positive(a: Tensor) -> Tensor:
    return a @ a.mT + 2 * torch.eye(len(a), dtype=a.dtype)


def sqrt_inv_matmul(a: Tensor) -> Tensor:
    return operators.to_linear_operator(positive(a)).sqrt_inv_matmul(SIDE).sum()


def inv_quad(a: Tensor) -> Tensor:
    return operators.to_linear_operator(positive(a)).inv_quad(SIDE)


def pivoted_cholesky(a: Tensor) -> Tensor:
    return operators.to_linear_operator(positive(a)).pivoted_cholesky(3).sum()


def solve(a: Tensor) -> Tensor:
    return operators.to_linear_operator(positive(a)).solve(SIDE).square().sum()


@pytest.mark.parametrize("function", [sqrt_inv_matmul, inv_quad, pivoted_cholesky])
def test_second_derivatives(function: Callable[[Tensor], Tensor]) -> None:
    a = normal(4, 4)
    assert error(gradient(function, a), finite_differences(function, a)) < RIGHT
    assert penalty_error(function, a) > WRONG


def test_solve_is_right() -> None:
    assert penalty_error(solve, normal(4, 4)) < RIGHT


def test_matmul_in_a_checkpoint() -> None:
    from torch.utils.checkpoint import CheckpointError, checkpoint

    a, right = normal(3, 3).requires_grad_(), normal(3, 2)
    y = checkpoint(lambda a: operators.to_linear_operator(a).matmul(right), a, use_reentrant=False)
    with pytest.raises(CheckpointError):
        y.sum().backward()
