"""Converts formulas in Python's syntax, as in the entries of activations and outputs, to plain text and LaTeX.

Besides SymPy's functions a formula may have ``x @ y`` for a matrix product, ``x.T``, ``times(x, y)`` for an elementwise
product, ``d(x)`` for ∂L/∂x, ``partial(x, y)`` for ∂x/∂y, ``g(z, θ...)``, ``mean(x)`` for 1/m Σ x, and the sums ``sum(x)`` over
each row, ``rows(x)`` over the rows, ``total(x)`` over all entries and ``Sum(x, k)`` over an index.
"""

import ast
import re
import unicodedata
from collections.abc import Mapping

__all__ = ["Plain", "greek", "latex", "named", "parsed", "plain", "set_by"]

# Operator precedence, lowest first; a part gets brackets where a higher precedence is needed.
ADD, SIGMA, PREFIX, DIVIDE, PRODUCT, POWER, ATOM = range(7)
SUPERSCRIPT = {2: "²", 3: "³"}
FUNCTIONS = {"log": "ln", "atan": "arctan", "asinh": "arcsinh"}
OF_LATEX = {"ln", "max", "min", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arctan"}


def named(formula: str, names: Mapping[str, str]) -> str:
    """The formula with its names replaced, also names with an index, such as ``values`` in ``values_k``."""

    def other(found: re.Match[str]) -> str:
        name, _, index = found[0].partition("_")
        return names.get(found[0]) or (f"{names[name]}_{index}" if index and name in names else found[0])

    return re.sub(r"[^\W\d]\w*", other, formula)


def plain(formula: str) -> str:
    """A formula as plain text.

    >>> plain("times(d(Z2) @ W2, A1*(1 - A1))")
    '(dZ2 W2) * A1(1 - A1)'
    """
    return set_by(Plain(), formula)


def latex(formula: str) -> str:
    """A formula as LaTeX, without a backslash before punctuation, which Markdown would remove.

    >>> print(latex("d(Z2).T @ A1"))
    \\left(\\frac{\\partial L}{\\partial Z_2}\\right)^\\top A_1
    """
    return set_by(_Latex(), formula)


def parsed(formula: str) -> list[ast.expr]:
    """The sides of ``x = y``, or the formula itself if it has no ``=``.

    Raises:
        ValueError: it is not a formula.
    """
    try:
        return [ast.parse(side, mode="eval").body for side in formula.split(" = ")]
    except SyntaxError:
        raise ValueError(f"the formula {formula!r} cannot be read; it must be in SymPy's syntax") from None


def set_by(setter: "Plain", formula: str) -> str:
    """A formula in the notation of ``setter``."""
    return f" {setter.operator('=')} ".join(setter.part(side)[0] for side in parsed(formula))


class Plain:
    """Writes a formula as plain text; :meth:`part` gives the text of a part, and its precedence."""

    sigma, over_row, over_rows, mean, times, dot, gap = "Σ", "Σ_row", "Σ_rows", "1/m Σ", "*", "·", " "

    def within(self, node: ast.expr, least: int) -> str:
        """The text of a part, in brackets if its precedence is below ``least``."""
        text, precedence = self.part(node)
        if precedence >= least:
            return text
        return self.square(text) if precedence == ADD and "(" in text else self.brackets(text)

    def part(self, node: ast.expr) -> tuple[str, int]:
        positive = _without_minus(node)
        if positive is not None:
            return f"{self.operator('-')}{self.within(positive, SIGMA)}", ADD
        match node:
            case ast.Name(name):
                return self.name(name), ATOM
            case ast.Constant(value):
                return self.number(str(value)), ATOM
            case ast.Attribute(value=inner, attr="T"):
                return self.transposed(inner), ATOM
            case ast.Compare(left, [operator], [right]):
                sign = {ast.Gt: ">", ast.Lt: "<", ast.GtE: "≥", ast.LtE: "≤", ast.Eq: "="}[type(operator)]
                return f"{self.within(left, ADD)} {self.operator(sign)} {self.within(right, ADD)}", ADD
            case ast.BinOp(left, ast.Add() | ast.Sub() as operator, right):
                sign = "+" if isinstance(operator, ast.Add) else "-"
                return f"{self.within(left, ADD)} {self.operator(sign)} {self.within(right, SIGMA)}", ADD
            case ast.BinOp(left, ast.MatMult(), right):
                return f"{self.within(left, PRODUCT)}{self.gap}{self.within(right, PRODUCT)}", PRODUCT
            case ast.BinOp(left, ast.Mult(), right):
                return self.juxtaposed(left, right)
            case ast.BinOp(left, ast.Div(), right):
                return self.quotient(left, right)
            case ast.BinOp(base, ast.Pow(), exponent):
                return self.power(base, exponent), POWER
            case ast.Call(ast.Name(name), arguments):
                return self.call(name, arguments)
        raise ValueError(f"a formula has {ast.unparse(node)!r}, which cannot be shown")

    def juxtaposed(self, left: ast.expr, right: ast.expr) -> tuple[str, int]:
        before, after = self.within(left, PRODUCT), self.within(right, PREFIX)
        first = self.bare(after)[0]
        between = "" if first in "([" else self.dot if first.isdigit() else self.gap
        precedence = self.part(right)[1]
        return before + between + after, precedence if PREFIX <= precedence < PRODUCT else PRODUCT

    def quotient(self, top: ast.expr, bottom: ast.expr) -> tuple[str, int]:
        return f"{self.within(top, DIVIDE)} / {self.within(bottom, POWER)}", DIVIDE

    def call(self, name: str, arguments: list[ast.expr]) -> tuple[str, int]:
        first = arguments[0]
        match name:
            case "sum" | "rows" | "total" | "Sum" | "mean":
                return self.sum(name, *arguments), SIGMA
            case "log" if isinstance(first, ast.Name):
                return f"{self.function('ln')}{self.gap}{self.part(first)[0]}", PREFIX
            case "exp":
                return self.exponential(first), POWER
            case "times":
                return f"{self.within(first, POWER)} {self.times} {self.within(arguments[1], PRODUCT)}", PRODUCT
            case "sqrt":
                return self.root(first), ATOM
            case "Abs":
                return self.absolute(first), ATOM
            case "d":
                return self.derivative(first), ATOM
            case "partial":
                return self.partial(*(self.part(argument)[0] for argument in arguments)), ATOM
            case "Piecewise":
                return self.cases([self.case(*pair.elts) for pair in arguments if isinstance(pair, ast.Tuple)]), ATOM
        of, *others = (self.part(argument)[0] for argument in arguments)
        separator = "; " if name == "g" and others else ", " if others else ""
        inner = of + self.separator(separator) + self.separator(", ").join(others)
        return self.function(FUNCTIONS.get(name, name.lower())) + self.brackets(inner), ATOM

    def sum(self, name: str, of: ast.expr, index: ast.expr | None = None) -> str:
        if name == "mean" and isinstance(of, ast.Call) and ast.unparse(of.func) == "sum":
            of = of.args[0]  # a mean over rows of sums over each row is one sum
        signs = {"sum": self.over_row, "rows": self.over_rows, "mean": self.mean}
        sign = f"{self.sigma}_{self.part(index)[0]}" if index else signs.get(name, self.sigma)
        return f"{sign} {self.within(of, SIGMA if name != 'mean' else PREFIX)}"

    def case(self, value: ast.expr, condition: ast.expr) -> str:
        if isinstance(condition, ast.Constant):
            return self.part(value)[0] + self.word("else")
        return f"{self.part(value)[0]}{self.word('if')} {self.part(condition)[0]}"

    # LaTeX and MathML override these.

    def name(self, name: str) -> str:
        return "π" if name == "pi" else name

    def bare(self, text: str) -> str:
        return text

    def number(self, digits: str) -> str:
        return digits

    def operator(self, sign: str) -> str:
        return sign

    def separator(self, sign: str) -> str:
        return sign

    def brackets(self, text: str) -> str:
        return f"({text})"

    def square(self, text: str) -> str:
        return f"[{text}]"

    def cases(self, cases: list[str]) -> str:
        return f"({'; '.join(cases)})"

    def word(self, word: str) -> str:
        return f" {word}"

    def function(self, name: str) -> str:
        return name

    def transposed(self, node: ast.expr) -> str:
        return f"{self.within(node, ATOM)}ᵀ"

    def derivative(self, node: ast.expr) -> str:
        return f"d{self.part(node)[0]}"

    def partial(self, of: str, by: str) -> str:
        return f"∂{of}/∂{by}"

    def power(self, base: ast.expr, exponent: ast.expr) -> str:
        if isinstance(exponent, ast.Constant) and exponent.value in SUPERSCRIPT:
            return self.within(base, ATOM) + SUPERSCRIPT[exponent.value]  # type: ignore[index]
        return f"{self.within(base, ATOM)}^{self.within(exponent, ATOM)}"

    def exponential(self, exponent: ast.expr) -> str:
        positive = _without_minus(exponent)
        bare = isinstance(exponent if positive is None else positive, ast.Name)
        return f"e^{self.part(exponent)[0]}" if bare else f"e^({self.part(exponent)[0]})"

    def root(self, node: ast.expr) -> str:
        return f"√{self.within(node, ATOM)}"

    def absolute(self, node: ast.expr) -> str:
        return f"|{self.part(node)[0]}|"


class _Latex(Plain):
    """Writes a formula as LaTeX."""

    sigma, over_row, over_rows = r"\sum", r"\sum_{\text{row}}", r"\sum_{\text{rows}}"
    mean, times, dot = r"\frac{1}{m} \sum", r"\odot", r" \cdot "

    def name(self, name: str) -> str:
        base, number, index = re.fullmatch(r"([^\W\d_]+)(\d*)_?(\w*)", name).groups()  # type: ignore[union-attr]
        below = ",".join(part for part in (number, index) if part)
        below = f"_{{{below}}}" if len(below) > 1 else f"_{below}" if below else ""
        if not base.isascii():
            return f"\\{unicodedata.name(base).rpartition(' ')[2].lower()}{below}"
        return r"\pi" if name == "pi" else base + below if len(base) == 1 else rf"\mathrm{{{base}{below}}}"

    def operator(self, sign: str) -> str:
        return {"≥": r"\ge", "≤": r"\le"}.get(sign, sign)

    def word(self, word: str) -> str:
        return rf" \text{{ {word} }}"

    def function(self, name: str) -> str:
        return f"\\{name}" if name in OF_LATEX else name if len(name) == 1 else rf"\mathrm{{{name}}}"

    def quotient(self, top: ast.expr, bottom: ast.expr) -> tuple[str, int]:
        if isinstance(bottom, ast.Name | ast.Constant):
            return super().quotient(top, bottom)
        return rf"\frac{{{self.part(top)[0]}}}{{{self.part(bottom)[0]}}}", PRODUCT

    def transposed(self, node: ast.expr) -> str:
        text = self.within(node, ATOM)
        return (rf"\left({text}\right)" if isinstance(node, ast.Call) else text) + r"^\top"

    def derivative(self, node: ast.expr) -> str:
        return self.partial("L", self.part(node)[0])

    def partial(self, of: str, by: str) -> str:
        return rf"\frac{{\partial {of}}}{{\partial {by}}}"

    def power(self, base: ast.expr, exponent: ast.expr) -> str:
        power = self.part(exponent)[0]
        return f"{self.within(base, ATOM)}^{power}" if len(power) == 1 else f"{self.within(base, ATOM)}^{{{power}}}"

    def exponential(self, exponent: ast.expr) -> str:
        return f"e^{{{self.part(exponent)[0]}}}"

    def root(self, node: ast.expr) -> str:
        return rf"\sqrt{{{self.part(node)[0]}}}"

    def absolute(self, node: ast.expr) -> str:
        return rf"\vert {self.part(node)[0]} \vert"


def _without_minus(node: ast.expr) -> ast.expr | None:
    """x of a formula -x, such as a*b of -a*b; None if there is no minus before it."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        positive = _without_minus(node.left)
        return None if positive is None else ast.BinOp(positive, node.op, node.right)
    return None


def greek(name: str) -> str:
    """The Greek letter with this name, such as β for ``beta``; any other name as it is."""
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {name}")
    except KeyError:
        return name
