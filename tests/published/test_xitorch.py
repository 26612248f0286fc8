"""xitorch 0.5.1: solve_ivp keeps its output as an attribute of ctx, a cycle that only the garbage collector frees."""

import gc
import weakref

import torch
from published import normal, published

integrate = published("xitorch", "0.5.1", "xitorch.integrate")


def test_solution_outlives_its_last_reference() -> None:
    times, y0, a = torch.linspace(0, 1, 4, dtype=torch.float64), normal(3).requires_grad_(), normal(3)
    gc.collect()
    gc.disable()
    try:
        solution = integrate.solve_ivp(lambda t, y, a: torch.sin(y * a), times, y0, params=(a,), method="rk4")
        alive = weakref.ref(solution)
        del solution
        assert alive() is not None
    finally:
        gc.enable()
    gc.collect()
    assert alive() is None
