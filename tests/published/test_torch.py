"""PyTorch 2.13.0: reverse mode over forward mode of torch.linalg.solve treats the LU factors as constants."""

import pytest
import torch
from published import RIGHT, WRONG, error, finite_differences, normal

if torch.__version__.split("+")[0] != "2.13.0":
    pytest.skip(f"speaks of torch 2.13.0, not of {torch.__version__}", allow_module_level=True)


def test_reverse_over_forward_of_solve() -> None:
    a, direction = normal(3, 3) + 3 * torch.eye(3, dtype=torch.float64), normal(3, 3)
    right, weights = normal(3, 2), normal(3, 2)

    def tangent(solve):
        return lambda a: (torch.func.jvp(solve, (a,), (direction,))[1] * weights).sum()

    solve, inverse = tangent(lambda a: torch.linalg.solve(a, right)), tangent(lambda a: torch.linalg.inv(a) @ right)
    true = finite_differences(solve, a)
    assert error(torch.func.grad(solve)(a), true) > WRONG
    assert error(torch.func.grad(inverse)(a), true) < RIGHT
