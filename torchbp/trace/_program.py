"""Converts formulas to nested lists that the page's JavaScript evaluates: ``A2 - Y`` to ``["-", "A2", "Y"]``."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import sympy

from torchbp.activations import Activation
from torchbp.trace._formula import greek, named, parsed, plain

__all__ = ["derivatives", "operands", "program"]

OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@",
    ast.Gt: ">", ast.Lt: "<", ast.GtE: ">=", ast.LtE: "<=", ast.Eq: "==",
}  # fmt: skip
# SymPy's names; page.js or JavaScript's Math has a function of each name.
FUNCTIONS = {
    "sum", "rows", "total", "times", "Max", "Min", "Abs", "Heaviside", "erf", "erfc", "exp", "log", "sqrt", "sign", "floor",
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
}  # fmt: skip


def program(formula: str, m: int, known: Mapping[str, str]) -> Any:
    """The program of a formula's last side. Names, ``d(x)`` and ``partial(x, y)`` become symbols of steps.

    Args:
        formula: in the syntax of :mod:`torchbp.trace._formula`.
        m: the number of costs in a mean.
        known: formulas to insert for parts of this one, such as ``partial(g, β1)``.

    Raises:
        ValueError: the formula has a function that the page cannot compute.
    """
    return _program(parsed(formula)[-1], m, known)


def _program(node: ast.expr, m: int, known: Mapping[str, str]) -> Any:
    def of(part: ast.expr) -> Any:
        return _program(part, m, known)

    text = ast.unparse(node)
    if text in known:
        return program(known[text], m, {})
    match node:
        case ast.Constant(int() | float() as value):
            return float(value)
        case ast.Name("m" | "pi" as name):
            return float(m) if name == "m" else 3.141592653589793
        case ast.Name() | ast.Call(ast.Name("d" | "partial")):
            return plain(text)
        case ast.UnaryOp(ast.USub(), inner):
            return ["-", 0.0, of(inner)]
        case ast.BinOp(left, operator, right) | ast.Compare(left, [operator], [right]):
            return [OPERATORS[type(operator)], of(left), of(right)]
        case ast.Attribute(inner, "T"):
            return ["T", of(inner)]
        case ast.Call(ast.Name("mean"), [inner]):
            return ["/", ["total", of(inner)], float(m)]
        case ast.Call(ast.Name("Piecewise"), pairs):
            return ["cases", *(of(part) for pair in pairs if isinstance(pair, ast.Tuple) for part in pair.elts)]
        case ast.Call(ast.Name(name), arguments) if name in FUNCTIONS:
            return [name, *map(of, arguments)]
    raise ValueError(f"a formula has {text!r}, which the page cannot compute; it may have {', '.join(sorted(FUNCTIONS))}")


def operands(formula: str) -> list[str]:
    """The symbols in the last side of a formula, in order, without repeats.

    >>> operands("d(Z1) = times(d(Z2) @ W2, A1*(1 - A1))")
    ['dZ2', 'W2', 'A1']
    """
    return list(dict.fromkeys(_operands(parsed(formula)[-1])))


def _operands(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Call(ast.Name("partial"), [ast.Name("g"), *_]):
            return
        case ast.Name(name) if name in ("m", "pi"):
            return
        case ast.Name() | ast.Call(ast.Name("d" | "partial")):
            yield plain(ast.unparse(node))
        case ast.Call(_, arguments):
            for argument in arguments:
                yield from _operands(argument)
        case _:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    yield from _operands(child)


def derivatives(g: Activation, layer: int) -> dict[str, str]:
    """∂g/∂θ for each learnable parameter, from SymPy, with a layer's symbols: the formula of ``partial(g, β1)``.

    Raises:
        ValueError: the formula is a sum over a table, which the page cannot compute.
    """
    if not g.parameters:
        return {}
    if "Sum(" in g.formula:
        raise ValueError(f"activation {g.name} is a table of values, which the page cannot compute; use --markdown")
    symbols = {name: sympy.Symbol(name) for name in ("z", *g.parameters)}
    formula = sympy.sympify(g.formula, locals=symbols)
    names = {"z": f"Z{layer}", **{name: f"{greek(name)}{layer}" for name in g.parameters}}
    return {f"partial(g, {names[name]})": named(str(sympy.diff(formula, symbols[name])), names) for name in g.parameters}
