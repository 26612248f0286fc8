"""POT 0.9.7.post1: with grad="envelope" the second derivative of a regularised value is silently wrong."""

import pytest
import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, penalty_error, published

ot = published("POT", "0.9.7.post1", "ot")


@pytest.mark.parametrize(("grad", "right"), [("envelope", False), ("autodiff", True)])
def test_gradient_penalty(grad: str, right: bool) -> None:
    cost = torch.rand(3, 4, dtype=torch.float64)
    a, b = torch.full((3,), 1 / 3, dtype=torch.float64), torch.full((4,), 1 / 4, dtype=torch.float64)

    def value(m):
        return ot.solve(m, a, b, reg=0.5, grad=grad).value

    assert error(gradient(value, cost), finite_differences(value, cost)) < RIGHT
    off = penalty_error(value, cost)
    assert off < RIGHT if right else off > WRONG
