"""Matrices of SymPy expressions in place of tensors, so that SymPy can compare the code itself with its own derivatives.

A formula is compared on each interval between its kinks. There z is written in terms of a positive variable, so that SymPy
decides every comparison. A limit of ``clamp`` within an interval guards against overflow and is ignored here; tests over the
whole range of numbers show that it changes nothing.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import sympy as sp
import torch

CONSTANTS = [sp.Integer(1), sp.sqrt(2), sp.sqrt(sp.pi), sp.sqrt(2 * sp.pi), sp.sqrt(2 / sp.pi), sp.pi, sp.log(2), sp.E]

# PyTorch's elementwise functions in SymPy; ``where``, ``clamp`` and functions that make matrices are methods.
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{name: getattr(sp, name) for name in ("exp", "log", "sin", "cos", "tanh", "sinh", "cosh", "atan", "erf", "erfc", "sqrt")},
    "abs": sp.Abs,
    "add": lambda a, b: a + b,
    "atan2": sp.atan2,
    "div": lambda a, b: a / b,
    "expm1": lambda a: sp.exp(a) - 1,
    "lerp": lambda a, b, weight: a + weight * (b - a),
    "log1p": lambda a: sp.log(1 + a),
    "logaddexp": lambda a, b: sp.log(sp.exp(a) + sp.exp(b)),
    "logsigmoid": lambda a: -sp.log(1 + sp.exp(-a)),
    "maximum": sp.Max,
    "minimum": sp.Min,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "pow": lambda a, b: a**b,
    "reciprocal": lambda a: 1 / a,
    "relu": lambda a: sp.Max(a, 0),
    "rsqrt": lambda a: 1 / sp.sqrt(a),
    "sigmoid": lambda a: 1 / (1 + sp.exp(-a)),
    "sign": sp.sign,
    "softplus": lambda a: sp.log(1 + sp.exp(a)),
    "square": lambda a: a**2,
    "sub": lambda a, b: a - b,
}


def exact(number: Any) -> Any:
    """The exact value of a floating-point number in the code: a fraction, or a fraction of a constant such as √2."""
    if not isinstance(number, float):
        return sp.sympify(number)
    for constant in CONSTANTS:
        quotient = number / float(constant)
        fraction = Fraction(quotient).limit_denominator(10**6)
        if math.isclose(fraction, quotient, rel_tol=4e-16):
            return sp.Rational(fraction.numerator, fraction.denominator) * constant
    return sp.Rational(repr(number))


SAMPLES = [sp.Rational(n) for n in ("1/997", "1/7", "1", "29/3", "997")]


def holds(relation: Any) -> bool | None:
    """Whether a relation holds for all symbols, decided by SymPy or else by trying numbers; None if undecided."""
    if relation in (sp.true, sp.false):
        return bool(relation)
    found = set()
    for number in [*SAMPLES, *(-each for each in SAMPLES)]:
        with contextlib.suppress(TypeError):  # outside the relation's domain, such as ln(1 - a) for a > 1
            at = {each: abs(number) if each.is_positive else number for each in relation.free_symbols}
            found.add(bool(relation.subs(at)))
    return found.pop() if len(found) == 1 else None


def decided(relation: Any) -> Any:
    known = holds(relation)
    if known is None:
        raise ValueError(f"{relation} holds on a part of an interval only: the formula has a kink less than the code")
    return sp.Integer(known)


class Symbols:
    """A matrix of expressions with the part of a tensor's interface that formulas and the iteration use."""

    dtype = torch.float64

    def __init__(self, matrix: Any) -> None:
        self.matrix = sp.Matrix([[matrix]]) if isinstance(matrix, sp.Expr) else sp.Matrix(matrix)

    def each(self, f: Callable[..., Any], *others: Any) -> "Symbols":
        """Elementwise; broadcasts a number, one column or one row."""
        tables = [o.matrix if isinstance(o, Symbols) else sp.Matrix([[exact(o)]]) for o in (self, *others)]
        rows, columns = max(m.rows for m in tables), max(m.cols for m in tables)
        return Symbols(sp.Matrix(rows, columns, lambda i, j: f(*(m[min(i, m.rows - 1), min(j, m.cols - 1)] for m in tables))))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> "Symbols":
        options = dict(kwargs or {})
        out, name = options.pop("out", None), func.__name__
        if name in ELEMENTWISE:
            first, *others = args
            first = first if isinstance(first, Symbols) else Symbols(exact(first))
            result = first.each(ELEMENTWISE[name], *others)
        else:
            result = getattr(cls, f"torch_{name}")(*args, **options)
        return result if out is None else out.copy_(result)

    def __getattr__(self, name: str) -> Callable[..., "Symbols"]:
        """``t.exp()`` as ``torch.exp(t)``, and ``t.mul_(2)`` in place."""
        if name.endswith("_") and not name.startswith("_"):
            return lambda *args: self.copy_(getattr(self, name[:-1])(*args))
        if name not in ELEMENTWISE:
            raise AttributeError(f"Symbols has no {name!r}: add it to tests/symbols.py")
        return lambda *args: self.each(ELEMENTWISE[name], *args)

    def __deepcopy__(self, memo: Any) -> "Symbols":
        return Symbols(self.matrix)

    def copy_(self, other: "Symbols") -> "Symbols":
        self.matrix = other.matrix
        return self

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

    def __rtruediv__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: b / a, other)

    def __pow__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: a**b, other)

    def __neg__(self) -> "Symbols":
        return self.each(lambda a: -a)

    def __eq__(self, other: Any) -> "Symbols":  # type: ignore[override]
        return self.each(lambda a, b: sp.Integer(a == b), other)

    def __gt__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: decided(a > b), other)

    def __lt__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: decided(a < b), other)

    def __ge__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: decided(a >= b), other)

    def __le__(self, other: Any) -> "Symbols":
        return self.each(lambda a, b: decided(a <= b), other)

    __radd__, __rmul__, __and__, __hash__ = __add__, __mul__, __mul__, None  # type: ignore[assignment]

    def clamp(self, min: Any = None, max: Any = None) -> "Symbols":
        def limited(a: Any) -> Any:
            if max is not None and holds(a > exact(max)):
                return exact(max)
            return exact(min) if min is not None and holds(a < exact(min)) else a

        return self.each(limited)

    torch_clamp = clamp

    def to(self, dtype: torch.dtype) -> "Symbols":
        return self

    def dim(self) -> int:
        return 2

    def numel(self) -> int:
        return len(self.matrix)

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def mT(self) -> "Symbols":
        return Symbols(self.matrix.T)

    def sum(self, dim: int, keepdim: bool = True) -> "Symbols":
        rows, columns = self.shape
        return Symbols(sp.ones(1, rows) * self.matrix if dim == -2 else self.matrix * sp.ones(columns, 1))

    torch_sum = sum

    def sum_to_size(self, shape: tuple[int, int]) -> "Symbols":
        kept = self if shape[0] > 1 else self.sum(-2)
        return kept if shape[1] > 1 else kept.sum(-1)

    @staticmethod
    def torch_cat(parts: Any) -> "Symbols":
        return Symbols(sp.Matrix.vstack(*(part.matrix for part in parts)))

    def torch_matmul(self, other: "Symbols") -> "Symbols":
        return Symbols(self.matrix * other.matrix)

    torch_mm = torch_matmul

    def torch_addmm(self, x: "Symbols", W: "Symbols") -> "Symbols":
        return self + x.torch_matmul(W)

    def addmm(self, x: "Symbols", W: "Symbols") -> "Symbols":
        return self.torch_addmm(x, W)

    def torch_ones_like(self) -> "Symbols":
        return self.each(lambda a: sp.Integer(1))

    def torch_zeros_like(self) -> "Symbols":
        return self.each(lambda a: sp.Integer(0))

    def torch_where(self, yes: Any, no: Any) -> "Symbols":
        return self.each(lambda condition, a, b: a if condition else b, yes, no)

    def torch_softmax(self, dim: int) -> "Symbols":
        exponentials = self.exp()
        return exponentials / exponentials.sum(dim)

    def torch_log_softmax(self, dim: int) -> "Symbols":
        return self - self.exp().sum(dim).log()

    def torch_logsumexp(self, dim: int, keepdim: bool = True) -> "Symbols":
        return self.exp().sum(dim).log()


