"""Traces one iteration: records every equation with its value and PyTorch's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp._sequences import check_network_of_sequences
from torchbp.iteration import Collect, Dense, Network, Sink, backward, forward, layers_of
from torchbp.nn import BPNetwork
from torchbp.trace._formula import greek, latex, named, plain
from torchbp.trace._in_time import ElmanLayer, check_traceable, input_of_last
from torchbp.trace._pytorch import by_pytorch
from torchbp.trace._steps import Section, Step, Trace

ARROW = r"\leftarrow"


def trace(network: BPNetwork, x: Tensor, y: Tensor, cost: str | None = None, lr: float = 0.1) -> Trace:
    """Trace one iteration of gradient descent on the mean cost, in float64: equations 2.1 to 3.2g, and 4.1 to 5.3.

    The iteration is that of :mod:`torchbp.iteration`. Each value is recorded with PyTorch's own, from the entries' references,
    autograd or torch.optim.SGD. The network keeps its parameters.

    Args:
        network: of any depth, with any activations; not K networks.
        x: (B, n0), at least one row; or sequences (B, T, n0), all with T steps.
        y: (B, nL), in the output's range of targets; (B, T, nL) for a target at each step.
        cost: a cost for the network's output; None for the first that fits.
        lr: the learning rate α, positive.

    Raises:
        ValueError: K networks, shapes that do not fit, targets out of range, an ``lr`` that is not positive, a ``cost`` that
            does not fit the network's output, or sequences that cannot be traced.

    >>> steps = trace(BPNetwork([2, 3, 1]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0]])).steps
    >>> [step.number for step in steps[:4]], max(step.difference for step in steps) < 1e-12
    (['2.1', '2.2', '2.3', '2.4'], True)
    """
    if network.networks is not None:
        raise ValueError(f"networks is {network.networks}; only one network can be traced")
    described = network.iteration(cost)
    values = [parameter.detach().double().clone() for parameter in network.ordered_parameters()]
    x, y = x.detach().to(values[0]), y.detach().to(values[0])
    _check(described, values, x, y, lr)
    parameters = dict(zip(_symbols(described), values, strict=True))
    return Trace(described, x, y, parameters, lr, _Notes(described, parameters, x, y, lr).steps)


class _Layer(Dense):
    """A layer that records what it computes."""

    notes: "_Notes"
    number: int
    last: bool
    above_time = ""  # the last layer's input in a recurrent network, as a formula

    @property
    def input(self) -> str:
        """The layer's input, as a formula."""
        if self.above_time:
            return self.above_time
        return f"A{self.number - 1}" if self.number > 1 else "X"

    def of_g(self, formula: str) -> str:
        """A formula of the activation, with this layer's symbols."""
        parameters = {name: f"{greek(name)}{self.number}" for name in self.g.parameters}
        return named(formula, {"z": f"Z{self.number}", "a": f"A{self.number}", **parameters})

    def weigh(self, x: Tensor) -> Tensor:
        l = self.number
        formula = f"{self.input} @ W{l}.T + b{l}"
        z = super().weigh(x)
        return self.notes.add("2.3" if self.last else "2.1", l, f"weighted input of layer {l}", f"Z{l}", formula, z)

    def activate(self) -> Tensor:
        l = self.number
        formula = self.of_g(f"g({', '.join(['z', *self.g.parameters])}) = {self.g.formula}")
        return self.notes.add("2.2", l, f"activation of layer {l}", f"A{l}", formula, super().activate())

    def error(self, da: Tensor, sink: Sink) -> Tensor:
        l, above = self.number, f"d(Z{self.number + 1}) @ W{self.number + 1}"
        if self.theta:
            self.notes.add("3.2e", l, f"cost by activation of layer {l}", f"d(A{l})", above, da)
            above = f"d(A{l})"
        formula = f"times({above}, {self.of_g(self.g.slope_formula)})"
        dz = super().error(da, sink)
        return self.notes.add("3.2e", l, f"error carried back to layer {l}", f"d(Z{l})", formula, dz)


