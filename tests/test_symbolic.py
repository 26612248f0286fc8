"""The code of every entry and of the iteration, run on symbols and compared with SymPy's derivatives of the formulas."""

import contextlib
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sympy as sp
import torch
from symbols import Symbols, intervals, is_same, parsed, resolved

from torchbp import equations as eq
from torchbp import functions as fn
from torchbp.activations import ACTIVATIONS, Activation, elementwise
from torchbp.iteration import Collect, Network, backward, forward, layers_of
from torchbp.outputs import CROSS_ENTROPY_OF_ACTIVATION, OUTPUTS, Output
from torchbp.recurrence import errors, states

z, dL = sp.symbols("z dL", real=True)
a, y = sp.symbols("a y", positive=True)
sigmoid = 1 / (1 + sp.exp(-z))
cross_entropy = -(y * sp.log(a) + (1 - y) * sp.log(1 - a))
sA, sY = Symbols(a), Symbols(y)
ONE = Symbols(sp.Integer(1))

# A table of values is no elementwise formula; test_activations compares it with its reference and finite differences.
FORMULAS = {name: g for name, g in ACTIVATIONS.items() if all(len(p.initial) == 1 for p in g.parameters.values())}
ALL_OUTPUTS = [*OUTPUTS.values(), CROSS_ENTROPY_OF_ACTIVATION]
each_activation = pytest.mark.parametrize("g", FORMULAS.values(), ids=FORMULAS)


@each_activation
def test_activation(g: Activation) -> None:
    """Value, slope, ``slope_formula`` and the derivative by each parameter equal those that SymPy derives from ``formula``."""
    theta = {name: sp.Symbol(name, real=True) for name in g.parameters}
    thetas = [Symbols(each) for each in theta.values()]
    for at, variable in intervals(parsed(g.formula, z=z, **theta), z):
        value = resolved(parsed(g.formula, z=at, **theta))
        slope = value.diff(variable) / at.diff(variable)
        activation = g.value(Symbols(at), *thetas)
        assert is_same(activation, value)
        assert is_same(g.slope(activation if g.keeps == "a" else Symbols(at), *thetas), slope)
        assert is_same(Symbols(resolved(parsed(g.slope_formula, z=at, a=value, **theta))), slope)
        for name, parameter in g.parameters.items():
            assert is_same(parameter.gradient(Symbols(dL), Symbols(at), *thetas), dL * value.diff(theta[name]))
            assert is_same(parameter.tangent(Symbols(dL), Symbols(at), *thetas), dL * value.diff(theta[name]))


@pytest.mark.parametrize("output", ALL_OUTPUTS, ids=lambda output: f"{output.name}-{output.cost}")
def test_output(output: Output) -> None:
    """The prediction, the cost, its error and its target derivative equal those that SymPy derives from the formulas."""
    classes = 3 if output.mean == "rows" else 1
    zs, ys = sp.symbols(f"z:{classes}", real=True), sp.symbols(f"y:{classes}", positive=True)
    if output is CROSS_ENTROPY_OF_ACTIVATION:
        zs = sp.symbols("a:1", positive=True)
    activation = parsed(output.activation_formula if output.g is None else output.g.formula, z=z)
    cost_of_each = parsed(output.formula, a=a, z=z, y=y)
    of_z = cost_of_each.subs(a, activation).subs({z: zs[0], y: ys[0]})
    for at, variables in [(zs, zs)] if classes > 1 else [((at,), (t,)) for at, t in intervals(of_z, zs[0])]:
        Z, Y = Symbols([at]), Symbols([ys])
        A = output.activation(Z)
        rows = at, A.matrix, ys
        assert is_same(A, [[at_class(activation, j, *rows) for j in range(classes)]])
        cost = at_class(cost_of_each, 0, *rows)
        assert is_same(output.value(Z, A, Y), cost)
        error = [cost.diff(t) / each.diff(t) for each, t in zip(at, variables, strict=True)]
        assert is_same(output.error(Z, A, Y), [error])
        assert is_same(output.target_derivative(Z, A, Y), [[cost.diff(each) for each in ys]])
        formula = output.error_formula
        if output.error_formula == "":  # the derivative by activations, times g'(z)
            assert output.g is not None
            assert output.of_activation is not None
            formula = f"({output.of_activation.error_formula}) * ({output.g.slope_formula})"
        written = parsed(formula, a=a, z=z, y=y)
        assert is_same(Symbols([[at_class(written, j, *rows) for j in range(classes)]]), [error])