def is_same(code: Any, expected: Any) -> bool:
    """Whether the two are the same expression."""
    return all(is_zero(difference) for difference in code.matrix - Symbols(expected).matrix)


def is_zero(difference: Any) -> bool:
    return sp.simplify(sp.expand_log(difference.rewrite(sp.erf).rewrite(sp.exp))) == 0


def parsed(formula: str, **names: Any) -> Any:
    """An entry's formula, with values for its names."""
    return sp.parse_expr(formula, local_dict={"sum": sp.Function("sum"), **names}, transformations=RATIONAL)


def resolved(formula: Any) -> Any:
    """A formula on one interval, with its maxima, minima and conditions resolved."""

    def larger(*args: Any) -> Any:
        first, *others = args
        for each in others:
            first = first if decided(first >= each) else each
        return first

    formula = formula.replace(sp.Max, larger).replace(sp.Min, lambda *args: -larger(*(-each for each in args)))
    conditions = {each: sp.true if decided(each) else sp.false for each in formula.atoms(sp.core.relational.Relational)}
    return formula.subs(conditions)


RATIONAL = (*sp.parsing.sympy_parser.standard_transformations, sp.parsing.sympy_parser.rationalize)


def intervals(formula: Any, z: Any) -> Iterator[tuple[Any, Any]]:
    """z on each interval between the formula's kinks, and the positive variable in terms of which it is written."""
    if not formula.has(sp.Max, sp.Min, sp.Piecewise, sp.Abs, sp.sign, sp.Heaviside):
        yield z, z
        return
    kinks: set[Any] = set()
    for each in formula.atoms(sp.Max, sp.Min):
        kinks |= {root for i, a in enumerate(each.args) for b in each.args[:i] for root in sp.solve(a - b, z)}
    for each in formula.atoms(sp.Abs, sp.sign, sp.Heaviside):
        kinks |= set(sp.solve(each.args[0], z))
    for each in formula.atoms(sp.core.relational.Relational):
        kinks |= set(sp.solve(each.lhs - each.rhs, z))
    first, *others = ordered = sorted(kinks)
    t = sp.Symbol("t", positive=True)
    yield first - t, t
    yield ordered[-1] + t, t
    for low, high in zip(ordered, others, strict=False):
        yield (low + high * t) / (1 + t), t