class _Gradients(Collect):
    """A sink that records every gradient."""

    def __init__(self, notes: "_Notes", layers: Sequence[_Layer], symbols: Sequence[str]) -> None:
        super().__init__([True] * len(symbols))
        self.notes, self.symbols = notes, symbols
        # For each parameter, its layer and its name in the text.
        self.places = [(layer, what) for layer in layers for what in (*_words(layer), *map(greek, layer.g.parameters))]

    def product(self, slot: int, dzt: Tensor, x: Tensor) -> None:
        super().product(slot, dzt, x)
        layer, _ = self.places[slot]
        if self._in_time(slot):
            return
        self._add("3.2d" if layer.last else "3.2f", slot, f"d(Z{layer.number}).T @ {layer.input}")

    def rows(self, slot: int, dz: Tensor, dzt: Tensor) -> None:
        super().rows(slot, dz, dzt)
        layer, _ = self.places[slot]
        if self._in_time(slot):
            return
        self._add("3.2d" if layer.last else "3.2f", slot, f"rows(d(Z{layer.number}))")

    def other(self, slot: int, gradient: Tensor) -> None:
        super().other(slot, gradient)
        layer, _ = self.places[slot]
        if self._in_time(slot):
            return
        over = "rows" if gradient.shape[-1] == len(layer.b) > 1 else "total"  # for each unit, or for all
        self._add("4.1", slot, f"{over}(times(d(A{layer.number}), partial(g, {self.symbols[slot]})))")

    def _in_time(self, slot: int) -> bool:
        """Record the gradient if it is a recurrent layer's; returns whether it is."""
        layer: Any = self.places[slot][0]
        if isinstance(layer, ElmanLayer):
            number, formula = layer.formula_of(slot - layer.slot)
            self._add(number, slot, formula)
            return True
        return False

    def _add(self, number: str, slot: int, formula: str) -> None:
        (layer, what), gradient = self.places[slot], self.gradients[slot]
        assert gradient is not None
        self.notes.add(
            number, layer.number, f"cost by {what} of layer {layer.number}", f"d({self.symbols[slot]})", formula, gradient
        )


