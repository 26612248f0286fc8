"""The iteration itself: every equation's value, and beside it PyTorch's."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as TF

from torchbp import equations as eq
from torchbp.nn import BPNetwork, SigmoidLinear

Cost = Literal["cross_entropy", "squared_error"]
Parameters = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Step:
    """One equation: its number in the text, what it gives, ``symbol = formula``, its value, and PyTorch's value for it.

    ``before`` is what an updated parameter was; only 3.2g has it.
    """

    number: str
    what: str
    symbol: str
    formula: str
    value: Tensor
    autograd: Tensor
    before: Tensor | None = None

    @property
    def relation(self) -> str:
        """What stands between symbol and formula."""
        return "=" if self.before is None else "←"

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        """What a reader compares: the value and PyTorch's, or a parameter before and after."""
        return (self.value, self.autograd) if self.before is None else (self.before, self.value)

    @property
    def difference(self) -> float:
        """Largest |value - autograd|."""
        return (self.value - self.autograd).abs().max().item()


@dataclass(frozen=True)
class Trace:
    """One iteration on samples ``x`` (B, n0) with targets ``y`` (B, nL); ``parameters`` are each layer's W and b before it."""

    x: Tensor
    y: Tensor
    parameters: Parameters
    cost: Cost
    lr: float
    steps: Sequence[Step]

    @property
    def sizes(self) -> list[int]:
        """[n0, n1, ..., nL]."""
        return [self.x.shape[1], *(len(b) for _, b in self.parameters)]

    @property
    def given(self) -> dict[str, Tensor]:
        """What the iteration starts from, by symbol."""
        return {"X": self.x, "Y": self.y, **_named(self.parameters)}


@torch.no_grad()
def trace(network: BPNetwork, x: Tensor, y: Tensor, cost: Cost = "cross_entropy", lr: float = 0.1) -> Trace:
    """Equations 2.1 to 3.2g for one iteration of gradient descent on the mean cost, in float64.

    Each value is computed by a function of :mod:`torchbp.equations`; the one beside it is of PyTorch's own forward pass, of its
    autograd, or of torch.optim.SGD. The network keeps its parameters.

    Args:
        network: of any depth.
        x: (B, n0), at least one row.
        y: (B, nL), within [0, 1] for cross-entropy.
        cost: ``'cross_entropy'`` (3.1c, for sigmoid outputs) or ``'squared_error'`` (3.1a).
        lr: the learning rate α, positive.

    Raises:
        ValueError: shapes that do not fit, targets outside [0, 1], an ``lr`` that is not positive, or a ``cost`` that does not
            go with the network's output.

    >>> steps = trace(BPNetwork([2, 3, 1]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0]])).steps
    >>> [step.number for step in steps[:4]], max(step.difference for step in steps) < 1e-12
    (['2.1', '2.2', '2.3', '2.4'], True)
    """
    layers: list[torch.nn.Linear] = list(network.layers)  # type: ignore[arg-type]
    parameters = [(layer.weight.double().clone(), layer.bias.double().clone()) for layer in layers]
    has_sigmoid = isinstance(layers[-1], SigmoidLinear)
    x, y = x.to(parameters[0][0]), y.to(parameters[0][0])
    _check(parameters, x, y, cost, lr, has_sigmoid)
    return Trace(x, y, parameters, cost, lr, list(_Iteration(parameters, x, y, cost, lr, has_sigmoid).steps()))