def at_class(formula: Any, j: int, zs: Any, activations: Any, ys: Any) -> Any:
    """A formula of one output; ``sum`` is over the row."""
    each_class = [dict(zip((z, a, y), values, strict=True)) for values in zip(zs, activations, ys, strict=True)]
    formula = formula.replace(sp.Function("sum"), lambda term: sum(term.subs(values) for values in each_class))
    return resolved(formula.subs(each_class[j]))


# Left: the equations' code. Right: SymPy's derivative of the forward equation in the text.
SCALARS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "3.1c of z": (lambda: eq.cross_entropy_of_weighted_input(Symbols(z), sY), lambda: cross_entropy.subs(a, sigmoid)),
    "3.2a": (lambda: eq.cross_entropy_derivative(sA, sY), lambda: cross_entropy.diff(a)),
    "3.2b": (lambda: eq.sigmoid_derivative(Symbols(sigmoid)), lambda: sigmoid.diff(z)),
    "3.2b at z": (lambda: eq.sigmoid_derivative_at(Symbols(z)), lambda: sigmoid.diff(z)),
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


def test_positives_weighted() -> None:
    """Weight * cost and weight * error are the weighted cost and its derivative."""
    w = sp.Symbol("w", positive=True)
    weighted = -(w * y * sp.log(a) + (1 - y) * sp.log(1 - a))
    u, target = eq.positives_weighted(sY, Symbols(w))
    assert is_same(u * eq.cross_entropy(sA, target), weighted)
    assert is_same(u * eq.output_error(Symbols(sigmoid), target), weighted.subs(a, sigmoid).diff(z))


def test_softmax() -> None:
    zs = sp.symbols("z:3", real=True)
    assert is_same(eq.softmax(Symbols([zs])), [[sp.exp(each) / sum(map(sp.exp, zs)) for each in zs]])


# Unknown functions with known derivatives: a proof with them holds for every entry.


def unknown_function(name: str, arguments: int) -> Any:
    """An unknown f of this many arguments, with its derivatives as attributes f1, f2, ...."""
    derivatives = [sp.Function(f"{name}_{i + 1}") for i in range(arguments)]
    return type(name, (sp.Function,), {"fdiff": lambda self, i=1: derivatives[i - 1](*self.args), "derivatives": derivatives})


g_of, h_of, cost_of = unknown_function("g", 2), unknown_function("h", 1), unknown_function("C", 2)


def in_place(result: Symbols, out: Symbols | None) -> Symbols:
    return result if out is None else out.copy_(result)


# One activation with a parameter and a slope from z; one with a slope from a, which maps back to its z.
G = Activation(
    "g",
    "g(z, theta)",
    "",
    value=lambda z, theta, out=None: in_place(z.each(g_of, theta), out),
    slope=lambda z, theta: z.each(g_of.derivatives[0], theta),
    reference=torch.tanh,
    parameters={"theta": elementwise(0.0, lambda z, theta: z.each(g_of.derivatives[1], theta))},
)
H = Activation(
    "h",
    "h(z)",
    "",
    value=lambda z, out=None: in_place(z.each(h_of), out),
    slope=lambda a: a.each(lambda each: h_of.derivatives[0](each.args[0])),
    reference=torch.tanh,
    keeps="a",
)
LAST = dataclasses.replace(
    OUTPUTS["squared_error", "linear"],
    value=lambda z, a, y: z.each(cost_of, y),
    error=lambda z, a, y, out=None: z.each(cost_of.derivatives[0], y),
    target_derivative=lambda z, a, y: z.each(cost_of.derivatives[1], y),
)


def matrix(name: str, rows: int, columns: int) -> sp.Matrix:
    return sp.Matrix(rows, columns, lambda i, j: sp.Symbol(f"{name}_{i}{j}", real=True))


class Spoil(Collect):
    """Keeps every gradient and changes the parameter at once, as descent in place does."""

    def __init__(self, parameters: list[Symbols]) -> None:
        super().__init__([True] * len(parameters))
        self.parameters = parameters

    def product(self, slot: int, dzt: Any, x: Any) -> None:
        super().product(slot, dzt, x)
        self.parameters[slot].mul_(sp.Symbol("changed"))

    def other(self, slot: int, gradient: Any) -> None:
        super().other(slot, gradient)
        self.parameters[slot].mul_(sp.Symbol("changed"))


