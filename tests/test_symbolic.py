"""The equations' own code run on symbols, beside what SymPy derives.

The equations are given :class:`Symbols` in place of tensors: what SymPy compares is the code itself, not a transcript of it.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sympy as sp
import torch

from torchbp import equations as eq
from torchbp import functions as fn

LEAST_NORMAL = torch.finfo(torch.float64).tiny


class Symbols:
    """A matrix of SymPy expressions that answers to as much of a tensor's interface as the equations use."""

    dtype = torch.float64

    def __init__(self, matrix: Any) -> None:
        self.matrix = sp.Matrix([[matrix]]) if isinstance(matrix, sp.Expr) else sp.Matrix(matrix)

    def each(self, f: Callable[..., Any], *others: Any) -> "Symbols":
        """Elementwise; a number, one column or one row is broadcast."""
        tables = [self.matrix, *(o.matrix if isinstance(o, Symbols) else sp.Matrix([[o]]) for o in others)]
        rows, columns = max(m.rows for m in tables), max(m.cols for m in tables)
        return Symbols(sp.Matrix(rows, columns, lambda i, j: f(*(m[min(i, m.rows - 1), min(j, m.cols - 1)] for m in tables))))

    def __add__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: a + b, other)

    def __sub__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: a - b, other)

    def __rsub__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: b - a, other)

    def __mul__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: a * b, other)

    def __truediv__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: a / b, other)

    def __neg__(self) -> "Symbols":
        return self.each(lambda a: -a)

    def __eq__(self, other: Any) -> "Symbols":  # type: ignore[override]
        return self.each(lambda a, b: sp.Integer(a == b), other)

    __radd__, __rmul__ = __add__, __mul__

    def square(self) -> "Symbols":
        return self * self

    def log(self) -> "Symbols":
        return self.each(sp.log)

    def log1p(self) -> "Symbols":
        return self.each(lambda a: sp.log(1 + a))

    def clamp(self, min: float) -> "Symbols":
        # The bounds of logarithms and denominators, which the open interval (0, 1) does not reach.
        assert min in (eq.LOG_MIN, eq.DENOMINATOR_MIN, LEAST_NORMAL)
        return self

    def to(self, dtype: torch.dtype) -> "Symbols":
        return self

    def numel(self) -> int:
        return len(self.matrix)

    def t(self) -> "Symbols":
        return Symbols(self.matrix.T)

    def mm(self, other: "Symbols") -> "Symbols":
        return Symbols(self.matrix * other.matrix)

    def sum(self, dim: int, keepdim: bool = False) -> "Symbols":
        ones = sp.ones(1, self.matrix.rows) if dim == 0 else sp.ones(self.matrix.cols, 1)
        return Symbols(ones * self.matrix if dim == 0 else self.matrix * ones)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> "Symbols":
        return getattr(cls, f"torch_{func.__name__}")(*args)

    def torch_sigmoid(self) -> "Symbols":
        return self.each(lambda z: 1 / (1 + sp.exp(-z)))

    def torch_softplus(self) -> "Symbols":
        return self.each(lambda z: sp.log(1 + sp.exp(z)))

    def torch_softmax(self, dim: int) -> "Symbols":
        exponentials = self.each(sp.exp)
        return exponentials / exponentials.sum(dim)

    def torch_log_softmax(self, dim: int) -> "Symbols":
        return self - self.each(sp.exp).sum(dim).log()

    def torch_where(self, yes: "Symbols", no: "Symbols") -> "Symbols":
        return self.each(lambda condition, a, b: a if condition else b, yes, no)

    def torch_addmm(self, x: "Symbols", W: "Symbols") -> "Symbols":
        return self + x.mm(W)

    def torch_lerp(self, end: "Symbols", weight: "Symbols") -> "Symbols":
        return self + weight * (end - self)


def is_same(code: Any, expected: Any) -> bool:
    """Whether the two are one expression."""
    return all(sp.simplify(sp.expand_log(difference)) == 0 for difference in code.matrix - Symbols(expected).matrix)


z = sp.Symbol("z", real=True)
a, y = sp.symbols("a y", positive=True)
sigmoid = 1 / (1 + sp.exp(-z))
squared_error = (a - y) ** 2
cross_entropy = -(y * sp.log(a) + (1 - y) * sp.log(1 - a))
sA, sY, sZ = Symbols(a), Symbols(y), Symbols(z)