class _Iteration:
    """The equations in the text's order; each of the methods below takes up where the one before has left off."""

    def __init__(self, parameters: Parameters, x: Tensor, y: Tensor, cost: Cost, lr: float, has_sigmoid: bool) -> None:
        self.y, self.cost, self.lr, self.has_sigmoid = y, cost, lr, has_sigmoid
        self.parameters = [(W.clone(), b.clone()) for W, b in parameters]
        self.depth, self.m = len(parameters), y.numel()
        self.by_pytorch = _by_pytorch(parameters, x, y, cost, lr, has_sigmoid)
        self.A, self.names = [x], ["X"]  # the input of each layer, and what it is called

    def steps(self) -> Iterator[Step]:
        yield from self.forward()
        yield from self.cross_entropy() if self.cost == "cross_entropy" else self.squared_error()
        yield from self.backward()
        yield from self.descent()

    def step(self, number: str, what: str, symbol: str, formula: str, value: Tensor, before: Tensor | None = None) -> Step:
        return Step(number, what, symbol, formula, value, self.by_pytorch[symbol], before)

    def forward(self) -> Iterator[Step]:
        for l, (W, b) in enumerate(self.parameters, 1):
            last = l == self.depth
            a, name = eq.weighted_input(self.A[-1], W, b), f"Z{l}"
            formula = f"{self.names[-1]} W{l}ᵀ + b{l}"
            yield self.step("2.3" if last else "2.1", f"weighted input of layer {l}", name, formula, a)
            if not last or self.has_sigmoid:
                a, name = eq.sigmoid(a), f"A{l}"
                what, formula = "prediction" if last else f"activation of layer {l}", f"g(Z{l}) = 1 / (1 + e^-Z{l})"
                yield self.step("2.4" if last else "2.2", what, name, formula, a)
            self.A.append(a)
            self.names.append(name)

    def cross_entropy(self) -> Iterator[Step]:
        a, y, A, Z = self.A[-1], self.y, self.names[-1], f"Z{self.depth}"
        mean, by_m = self.mean_of_many()
        if bool(((y == 0) | (y == 1)).all()):
            formula = f"{mean}(-ln {A} if Y = 1; -ln(1 - {A}) if Y = 0)"
            yield self.step("3.1b", "cross-entropy, piecewise", "L", formula, eq.cross_entropy_piecewise(a, y).mean())
        formula = f"-{mean}[Y ln {A} + (1 - Y) ln(1 - {A})]"
        yield self.step("3.1c", "cross-entropy, joined", "L", formula, eq.cross_entropy(a, y).mean())
        dA = eq.cross_entropy_derivative(a, y) / self.m
        yield self.step("3.2a", "cost by activation", f"d{A}", f"({A} - Y) / ({A}(1 - {A})){by_m}", dA)
        yield self.step("3.2b", "activation by weighted input", f"∂{A}/∂{Z}", f"{A}(1 - {A})", eq.sigmoid_derivative(a))
        self.dZ = eq.output_error(a, y) / self.m
        formula = f"({A} - Y){by_m}" if by_m else f"{A} - Y"
        yield self.step("3.2c", "error of the output layer", f"d{Z}", formula, self.dZ)

    def squared_error(self) -> Iterator[Step]:
        a, y, A, Z = self.A[-1], self.y, self.names[-1], f"Z{self.depth}"
        mean, by_m = self.mean_of_many()
        yield self.step("3.1a", "squared error", "L", f"{mean}({A} - Y)²", eq.squared_error(a, y).mean())
        self.dZ = eq.squared_error_derivative(a, y) / self.m
        what = "cost by activation" if self.has_sigmoid else "error of the output layer"
        yield self.step("3.1a", what, f"d{A}", f"2({A} - Y){by_m}", self.dZ)
        if self.has_sigmoid:
            slope = eq.sigmoid_derivative(a)
            yield self.step("3.2b", "activation by weighted input", f"∂{A}/∂{Z}", f"{A}(1 - {A})", slope)
            self.dZ = self.dZ * slope
            yield self.step("3.2b", "error of the output layer", f"d{Z}", f"d{A} * {A}(1 - {A})", self.dZ)

    def backward(self) -> Iterator[Step]:
        self.gradients: list[tuple[Tensor, Tensor]] = []
        for l in range(self.depth, 0, -1):
            if l < self.depth:
                self.dZ = eq.hidden_error(self.dZ, self.parameters[l][0], self.A[l])
                formula = f"(dZ{l + 1} W{l + 1}) * A{l}(1 - A{l})"
                yield self.step("3.2e", f"error carried back to layer {l}", f"dZ{l}", formula, self.dZ)
            number = "3.2d" if l == self.depth else "3.2f"
            dW, db = eq.weight_gradient(self.dZ, self.A[l - 1]), eq.bias_gradient(self.dZ)
            yield self.step(number, f"cost by weights of layer {l}", f"dW{l}", f"dZ{l}ᵀ {self.names[l - 1]}", dW)
            yield self.step(number, f"cost by biases of layer {l}", f"db{l}", f"Σ_rows dZ{l}", db)
            self.gradients.insert(0, (dW, db))

    def descent(self) -> Iterator[Step]:
        gradients = _named(self.gradients)
        for symbol, parameter in _named(self.parameters).items():
            what = f"{'weights' if symbol[0] == 'W' else 'biases'} of layer {symbol[1:]}"
            before, after = parameter.clone(), eq.descend_(parameter, gradients[symbol], self.lr)
            yield self.step("3.2g", what, symbol, f"{symbol} - α d{symbol}", after, before)

    def mean_of_many(self) -> tuple[str, str]:
        """How formulas write the mean over all costs, and its derivative; of a single cost it is not worth writing."""
        return ("1/m Σ ", " / m") if self.m > 1 else ("", "")