@pytest.mark.parametrize("writes_over", [False, True], ids=["new memory", "in place"])
@pytest.mark.parametrize("units", [1, 2], ids=["per layer", "per unit"])
def test_every_network(units: int, writes_over: bool) -> None:
    """The iteration that training runs, for a 2-2-2-1 network with any activations and cost, and a batch of two."""
    X, Y = matrix("x", 2, 2), matrix("y", 2, 1)
    shapes = {"U": (2, 2), "a": (1, 2), "theta": (1, units), "V": (2, 2), "b": (1, 2), "W": (1, 2), "c": (1, 1)}
    parameters = [matrix(name, *shape) for name, shape in shapes.items()]
    U, b1, theta, V, b2, W, b3 = parameters
    cost = 0  # written out from 2.1 to 3.1, without the equations' code
    for x, y in zip(X.tolist(), Y, strict=True):
        first = [g_of(U[j, 0] * x[0] + U[j, 1] * x[1] + b1[j], theta[min(j, units - 1)]) for j in range(2)]
        second = [h_of(V[j, 0] * first[0] + V[j, 1] * first[1] + b2[j]) for j in range(2)]
        cost += cost_of(W[0] * second[0] + W[1] * second[1] + b3[0], y)

    # Without a graph, results overwrite tensors that are no longer needed.
    with torch.no_grad() if writes_over else contextlib.nullcontext():
        given = [Symbols(each) for each in parameters]
        layers, sink = layers_of(Network((G, H), LAST), given), Spoil(given)
        Z = forward(layers, Symbols(X))
        dx = backward(layers, LAST.error(Z, Z, Symbols(Y)), sink, to_input=True)
    for gradient, parameter in zip([dx, *sink.gradients], [X, *parameters], strict=True):
        assert gradient.shape == parameter.shape
        assert all(sp.expand(cost.diff(p) - d) == 0 for p, d in zip(parameter, gradient.matrix, strict=True))