# Left, the code of the equations; right, SymPy's derivative of the forward equation as the text states it.
SCALARS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "3.0": (lambda: eq.sigmoid(sZ), lambda: sigmoid),
    "3.1a": (lambda: eq.squared_error(sA, sY), lambda: squared_error),
    "3.1a by a": (lambda: eq.squared_error_derivative(sA, sY), lambda: squared_error.diff(a)),
    "3.1c": (lambda: eq.cross_entropy(sA, sY), lambda: cross_entropy),
    "3.1c by y": (lambda: eq.cross_entropy_target_derivative(sA, sY), lambda: cross_entropy.diff(y)),
    "3.1c of z": (lambda: eq.cross_entropy_of_weighted_input(sZ, sY), lambda: cross_entropy.subs(a, sigmoid)),
    "3.2a": (lambda: eq.cross_entropy_derivative(sA, sY), lambda: cross_entropy.diff(a)),
    "3.2b": (lambda: eq.sigmoid_derivative(Symbols(sigmoid)), lambda: sigmoid.diff(z)),
    "3.2b at z": (lambda: eq.sigmoid_derivative_at(sZ), lambda: sigmoid.diff(z)),
    "3.2c": (lambda: eq.output_error(Symbols(sigmoid), sY), lambda: cross_entropy.subs(a, sigmoid).diff(z)),
}


@pytest.mark.parametrize("number", SCALARS)
def test_scalar_equation(number: str) -> None:
    code, derived = SCALARS[number]
    assert is_same(code(), derived())


def test_piecewise_cross_entropy_is_the_joined_one_at_its_ends() -> None:
    for end, of_text in ((1, -sp.log(a)), (0, -sp.log(1 - a))):
        piece = eq.cross_entropy_piecewise(sA, Symbols(sp.Integer(end)))
        assert is_same(piece, of_text)
        assert is_same(piece, cross_entropy.subs(y, end))


