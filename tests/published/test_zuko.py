"""zuko 1.6.0: the gradient of odeint by the start time has the wrong sign."""

import pytest
import torch
from published import finite_differences, gradient, published

utils = published("zuko", "1.6.0", "zuko.utils")


def test_start_time() -> None:
    def solution(t0):
        return utils.odeint(lambda t, x: -x, torch.ones(1, dtype=torch.float64), t0, t1, atol=1e-10, rtol=1e-10).sum()

    t0, t1 = torch.tensor([0.3, 1.0], dtype=torch.float64)
    true = torch.exp(t0 - t1).item()  # x(t1) = exp(t0 - t1)
    assert finite_differences(solution, t0).item() == pytest.approx(true, rel=1e-6)
    assert gradient(solution, t0).item() == pytest.approx(-true, rel=1e-6)


def test_end_time_is_right() -> None:
    def solution(t1):
        return utils.odeint(lambda t, x: -x, torch.ones(1, dtype=torch.float64), t0, t1, atol=1e-10, rtol=1e-10).sum()

    t0, t1 = torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert gradient(solution, t1).item() == pytest.approx(-torch.exp(t0 - t1).item(), rel=1e-6)