class Steps(list[Symbols]):
    """A sequence of symbols with the part of a (T, B, m) tensor's interface that equation 5.3 uses."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self), *self[0].shape)

    def __getitem__(self, at: Any) -> Any:
        return Steps(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)

    def reshape(self, *shape: int) -> Symbols:
        return Symbols(sp.Matrix.vstack(*(step.matrix for step in self)))


@pytest.mark.parametrize("writes_over", [False, True], ids=["new memory", "in place"])
@pytest.mark.parametrize("keeps", ["a", "z"])
def test_backpropagation_through_time(keeps: str, writes_over: bool) -> None:
    """5.1 to 5.3 of a 2-2 recurrent layer for T = 3 steps, any activation, any cost of all states, and a batch of two."""
    T, X, h = 3, [matrix(f"x{t}", 2, 2) for t in range(3)], matrix("h", 2, 2)
    Wi, Wh, bi, bh, theta = matrix("V", 2, 2), matrix("W", 2, 2), matrix("b", 1, 2), matrix("c", 1, 2), matrix("theta", 1, 1)
    g, thetas = (H, []) if keeps == "a" else (G, [Symbols(theta)])
    activation = h_of if keeps == "a" else lambda z: g_of(z, theta[0])
    written: Any = [h]  # 5.1 written out, without the equations' code
    for x in X:
        z = x * Wi.T + written[-1] * Wh.T + sp.Matrix.vstack(bi + bh, bi + bh)
        written.append(z.applyfunc(activation))
    cost = sum(cost_of(a, y) for a, y in zip((a for step in written[1:] for a in step), sp.symbols(f"y:{4 * T}"), strict=True))
    ys = iter(sp.symbols(f"y:{4 * T}"))
    above = [Symbols(step.applyfunc(lambda a: cost_of.derivatives[0](a, next(ys)))) for step in written[1:]]

    sx, sh, sWh = [Symbols(step) for step in X], Symbols(h), Symbols(Wh)
    z = [eq.weighted_input(step, Symbols(Wi).mT, Symbols(bi) + Symbols(bh)) for step in sx]
    into = z if writes_over and keeps == "a" else [Symbols(sp.zeros(2, 2)) for _ in z] if writes_over else None
    a = Steps(states(z, sh, sWh.mT, g.value, thetas, into=into))
    kept = a if keeps == "a" else z  # in place: each z holds Z_t now
    if keeps == "z" and not writes_over:
        again = [eq.weighted_input(step, Symbols(Wi).mT, Symbols(bi) + Symbols(bh)) for step in sx]
        kept = [eq.recurrent_input(zt, before, sWh.mT) for zt, before in zip(again, [sh, *a], strict=False)]
    dA, dZ = errors(above, kept, sWh, g.error, thetas, [Symbols(sp.zeros(2, 2)) for _ in range(T)] if writes_over else None)
    dZ = Steps(dZ)
    rows = dZ.reshape()
    found = {
        "X": [eq.activation_gradient(dz, Symbols(Wi)) for dz in dZ],
        "h": eq.activation_gradient(dZ[0], sWh),
        "Wi": eq.weight_gradient(rows.mT, Steps(sx).reshape()),
        "Wh": eq.recurrent_weight_gradient(dZ, a, sh),
        "b": eq.bias_gradient(rows),
    }
    expected = {"h": h, "Wi": Wi, "Wh": Wh, "b": bi}
    pairs = [(p, d) for name, each in expected.items() for p, d in zip(each, found[name].matrix, strict=True)]
    pairs += [(p, d) for each, of in zip(X, found["X"], strict=True) for p, d in zip(each, of.matrix, strict=True)]
    if keeps == "z":
        gradient = g.parameters["theta"].gradient(Steps(dA).reshape(), Steps(kept).reshape(), *thetas)
        pairs.append((theta[0], gradient.sum_to_size((1, 1)).matrix[0]))
    assert all(sp.expand(cost.diff(p) - d) == 0 for p, d in pairs)


def test_the_functions_carry_every_derivative() -> None:
    """The single Functions' own backward and jvp, for any activation and any cost."""
    theta, dtheta = sp.symbols("theta dtheta", real=True)
    z_theta = Symbols(z), Symbols(theta)
    function = fn.activation_function(G)
    value, ctx = g_of(z, theta), SimpleNamespace(saved_tensors=z_theta, needs_input_grad=(True, True))
    for found, by in zip(function.backward(ctx, Symbols(dL)), (z, theta), strict=True):
        assert is_same(found, dL * value.diff(by))
    tangent = function.jvp(ctx, Symbols(dL), Symbols(dtheta))
    assert is_same(tangent, dL * value.diff(z) + dtheta * value.diff(theta))

    function, cost = fn.cost_function(LAST), cost_of(z, y)
    ctx = SimpleNamespace(saved_tensors=(Symbols(z), sY), needs_input_grad=(True, True, False), reduction="none")
    by_input, by_target, _ = function.backward(ctx, Symbols(dL))
    assert is_same(by_input, dL * cost.diff(z))
    assert is_same(by_target, dL * cost.diff(y))
    assert is_same(function.jvp(ctx, Symbols(dL), sY, None), dL * cost.diff(z) + y * cost.diff(y))


@pytest.mark.parametrize("i", range(4), ids=["dW1", "db1", "dW2", "db2"])
def test_gradient_of_the_texts_network(i: int) -> None:
    """2-2-1, sigmoid with cross-entropy, for a batch of two: the whole text at once."""
    X, Y = matrix("x", 2, 2), matrix("y", 2, 1)
    parameters = matrix("V", 2, 2), matrix("c", 1, 2), matrix("W", 1, 2), matrix("b", 1, 1)
    network = Network((ACTIVATIONS["sigmoid"],), OUTPUTS["cross_entropy", "sigmoid"])
    layers, sink = layers_of(network, [Symbols(each) for each in parameters]), Collect([True] * 4)
    Z = forward(layers, Symbols(X))
    backward(layers, network.output.error(Z, network.output.activation(Z), Symbols(Y)), sink)

    (W1, b1, W2, b2), cost = parameters, 0
    for s in range(2):
        hidden = [1 / (1 + sp.exp(-(W1[j, 0] * X[s, 0] + W1[j, 1] * X[s, 1] + b1[j]))) for j in range(2)]
        out = 1 / (1 + sp.exp(-(W2[0] * hidden[0] + W2[1] * hidden[1] + b2[0])))
        cost -= Y[s] * sp.log(out) + (1 - Y[s]) * sp.log(1 - out)
    for parameter, gradient in zip(parameters[i], sink.gradients[i].matrix, strict=True):
        difference = cost.diff(parameter) - gradient
        # Exponentials are replaced by symbols: each sample has two z1 and one z2; outer ones come before inner ones.
        found = sorted(difference.atoms(sp.exp), key=sp.count_ops, reverse=True)
        assert len(found) == 6
        assert sp.expand(sp.numer(sp.together(difference.subs([(each, sp.Dummy()) for each in found])))) == 0