@pytest.mark.parametrize(
    ("function", "input", "cost"),
    [
        (fn.SquaredError, a, squared_error),
        (fn.CrossEntropy, a, cross_entropy),
        (fn.SigmoidCrossEntropy, z, cross_entropy.subs(a, sigmoid)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_backward_of_a_cost(function: Any, input: Any, cost: Any) -> None:
    """The Function's own backward, given symbols: the derivatives of its forward equation by both arguments, times dL."""
    dL = sp.Symbol("dL", real=True)
    ctx = SimpleNamespace(saved_tensors=(Symbols(input), sY), needs_input_grad=(True, True, False), reduction="sum")
    by_input, by_target, _ = function.backward(ctx, Symbols(dL))
    assert is_same(by_input, dL * cost.diff(input))
    assert is_same(by_target, dL * cost.diff(y))
    ctx.needs_input_grad = (True, False, False)
    tangent = function.jvp(SimpleNamespace(saved_tensors=ctx.saved_tensors, reduction="none"), Symbols(dL), sY, None)
    assert is_same(tangent, dL * cost.diff(input) + y * cost.diff(y))


def test_positives_weighted() -> None:
    """Weight times cost, and weight times error, are the weighted cost and its derivative."""
    w = sp.Symbol("w", positive=True)
    weighted = -(w * y * sp.log(a) + (1 - y) * sp.log(1 - a))
    u, target = eq.positives_weighted(sY, Symbols(w))
    assert is_same(u * eq.cross_entropy(sA, target), weighted)
    assert is_same(u * eq.output_error(Symbols(sigmoid), target), weighted.subs(a, sigmoid).diff(z))


def test_softmax_cross_entropy() -> None:
    z, y = sp.Matrix(1, 3, sp.symbols("z:3", real=True)), sp.Matrix(1, 3, sp.symbols("y:3", positive=True))
    total = sum(sp.exp(each) for each in z)
    cost = -sum(t * (each - sp.log(total)) for t, each in zip(y, z, strict=True))
    assert is_same(eq.softmax_cross_entropy(Symbols(z), Symbols(y)), cost)
    assert is_same(eq.softmax_cross_entropy_derivative(Symbols(z), Symbols(y)), [[cost.diff(each) for each in z]])


class Network:
    """The text's network, 2-2-1, for a batch of two: each formula on symbols, with the code of the equations."""

    def __init__(self) -> None:
        def symbols(name: str, rows: int, columns: int) -> sp.Matrix:
            return sp.Matrix(rows, columns, lambda i, j: sp.Symbol(f"{name}_{i}{j}", real=True))

        self.X, self.Y = symbols("x", 2, 2), symbols("y", 2, 1)
        self.parameters = symbols("V", 2, 2), symbols("c", 1, 2), symbols("W", 1, 2), symbols("b", 1, 1)
        W1, b1, W2, b2 = map(Symbols, self.parameters)
        self.A1 = eq.sigmoid(eq.weighted_input(Symbols(self.X), W1, b1))
        self.A2 = eq.sigmoid(eq.weighted_input(self.A1, W2, b2))
        dZ2 = eq.output_error(self.A2, Symbols(self.Y))
        dZ1 = eq.hidden_error(dZ2, W2, self.A1)
        self.gradients = (
            eq.weight_gradient(dZ1, Symbols(self.X)),
            eq.bias_gradient(dZ1),
            eq.weight_gradient(dZ2, self.A1),
            eq.bias_gradient(dZ2),
        )

    def cost(self) -> Any:
        """Σ -[y ln ŷ + (1 - y) ln(1 - ŷ)] over the batch, written out from 2.1 to 2.4 and 3.1c without the equations' code."""
        (W1, b1, W2, b2), total = self.parameters, 0
        for s in range(2):
            hidden = [1 / (1 + sp.exp(-(W1[j, 0] * self.X[s, 0] + W1[j, 1] * self.X[s, 1] + b1[j]))) for j in range(2)]
            out = 1 / (1 + sp.exp(-(W2[0] * hidden[0] + W2[1] * hidden[1] + b2[0])))
            total -= self.Y[s] * sp.log(out) + (1 - self.Y[s]) * sp.log(1 - out)
        return total


def is_zero(difference: Any, exponentials: int) -> bool:
    """Whether an expression is zero, as a fraction in so many exponentials of z."""
    # Outer ones come before those they hold.
    found = sorted(difference.atoms(sp.exp), key=sp.count_ops, reverse=True)
    assert len(found) == exponentials
    return sp.expand(sp.numer(sp.together(difference.subs([(each, sp.Dummy()) for each in found])))) == 0


@pytest.mark.parametrize(("i", "name"), [(0, "dW1"), (1, "db1"), (2, "dW2"), (3, "db2")])
def test_gradient_of_the_network(i: int, name: str) -> None:
    network = Network()
    assert network.gradients[i].matrix.shape == network.parameters[i].shape
    for parameter, gradient in zip(network.parameters[i], network.gradients[i].matrix, strict=True):
        # Each of the two samples has two z1 and one z2.
        assert is_zero(network.cost().diff(parameter) - gradient, exponentials=6)


def test_error_carried_back_through_the_network() -> None:
    """3.2c and 3.2e as matrices: the cost's derivatives by each entry of Z2, and of Z1, with all before them left out."""
    shapes = {"z": (2, 2), "w": (1, 2), "b": (1, 1), "y": (2, 1)}
    Z1, W2, b2, Y = (sp.Matrix(sp.symarray(name, shape)) for name, shape in shapes.items())
    A1 = eq.sigmoid(Symbols(Z1))
    Z2 = eq.weighted_input(A1, Symbols(W2), Symbols(b2))
    dZ2 = eq.output_error(eq.sigmoid(Z2), Symbols(Y))
    dZ1 = eq.hidden_error(dZ2, Symbols(W2), A1)
    for s in range(2):
        z2 = W2[0] / (1 + sp.exp(-Z1[s, 0])) + W2[1] / (1 + sp.exp(-Z1[s, 1])) + b2[0]
        cost = cross_entropy.subs({a: sigmoid, y: Y[s]})
        assert is_zero(cost.diff(z).subs(z, z2) - dZ2.matrix[s], exponentials=3)
        for j in range(2):
            assert is_zero(cost.subs(z, z2).diff(Z1[s, j]) - dZ1.matrix[s, j], exponentials=3)