@torch.enable_grad()
def _by_pytorch(parameters: Parameters, x: Tensor, y: Tensor, cost: Cost, lr: float, has_sigmoid: bool) -> dict[str, Tensor]:
    """The same by symbol, from torch.nn.functional, autograd and torch.optim.SGD alone."""
    leaves = _named([(W.clone().requires_grad_(), b.clone().requires_grad_()) for W, b in parameters])
    depth, inner, z, a = len(parameters), {}, x, x
    for l in range(1, depth + 1):
        z = inner[f"Z{l}"] = TF.linear(a, leaves[f"W{l}"], leaves[f"b{l}"])
        a = z
        if l < depth or has_sigmoid:
            a = inner[f"A{l}"] = torch.sigmoid(z)
    for t in inner.values():
        t.retain_grad()
    # From z, as networks are trained: through an activation that has saturated autograd would lose the error.
    (TF.binary_cross_entropy_with_logits(z, y) if cost == "cross_entropy" else TF.mse_loss(a, y)).backward()
    found = {**inner, **{f"d{symbol}": t.grad for symbol, t in (inner | leaves).items() if t.grad is not None}}
    z, a = z.detach().requires_grad_(), a.detach().requires_grad_()
    found["L"] = TF.binary_cross_entropy(a, y) if cost == "cross_entropy" else TF.mse_loss(a, y)
    if has_sigmoid:
        (found[f"dA{depth}"],) = torch.autograd.grad(found["L"], a)
        (found[f"∂A{depth}/∂Z{depth}"],) = torch.autograd.grad(torch.sigmoid(z).sum(), z)
    torch.optim.SGD(leaves.values(), lr).step()
    return {symbol: t.detach() for symbol, t in (found | leaves).items()}


def _named(pairs: Parameters) -> dict[str, Tensor]:
    """W1, b1, W2, b2 ... by name."""
    return {f"{letter}{l}": t for l, pair in enumerate(pairs, 1) for letter, t in zip("Wb", pair, strict=True)}


def _check(parameters: Parameters, x: Tensor, y: Tensor, cost: str, lr: float, has_sigmoid: bool) -> None:
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr is {lr:g}; it must be a positive number")
    n_in, n_out = parameters[0][0].shape[1], len(parameters[-1][1])
    if x.dim() != 2 or x.shape[1] != n_in or y.shape != (len(x), n_out) or not len(x):
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be (B, {n_in}) and (B, {n_out})")
    if cost not in ("cross_entropy", "squared_error"):
        raise ValueError(f"cost is {cost!r}; it must be 'cross_entropy' or 'squared_error'")
    if cost == "cross_entropy" and not has_sigmoid:
        raise ValueError("cost is 'cross_entropy'; for a network with linear outputs it must be 'squared_error'")
    if cost == "cross_entropy" and not bool(((y >= 0) & (y <= 1)).all()):
        raise ValueError(f"y reaches from {y.min().item():g} to {y.max().item():g}; for cross-entropy it must lie in [0, 1]")