class _Notes:
    """Runs the iteration and records its steps."""

    def __init__(self, network: Network, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, lr: float) -> None:
        self.steps: list[Step] = []
        y = y.flatten(0, 1) if y.dim() == 3 else y
        self.reference = by_pytorch(network, parameters, x, y, lr)
        self.output, self.m, symbols = network.output, network.output.count(y), list(parameters)
        values = [value.clone() for value in parameters.values()]
        # With autograd enabled, layers overwrite no memory, and 3.2e runs the formula, not a kernel; no value requires grad.
        with torch.enable_grad():
            layers: Any = layers_of(network, values, _Layer, ElmanLayer)
            for number, layer in enumerate(layers, 1):
                layer.notes, layer.number, layer.last = self, number, number == len(layers)
                layer.steps = x.shape[1]
            if network.pooling is not None:
                layers[-1].above_time = input_of_last(network, len(layers) - 1, x.shape[1])
            self.depth, self.section = len(layers), "forward"
            z = forward(layers, x)
            a = self._predict(z)
            self._cost(z, a, y)
            gradients = _Gradients(self, layers, symbols)
            backward(layers, self._error(z, a, y), gradients)
        self.section = "descent"
        for slot, (symbol, value, gradient) in enumerate(zip(symbols, values, gradients.gradients, strict=True)):
            (layer, what), before = gradients.places[slot], value.clone()
            after = eq.descend(value, gradient, lr)  # type: ignore[arg-type]
            formula = f"{symbol} - α*d({symbol})"
            self.add("3.2g", layer.number, f"{what} of layer {layer.number}", symbol, formula, after, before)

    section: Section

    def add(
        self,
        number: str,
        layer: int | None,
        what: str,
        symbol: str,
        formula: str,
        value: Tensor,
        before: Tensor | None = None,
    ) -> Tensor:
        """Record a step; returns its value."""
        name, expression = plain(symbol), f"{symbol} = {formula}"
        whole = f"{latex(symbol)} {'=' if before is None else ARROW} {latex(formula)}"
        section, reference = self.section, self.reference[name]
        self.steps.append(Step(section, number, layer, what, name, plain(formula), expression, whole, value, reference, before))
        return value

    @property
    def prediction(self) -> str:
        """The symbol of the prediction."""
        return f"{'Z' if self.output.predicts_z else 'A'}{self.depth}"

    def of_output(self, formula: str) -> str:
        """A formula of the output, with the last layer's symbols."""
        return named(formula, {"z": f"Z{self.depth}", "a": self.prediction, "y": "Y"})

    def by_m(self, formula: str) -> str:
        """The formula divided by m, if the cost is a mean over m > 1 costs."""
        return f"({formula})/m" if self.m > 1 else formula

    def _predict(self, z: Tensor) -> Tensor:
        output, a = self.output, self.output.activation(z)
        if output.predicts_z:
            return a
        number, formula, g = (
            ("4.2", output.activation_formula, output.name) if output.g is None else ("2.4", output.g.formula, "g")
        )
        return self.add(number, self.depth, "prediction", f"A{self.depth}", self.of_output(f"{g}(z) = {formula}"), a)

    def _cost(self, z: Tensor, a: Tensor, y: Tensor) -> None:
        self.section = "cost"
        output = self.output.of_activation or self.output
        number, formula = output.equations[0], output.formula
        if number == "3.1c" and bool(((y == 0) | (y == 1)).all()):
            piecewise = "Piecewise((-log(a), y == 1), (-log(1 - a), y == 0))"
            value = eq.cross_entropy_piecewise(a, y).mean()
            self.add("3.1b", None, "cross-entropy, piecewise", "L", self.of_output(self._mean(piecewise)), value)
        cost = output.value(a if output is not self.output else z, a, y).mean()
        what = cost_in_words(output.cost) + (", joined" if number == "3.1c" else "")
        self.add(number, None, what, "L", self.of_output(self._mean(formula)), cost)

    def _mean(self, formula: str) -> str:
        if self.m == 1:
            return formula
        return f"-mean({formula[1:]})" if formula.startswith("-") else f"mean({formula})"

    def _error(self, z: Tensor, a: Tensor, y: Tensor) -> Tensor:
        """The error of the last layer, and its two factors if the text has them."""
        self.section = "backward"
        output, l, add = self.output, self.depth, self.add
        formula = self.by_m(self.of_output(output.error_formula))
        given = output.of_activation
        if given is not None and output.g is not None:
            slope_formula = self.of_output(output.g.slope_formula)
            da_formula = self.by_m(self.of_output(given.error_formula))
            add(given.equations[1], l, "cost by activation", f"d(A{l})", da_formula, given.error(a, a, y) / self.m)
            slope = output.g.slope(a if output.g.keeps == "a" else z)
            add("3.2b", l, "activation by weighted input", f"partial(A{l}, Z{l})", slope_formula, slope)
            if not output.error_formula:
                formula = f"times(d(A{l}), {slope_formula})"
        dz = output.error(z, a, y) / self.m
        return add(output.equations[1], l, "error of the output layer", f"d(Z{l})", formula, dz)


def cost_in_words(cost: str) -> str:
    """A cost in words: ``cross-entropy`` for ``cross_entropy``; other names get a blank."""
    return cost.replace("_", "-" if cost == "cross_entropy" else " ")


def _words(layer: Any) -> tuple[str, ...]:
    """The text's names of a layer's parameters, without the activation's."""
    if isinstance(layer, ElmanLayer):
        return "input weights", "recurrent weights", "input biases", "recurrent biases"
    return "weights", "biases"


def _symbols(network: Network) -> list[str]:
    """The symbols of all parameters: W1, b1, those of its activation, W2, ..."""
    own = ("W", "b") if network.pooling is None else ("Wi", "Wh", "bi", "bh")
    of_layers = [(*own, *map(greek, g.parameters)) for g in network.hidden] + [("W", "b")]
    return [f"{name}{l}" for l, names in enumerate(of_layers, 1) for name in names]


def _check(network: Network, parameters: Sequence[Tensor], x: Tensor, y: Tensor, lr: float) -> None:
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr is {lr:g}; it must be a positive number")
    n_in, n_out = parameters[0].shape[1], len(parameters[-1])
    if network.pooling is not None:
        check_network_of_sequences(network, x, y, parameters)
        check_traceable(network, x)
    elif x.dim() != 2 or x.shape[1] != n_in or y.shape != (len(x), n_out) or not len(x):
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be (B, {n_in}) and (B, {n_out})")
    network.output.check_targets(y)
