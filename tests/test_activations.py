"""The values of each activation over the whole range, and the ways to name one.

test_symbolic proves each derivative's formula; test_functions compares each with finite differences.
"""

import copy
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest
import sympy as sp
import torch
from devices import DEVICES
from symbols import parsed
from test_symbolic import FORMULAS
from torch import Tensor
from torch.testing import assert_close

from torchbp.activations import ACTIVATIONS, KNOTS, Activation, activation_of, import_activation

each_activation = pytest.mark.parametrize("g", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_device = pytest.mark.parametrize("device", DEVICES)
DIGITS = 340  # enough for 1 - the least normal number, with a margin


def whole_range(dtype: torch.dtype, count: int, device: str = "cpu") -> Tensor:
    """Numbers of both signs from the least subnormal number to 1e4, with as many again where slopes bend."""
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    sizes = torch.logspace(math.log10(least), 4, count, dtype=torch.float64)
    points = torch.cat([sizes, torch.linspace(0.01, 40, count, dtype=torch.float64), torch.rand(count).double() * 9])
    return torch.cat([points, -points]).to(device=device, dtype=dtype)


def some_parameters(g: Activation, z: Tensor) -> list[Tensor]:
    """Parameters near their start, with few digits, so that SymPy's are exactly the same."""
    starts = [p.start(dtype=z.dtype, device=z.device) for p in g.parameters.values()]
    return [(start + 0.3 * (1 + number)).mul(16).round() / 16 for number, start in enumerate(starts)]


@each_device
@pytest.mark.parametrize("g", FORMULAS.values(), ids=FORMULAS)
def test_digits(g: Activation, device: str) -> None:
    """Value, slope and parameter derivatives are exact to a few roundings of z, even where they are tiny.

    Only a slope computed from ``a`` has no more digits than 1 - a.
    """
    z = whole_range(torch.float64, 15, device)
    theta = some_parameters(g, z.unsqueeze(0))
    symbol, *symbols = sp.symbols(["z", *g.parameters], real=True)
    formula = parsed(g.formula, z=symbol, **{each.name: each for each in symbols}).rewrite(sp.Piecewise)
    values = dict(zip(symbols, (sp.Rational(t.item()) for t in theta), strict=True))
    a = g.value(z, *theta)
    one = torch.ones_like(z).unsqueeze(0)
    check_digits(a, formula.subs(values), symbol, z)
    slope = g.slope(a if g.keeps == "a" else z, *theta)
    check_digits(slope, formula.diff(symbol).subs(values), symbol, z, absolute=g.keeps == "a")
    for each, parameter in zip(symbols, g.parameters.values(), strict=True):
        check_digits(parameter.gradient(one, z.unsqueeze(0), *theta), formula.diff(each).subs(values), symbol, z)


def check_digits(found: Tensor, expression: Any, symbol: Any, z: Tensor, absolute: bool = False) -> None:
    function = sp.lambdify(symbol, expression, "mpmath")
    eps, least = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny
    with mpmath.workdps(DIGITS):
        for at, number in zip(z.flatten().tolist(), found.expand_as(z.unsqueeze(0)).flatten().tolist(), strict=True):
            exact = function(mpmath.mpf(at))
            moved = (function(mpmath.mpf(at) * (1 + mpmath.mpf(2) ** -60)) - exact) * mpmath.mpf(2) ** 60
            allowed = 6 * eps * (abs(exact) + abs(moved) + absolute) + least
            assert abs(number - exact) <= allowed, f"at {at}: {number}, exact {mpmath.nstr(exact, 17)}"


@each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_activation
def test_kernel_equals_the_formula(g: Activation, dtype: torch.dtype, device: str) -> None:
    """PyTorch's fused dA * g'(Z), which training uses, equals the proven formula over the whole range, also in place."""
    z = torch.cat([whole_range(dtype, 200, device), torch.zeros(1, dtype=dtype, device=device)]).unsqueeze(0)
    theta, da = some_parameters(g, z), torch.randn_like(z)
    kept = g.value(z, *theta) if g.keeps == "a" else z
    expected = da.double() * g.slope(kept.double(), *(t.double() for t in theta))
    allowed = 8 * torch.finfo(dtype).eps * (expected.abs() + da.abs() * (1 + z.double().abs().clamp(max=40)))
    with torch.no_grad():
        for out in (None, "da", "kept"):
            given = {"da": da.clone(), "kept": kept.clone()}
            written = given.get(out or "")
            found = g.error(*given.values(), *theta, out=written)
            assert written is None or found.data_ptr() == written.data_ptr()
            assert ((found.double() - expected).abs() <= allowed).all()


@each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_activation
def test_value_is_the_references_and_derivatives_are_finite_with_it(g: Activation, dtype: torch.dtype, device: str) -> None:
    z = torch.cat([whole_range(dtype, 200, device), torch.zeros(1, dtype=dtype, device=device)]).unsqueeze(0)
    theta = some_parameters(g, z)
    a = g.value(z, *theta)
    expected = g.reference(z.double(), *(t.double() for t in theta))
    eps = torch.finfo(dtype).eps
    assert a.dtype == dtype
    in_range = expected.to(dtype).isfinite()
    assert ((a.double() - expected).abs() <= 8 * eps * (1 + expected.abs()))[in_range].all()
    into = torch.empty_like(z)
    assert g.value(z, *theta, out=into).data_ptr() == into.data_ptr()
    assert_close(into, a, rtol=0, atol=0)
    assert_close(g.value(into.copy_(z), *theta, out=into), a, rtol=0, atol=0)  # in place
    da = torch.ones_like(z)
    kept = a if g.keeps == "a" else z
    for derivative in (g.error(da, kept, *theta), *(p.gradient(da, z, *theta) for p in g.parameters.values())):
        assert (derivative.isfinite() | ~in_range).all()


def test_the_unknown_one_is_a_line_between_its_knots() -> None:
    g = ACTIVATIONS["unknown"]
    values = torch.randn(len(KNOTS), 2, dtype=torch.float64)
    knots = torch.tensor(KNOTS, dtype=torch.float64).unsqueeze(-1).expand(-1, 2)
    assert_close(g.value(knots, values), values, rtol=0, atol=0)
    between = (knots[1:] + knots[:-1]) / 2
    assert_close(g.value(between, values), (values[1:] + values[:-1]) / 2)
    # Beyond the outermost knot the line continues with the slope of the last interval.
    outside = torch.stack([2 * knots[0] - knots[1], 2 * knots[-1] - knots[-2]])
    assert_close(g.value(outside, values), torch.stack([2 * values[0] - values[1], 2 * values[-1] - values[-2]]))
    start = g.parameters["values"].start(dtype=torch.float64)
    assert_close(g.value(knots, start), knots.sigmoid())


def test_entries_are_themselves_when_copied_or_pickled() -> None:
    for g in ACTIVATIONS.values():
        assert copy.deepcopy(g) is g
        assert pickle.loads(pickle.dumps(g)) is g
        assert activation_of(g.name) is activation_of(g) is g


OWN = """
import torch
from torchbp.activations import Activation

bent = Activation(
    "bent", "z + z**3", "1 + 3*z**2",
    value=lambda z, out=None: torch.add(z, z**3, out=out),
    slope=lambda z: 1 + 3 * z**2,
    reference=lambda z: z + z**3,
)
number = 3
"""


def test_one_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="activation is 'acts:bent'; imported only if the command line names it"):
        activation_of("acts:bent")
    assert "acts" not in sys.modules
    g = import_activation("acts:bent")
    assert g is activation_of("acts:bent")
    assert g.value(torch.tensor([2.0])).tolist() == [10.0]
    for bad, message in {
        "bent": "activation is 'bent'; it must be one of sigmoid, tanh, .*, or package.module:name",
        "acts:absent": "'acts:absent' cannot be imported: module 'acts' has no attribute 'absent'",
        "nowhere:g": "'nowhere' cannot be imported: No module named 'nowhere'",
        "acts:number": "activation 'acts:number' is int; it must be a torchbp.activations.Activation",
    }.items():
        with pytest.raises(ValueError, match=message):
            (import_activation if ":" in bad else activation_of)(bad)


def test_an_entry_that_cannot_be() -> None:
    ours: Callable[..., Any] = ACTIVATIONS["swish"].value
    with pytest.raises(ValueError, match="activation bad keeps 'a'; with parameters it must keep 'z'"):
        Activation("bad", "z", "1", ours, ours, ours, keeps="a", parameters=ACTIVATIONS["swish"].parameters)
    with pytest.raises(ValueError, match="activation bad has a parameter 'weight'; it must not be one of a, b, "):
        Activation("bad", "z", "1", ours, ours, ours, parameters={"weight": ACTIVATIONS["swish"].parameters["beta"]})
