"""The precision of the equations' code, compared with SymPy's expressions evaluated to hundreds of digits."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import mpmath
import pytest
import sympy as sp
import torch
from devices import DEVICES
from test_symbolic import a, cross_entropy, sigmoid, y, z
from torch import Tensor

from torchbp import equations as eq

LEAST_NORMAL = torch.finfo(torch.float64).tiny
each_device = pytest.mark.parametrize("device", DEVICES)
POINTS = torch.cat(
    [
        torch.linspace(-700, 700, 1401, dtype=torch.float64),
        torch.linspace(-40, 40, 801, dtype=torch.float64),
        torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1400 - 700,
        PARTICULAR := torch.tensor(
            # The last is the worst of ten million points for torch.sigmoid on a CPU: 2.4 ulp.
            [0.0, 1e-300, -1e-300, 1e-17, -1e-17, 50.0, math.nextafter(50.0, 51.0), -50.0, -36.738632623907115],
            dtype=torch.float64,
        ),
    ]
)
KINDS_OF_TARGETS = ["zero", "one", "uniform", "next to zero", "next to one"]

# So that 1 - g(z) keeps fifty digits even for g(z) nearest to 1: e^-700 is 1e-304.
DIGITS = 360


def to_many_digits(expression: Any, *of: tuple[Any, Tensor]) -> list[Any]:
    """The values of SymPy's expression for these values of its symbols."""
    symbols, values = zip(*of, strict=True)
    function = sp.lambdify(symbols, expression, "mpmath")
    with mpmath.workdps(DIGITS):
        return [function(*map(mpmath.mpf, point)) for point in zip(*(v.tolist() for v in values), strict=True)]


def worst_ulp(
    actual: Tensor, exact: Iterable[Any], unit: Callable[[int, float], float] = lambda i, value: math.ulp(value)
) -> float:
    """Largest error in units in the last place, over exact values that are normal numbers."""
    worst = 0.0
    for i, (mine, right) in enumerate(zip(actual.tolist(), exact, strict=True)):
        if abs(right) >= LEAST_NORMAL:
            with mpmath.workdps(DIGITS):
                worst = max(worst, float(abs(mpmath.mpf(mine) - right)) / unit(i, float(right)))
    return worst


@each_device
def test_digits_of_sigmoid(device: str) -> None:
    assert worst_ulp(eq.sigmoid(POINTS.to(device)), to_many_digits(sigmoid, (z, POINTS))) <= 4


@each_device
def test_digits_of_sigmoid_derivative(device: str) -> None:
    exact = to_many_digits(sigmoid.diff(z), (z, POINTS))
    assert worst_ulp(eq.sigmoid_derivative_at(POINTS.to(device)), exact) <= 4
    # From a alone this is impossible: near 1, a(1 - a) has no more digits than 1 - a.
    assert worst_ulp(eq.sigmoid_derivative(eq.sigmoid(POINTS.to(device))), exact) > 1e10


@each_device
@pytest.mark.parametrize("kind", KINDS_OF_TARGETS)
def test_digits_of_cross_entropy(kind: str, device: str) -> None:
    # Each kind of target has its own points, and all have the particular ones.
    points = torch.cat([POINTS[KINDS_OF_TARGETS.index(kind) :: 5], PARTICULAR])
    uniform = torch.rand_like(points)
    targets = {
        "zero": torch.zeros_like(points),
        "one": torch.ones_like(points),
        "uniform": uniform,
        "next to zero": uniform.pow(40),
        "next to one": 1 - uniform.pow(40),
    }[kind]
    exact = to_many_digits(cross_entropy.subs(a, sigmoid), (z, points), (y, targets))
    assert worst_ulp(eq.cross_entropy_of_weighted_input(points.to(device), targets.to(device)), exact) <= 4


@each_device
@pytest.mark.parametrize("w", [1e-6, 0.1, 7.3, 1e6])
def test_digits_of_the_weighted_error(w: float, device: str) -> None:
    """For targets 0 and 1, exact to the last places of 1 - a; PyTorch's own error is not."""
    points = POINTS[::3]
    targets = (torch.rand_like(points) > 0.5).double()
    u, target = eq.positives_weighted(targets.to(device), torch.tensor(w, dtype=torch.float64, device=device))
    activations = eq.sigmoid(points.to(device))
    larger = (u * torch.maximum(activations, target)).tolist()
    exact = to_many_digits((1 - y) * sigmoid - w * y * (1 - sigmoid), (z, points), (y, targets))
    assert worst_ulp(u * eq.output_error(activations, target), exact, lambda i, _: math.ulp(larger[i])) <= 4


@each_device
def test_digits_of_output_error(device: str) -> None:
    activations, targets = eq.sigmoid(POINTS), torch.rand_like(POINTS)
    # Also with targets close to the activation, and with targets of zero.
    targets[::3] = activations[::3] * (1 + 1e-9 * torch.randn_like(activations[::3]))
    targets[1::3] = 0
    larger = torch.maximum(activations, targets).tolist()

    def worst(actual: Tensor, exact: Iterable[Any]) -> float:
        return worst_ulp(actual, exact, lambda i, _: math.ulp(larger[i]))

    actual = eq.output_error(activations.to(device), targets.to(device))
    assert worst(actual, to_many_digits(a - y, (a, activations), (y, targets))) <= 2
    # From z, the activation's own rounding error comes on top.
    actual = eq.output_error(eq.sigmoid(POINTS.to(device)), targets.to(device))
    assert worst(actual, to_many_digits(sigmoid - y, (z, POINTS), (y, targets))) <= 4
