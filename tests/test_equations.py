"""Each equation, compared with the same formula in plain Python, one number at a time."""

import inspect
import math
import re
from collections.abc import Callable

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.testing import assert_close

from torchbp import equations as eq

each_device = pytest.mark.parametrize("device", DEVICES)

B, N_IN, N_OUT = 3, 4, 2
Matrix = list[list[float]]


def random(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, device=device)


def in_unit_interval(*shape: int, device: str) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, device=device) * 0.98 + 0.01


def same(actual: Tensor, expected: float | list[float] | Matrix) -> None:
    assert_close(actual, torch.tensor(expected, dtype=torch.float64, device=actual.device), rtol=1e-13, atol=1e-13)


def g(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softmax(z: list[float], j: int) -> float:
    return math.exp(z[j]) / sum(math.exp(each) for each in z)


# Elementwise equations of an activation and a target, and of a weighted input.
OF_A_AND_Y: dict[Callable[[Tensor, Tensor], Tensor], Callable[[float, float], float]] = {
    eq.squared_error: lambda a, y: (a - y) * (a - y),
    eq.squared_error_derivative: lambda a, y: 2 * (a - y),
    eq.cross_entropy: lambda a, y: -(y * math.log(a) + (1 - y) * math.log(1 - a)),
    eq.cross_entropy_derivative: lambda a, y: (1 - y) / (1 - a) - y / a,
    eq.cross_entropy_target_derivative: lambda a, y: math.log(1 - a) - math.log(a),
    eq.output_error: lambda a, y: a - y,
}
OF_Z: dict[Callable[[Tensor], Tensor], Callable[[float], float]] = {
    eq.sigmoid: g,
    eq.sigmoid_derivative_at: lambda z: math.exp(-z) / (1 + math.exp(-z)) ** 2,
}


@each_device
@pytest.mark.parametrize("equation", OF_A_AND_Y, ids=lambda equation: equation.__name__)
def test_equation_of_activation_and_target(equation: Callable[[Tensor, Tensor], Tensor], device: str) -> None:
    a, y = in_unit_interval(20, device=device), in_unit_interval(20, device=device)
    y[:4] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    same(equation(a, y), [OF_A_AND_Y[equation](*pair) for pair in zip(a.tolist(), y.tolist(), strict=True)])


@each_device
@pytest.mark.parametrize("equation", OF_Z, ids=lambda equation: equation.__name__)
def test_equation_of_weighted_input(equation: Callable[[Tensor], Tensor], device: str) -> None:
    z = 5 * random(20, device=device)
    same(equation(z), [OF_Z[equation](each) for each in z.tolist()])


@each_device
def test_sigmoid_derivative(device: str) -> None:
    z = 5 * random(20, device=device)
    same(eq.sigmoid_derivative(eq.sigmoid(z)), [math.exp(-each) / (1 + math.exp(-each)) ** 2 for each in z.tolist()])


@each_device
def test_cross_entropy_of_weighted_input(device: str) -> None:
    z, y = 5 * random(20, device=device), in_unit_interval(20, device=device)
    expected = [-(q * math.log(g(p)) + (1 - q) * math.log(1 - g(p))) for p, q in zip(z.tolist(), y.tolist(), strict=True)]
    same(eq.cross_entropy_of_weighted_input(z, y), expected)


@each_device
def test_positives_weighted(device: str) -> None:
    a, y, w = in_unit_interval(20, device=device), in_unit_interval(20, device=device), 4 * in_unit_interval(20, device=device)
    y[:4] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    w[2:4] = 0.0
    u, weighted = eq.positives_weighted(y, w)
    assert weighted[:3].tolist() == [0.0, 1.0, 0.0]
    numbers = list(zip(a.tolist(), y.tolist(), w.tolist(), strict=True))
    same(u * eq.cross_entropy(a, weighted), [-(v * q * math.log(p) + (1 - q) * math.log(1 - p)) for p, q, v in numbers])
    same(u * eq.output_error(a, weighted), [(1 - q) * p - v * q * (1 - p) for p, q, v in numbers])


@each_device
def test_piecewise_cross_entropy_is_the_joined_one(device: str) -> None:
    a, y = in_unit_interval(200, device=device), torch.arange(200, device=device).double() % 2
    expected = [-math.log(p) if q == 1 else -math.log(1 - p) for p, q in zip(a.tolist(), y.tolist(), strict=True)]
    same(eq.cross_entropy_piecewise(a, y), expected)
    assert_close(eq.cross_entropy_piecewise(a, y), eq.cross_entropy(a, y), rtol=1e-15, atol=0)
    at_ends = torch.tensor([0.0, 1.0, 0.0, 1.0], device=device), torch.tensor([0.0, 1.0, 1.0, 0.0], device=device)
    assert eq.cross_entropy_piecewise(*at_ends).tolist() == eq.cross_entropy(*at_ends).tolist() == [0, 0, 100, 100]


@each_device
def test_output_error_is_3_2a_times_3_2b(device: str) -> None:
    a, y = in_unit_interval(200, device=device), in_unit_interval(200, device=device)
    product = eq.cross_entropy_derivative(a, y) * eq.sigmoid_derivative(a)
    assert_close(eq.output_error(a, y), product, rtol=1e-14, atol=0)


@each_device
def test_softmax_cross_entropy(device: str) -> None:
    z, y = 3 * random(B, N_IN, device=device), in_unit_interval(B, N_IN, device=device)
    rows = list(zip(z.tolist(), y.tolist(), strict=True))
    same(eq.softmax(z), [[softmax(r, j) for j in range(N_IN)] for r, _ in rows])
    same(eq.softmax_cross_entropy(z, y), [[-sum(t * math.log(softmax(r, j)) for j, t in enumerate(s))] for r, s in rows])
    expected = [[softmax(r, j) * sum(s) - t for j, t in enumerate(s)] for r, s in rows]
    same(eq.softmax_output_error(eq.softmax(z), y), expected)
    same(eq.softmax_cross_entropy_target_derivative(z), [[-math.log(softmax(r, j)) for j in range(N_IN)] for r, _ in rows])


@each_device
def test_smoothed(device: str) -> None:
    y = in_unit_interval(B, N_IN, device=device)
    same(eq.smoothed(y, 0.2), [[0.8 * t + 0.2 / N_IN for t in row] for row in y.tolist()])


@each_device
def test_standardized(device: str) -> None:
    x, mean, scale = random(B, N_IN, device=device), random(N_IN, device=device), in_unit_interval(N_IN, device=device) + 0.1
    expected = [[(v - m) / s for v, m, s in zip(row, mean.tolist(), scale.tolist(), strict=True)] for row in x.tolist()]
    same(eq.standardized(x, mean, scale), expected)
    same(eq.standardized(x, mean, scale, 0.5), [[max(-0.5, min(0.5, v)) for v in row] for row in expected])


@each_device
@pytest.mark.parametrize("bias", [True, False])
def test_weighted_input(bias: bool, device: str) -> None:
    x, W, b = random(B, N_IN, device=device), random(N_OUT, N_IN, device=device), random(N_OUT, device=device)
    expected = [[0.0] * N_OUT for _ in range(B)]
    for s in range(B):
        for j in range(N_OUT):
            for i in range(N_IN):
                expected[s][j] += W[j, i].item() * x[s, i].item()
            if bias:
                expected[s][j] += b[j].item()
    same(eq.weighted_input(x, W.mT, b if bias else None), expected)


@each_device
def test_weighted_input_of_several_networks_under_transforms(device: str) -> None:
    x, Wt, b = random(3, 4, 5, device=device), random(3, 5, 2, device=device), random(7, 3, 1, 2, device=device)
    expected = torch.stack([torch.baddbmm(each, x, Wt) for each in b])
    torch.testing.assert_close(torch.vmap(lambda each: eq.weighted_input(x, Wt, each))(b), expected)
    with torch.autocast(device, torch.bfloat16):
        arguments = x.float(), Wt.float(), b[0].float()
        assert eq.weighted_input(*arguments).dtype == torch.baddbmm(arguments[2], *arguments[:2]).dtype


@each_device
def test_error_carried_back(device: str) -> None:
    dz, W, a = random(B, N_OUT, device=device), random(N_OUT, N_IN, device=device), in_unit_interval(B, N_IN, device=device)
    da = [[0.0] * N_IN for _ in range(B)]
    for s in range(B):
        for i in range(N_IN):
            for j in range(N_OUT):
                da[s][i] += W[j, i].item() * dz[s, j].item()
    carried = eq.activation_gradient(dz, W)
    same(carried, da)
    hidden = [[da[s][i] * a[s, i].item() * (1 - a[s, i].item()) for i in range(N_IN)] for s in range(B)]
    same(eq.hidden_error(carried, eq.sigmoid_derivative(a)), hidden)


@each_device
def test_gradients_of_weight_and_bias(device: str) -> None:
    dz, x = random(B, N_OUT, device=device), random(B, N_IN, device=device)
    dW, db = [[0.0] * N_IN for _ in range(N_OUT)], [0.0] * N_OUT
    for s in range(B):
        for j in range(N_OUT):
            db[j] += dz[s, j].item()
            for i in range(N_IN):
                dW[j][i] += dz[s, j].item() * x[s, i].item()
    same(eq.weight_gradient(dz.mT, x), dW)
    same(eq.bias_gradient(dz), db)


@each_device
@pytest.mark.parametrize("of_networks", [False, True], ids=["a number", "one a network"])
def test_descent_is_in_place(of_networks: bool, device: str) -> None:
    W, dW = random(N_OUT, N_IN, device=device), random(N_OUT, N_IN, device=device)
    lr = torch.tensor([[0.5], [0.25]], dtype=torch.float64, device=device) if of_networks else 0.5
    lrs = lr.flatten().tolist() if isinstance(lr, Tensor) else [lr, lr]
    expected = [[W[j, i].item() - lrs[j] * dW[j, i].item() for i in range(N_IN)] for j in range(N_OUT)]
    dW_before = dW.clone()
    # It also works on a parameter that requires a gradient, and leaves no graph.
    W.requires_grad_()
    version = W._version
    assert eq.descend(W, dW, lr) is W
    assert W._version > version
    assert W.grad_fn is None
    same(W.detach(), expected)
    assert torch.equal(dW, dW_before)


# Formulas that write to ``out``: the arguments they may overwrite (None: another tensor), and the arguments.
WITH_OUT: dict[str, tuple[list[str | None], list[str]]] = {
    "weighted_input": ([None], ["x", "Wt", "b"]),
    "sigmoid": ([None, "z"], ["z"]),
    "softmax": ([None, "z"], ["z"]),
    "output_error": ([None, "a"], ["a", "y"]),
    "softmax_output_error": ([None, "a"], ["a", "y"]),
    "squared_error_derivative": ([None, "a"], ["a", "y"]),
    "activation_gradient": ([None], ["dz", "W"]),
    "hidden_error": ([None, "da", "a"], ["da", "a"]),
    "weight_gradient": ([None], ["dzt", "x"]),
    "bias_gradient": ([None], ["dz"]),
}
# Descent that stores no gradient: the tensor it changes, its arguments, and the same with a gradient.
DESCENTS: dict[str, tuple[str, list[str], Callable[[dict[str, Tensor]], Tensor]]] = {
    "descend_weight": ("W", ["dzt", "x"], lambda t: t["W"] - 0.5 * eq.weight_gradient(t["dzt"], t["x"])),
    "descend_bias": ("b", ["dzt", "ones"], lambda t: t["b"] - 0.5 * eq.bias_gradient(t["dz"]).view_as(t["b"])),
}


def arguments(networks: tuple[int, ...], device: str) -> dict[str, Tensor]:
    """The arguments for one network, or for K side by side."""
    shapes = {"x": (B, N_IN), "W": (N_OUT, N_IN), "z": (B, N_OUT), "dz": (B, N_OUT), "da": (B, N_OUT)}
    t = {each: random(*networks, *shape, device=device) for each, shape in shapes.items()}
    t |= {"a": in_unit_interval(*networks, B, N_OUT, device=device), "y": in_unit_interval(*networks, B, N_OUT, device=device)}
    t["b"] = random(*networks, *([1] if networks else []), N_OUT, device=device)
    t["ones"] = torch.ones(*networks, *([1] if networks else []), B, dtype=torch.float64, device=device)
    return t | {"Wt": t["W"].mT, "dzt": t["dz"].mT}


def check_written(written: Tensor, result: Tensor, right: Tensor, t: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Checks that the result is in ``written`` and nothing else has changed. Transposes are views."""
    assert result.data_ptr() == written.data_ptr()
    assert_close(result, right)
    assert all(torch.equal(value, before[each]) for each, value in t.items() if value.data_ptr() != written.data_ptr())


@each_device
@pytest.mark.parametrize("networks", [(), (3,)], ids=["one network", "3 networks"])
@pytest.mark.parametrize("name", WITH_OUT)
def test_out(name: str, networks: tuple[int, ...], device: str) -> None:
    overs, inputs = WITH_OUT[name]
    for over in overs:
        t = arguments(networks, device)
        before = {each: value.clone() for each, value in t.items()}
        right = getattr(eq, name)(*(t[each] for each in inputs))
        written = torch.full_like(right, math.nan) if over is None else t[over]
        check_written(written, getattr(eq, name)(*(t[each] for each in inputs), out=written), right, t, before)
        # K networks side by side equal each network alone.
        for k in range(sum(networks)):
            one = [t[each][k].squeeze(0) if each == "b" else before[each][k] for each in inputs]
            assert_close(right[k], getattr(eq, name)(*one))


@each_device
@pytest.mark.parametrize("networks", [(), (3,)], ids=["one network", "3 networks"])
@pytest.mark.parametrize("name", DESCENTS)
def test_descent_without_a_gradient(name: str, networks: tuple[int, ...], device: str) -> None:
    over, inputs, expected = DESCENTS[name]
    t = arguments(networks, device)
    before, right = {each: value.clone() for each, value in t.items()}, expected(t).clone()
    check_written(t[over], getattr(eq, name)(t[over], *(t[each] for each in inputs), 0.5), right, t, before)


# Numbers, formulas and functions of the table in the module's docstring.
ROWS = re.findall(r"^(\d\.\d[a-g]?)  +(\S.*?)  +(:func:.*)$", inspect.getdoc(eq) or "", re.MULTILINE)
NAMES: dict[str, list[str]] = {number: [] for number, _, _ in ROWS}
for number, _, functions in ROWS:
    NAMES[number] += re.findall(r":func:`(\w+)`", functions)
PUBLIC = [name for name, f in inspect.getmembers(eq, inspect.isfunction) if f.__module__ == eq.__name__ and name[0] != "_"]


def test_table_has_every_equation() -> None:
    first = ["2.1", "2.2", "2.3", "2.4", "3.0", "3.1a", "3.1b", "3.1c"]
    assert [number for number, _, _ in ROWS] == first + [f"3.2{letter}" for letter in "abcdefg"] + ["4.2"] * 2 + [
        "5.1",
        "5.2",
        "5.3",
    ]


@pytest.mark.parametrize("number", NAMES)
def test_table_names_functions_that_name_their_number(number: str) -> None:
    assert NAMES[number]
    for name in NAMES[number]:
        assert name in PUBLIC
        assert number in numbers_in(name)


def numbers_in(name: str) -> list[str]:
    """The numbers after "equation" or "equations" in a docstring, such as ["3.2d", "3.2f"]."""
    lists = re.findall(r"[Ee]quations? ((?:\d\.\d[a-g]?|,| or| and| to| )+)", inspect.getdoc(getattr(eq, name)) or "")
    return [number for each in lists for number in re.findall(r"\d\.\d[a-g]?", each)]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_gives_a_number_of_the_table(name: str) -> None:
    if "eyond the text" not in (inspect.getdoc(getattr(eq, name)) or ""):
        assert numbers_in(name)
        assert set(numbers_in(name)) <= set(NAMES)
