"""The trace of recurrent layers: equations 5.1 to 5.3 at every t."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as TF

from torchbp.elman import Elman
from torchbp.iteration import Network
from torchbp.recurrence import from_states
from torchbp.trace._formula import greek, named

MAX_STEPS = 20  # time steps; each has its own lines


def check_traceable(network: Network, x: Tensor) -> None:
    """Check that the network and its sequences can be traced.

    Raises:
        ValueError: the network is bidirectional, there are more than 20 steps, or the sequences have different lengths.
    """
    if network.bidirectional:
        raise ValueError("the network is bidirectional; it must read sequences in one direction to be traced")
    if x.dim() == 3 and x.shape[1] > MAX_STEPS:
        raise ValueError(f"the sequences have {x.shape[1]} steps; at most {MAX_STEPS} can be traced")
    if x.isnan().any():
        raise ValueError("the sequences have different lengths; they must have one length to be traced")


def input_of_last(network: Network, layer: int, steps: int) -> str:
    """The input of the last layer, from the recurrent layer below it, as a formula."""
    states = [f"A{layer}_{t}" for t in range(1, steps + 1)]
    if network.pooling == "last":
        return states[-1]
    return f"({' + '.join(states)})/{steps}" if network.pooling == "mean" else f"stack({', '.join(states)})"


class ElmanLayer(Elman):
    """A recurrent layer that records what it computes."""

    notes: Any
    number: int
    steps: int
    last = False

    def of_g(self, formula: str, t: int) -> str:
        """A formula of the activation, with this layer's symbols at t."""
        parameters = {name: f"{greek(name)}{self.number}" for name in self.g.parameters}
        return named(formula, {"z": f"Z{self.number}_{t}", "a": f"A{self.number}_{t}", **parameters})

    def input_at(self, t: int) -> str:
        return f"X_{t}" if self.first else f"A{self.number - 1}_{t}"

    def pass_on(self, z: Sequence[Tensor], ended: Any, into: Any) -> list[Tensor]:
        l, a = self.number, super().pass_on(z, ended, into)
        whole = torch.stack([*z]) + from_states(torch.stack(a), self.h, self.Wht)
        for t, (zt, at) in enumerate(zip(whole, a, strict=True), 1):
            before = f" + A{l}_{t - 1} @ Wh{l}.T" if t > 1 else ""
            formula = f"{self.input_at(t)} @ Wi{l}.T + bi{l}{before} + bh{l}"
            self.notes.add("5.1", l, f"weighted input of layer {l} at {t}", f"Z{l}_{t}", formula, zt)
            formula = self.of_g(f"g({', '.join(['z', *self.g.parameters])}) = {self.g.formula}", t)
            self.notes.add("5.1", l, f"state of layer {l} at {t}", f"A{l}_{t}", formula, at)
        return a

    def pass_back(self, da: Sequence[Tensor], kept: Any, out: Any) -> tuple[list[Tensor], list[Tensor]]:
        gradients, errors = super().pass_back(da, kept, out)
        l = self.number
        for t in range(self.steps, 0, -1):
            above, later = self._above(t), f"d(Z{l}_{t + 1}) @ Wh{l}" if t < self.steps else ""
            formula = " + ".join(part for part in (above, later) if part)
            self.notes.add("5.2", l, f"cost by state of layer {l} at {t}", f"d(A{l}_{t})", formula, gradients[t - 1])
            formula = f"times(d(A{l}_{t}), {self.of_g(self.g.slope_formula, t)})"
            self.notes.add("5.2", l, f"error of layer {l} at {t}", f"d(Z{l}_{t})", formula, errors[t - 1])
        return gradients, errors

    def _above(self, t: int) -> str:
        """The gradient from above at t, as a formula; empty if the layer above sees only a later state."""
        l = self.number + 1
        if self.pooling is None:
            return f"d(Z{l}_{t}) @ Wi{l}"
        from_last = f"d(Z{l}) @ W{l}"
        if self.pooling == "each":
            return f"step({from_last}, {t})"
        return f"{from_last}/{self.steps}" if self.pooling == "mean" else from_last if t == self.steps else ""

    def formula_of(self, which: int) -> tuple[str, str]:
        """The equation number and the formula of a parameter's gradient; ``which`` is its index in Wi, Wh, bi, bh, θ..."""
        l, steps = self.number, range(1, self.steps + 1)
        if which == 0:
            return "5.3", " + ".join(f"d(Z{l}_{t}).T @ {self.input_at(t)}" for t in steps)
        if which == 1:
            return "5.3", " + ".join(f"d(Z{l}_{t}).T @ A{l}_{t - 1}" for t in steps[1:]) or "0"
        if which < 4:
            return "5.3", " + ".join(f"rows(d(Z{l}_{t}))" for t in steps)
        name = f"{greek([*self.g.parameters][which - 4])}{l}"
        over = "rows" if self.theta[which - 4].shape[-1] == len(self.bi) > 1 else "total"
        return "4.1", f"Sum({over}(times(d(A{l}_t), partial(g, {name}))), t)"


def inner_by_pytorch(layers: Sequence[Any], x: Tensor, inner: dict[str, Tensor], pooling: str) -> Tensor:
    """The input of the last layer, computed by PyTorch's own functions; adds every Z and A of the layers to ``inner``."""
    each = list(x.unbind(1))
    for l, layer in enumerate(layers, 1):
        states: list[Tensor] = []
        for t, xt in enumerate(each, 1):
            z = TF.linear(xt, layer.Wi, layer.bi) + (TF.linear(states[-1], layer.Wh, layer.bh) if states else layer.bh)
            inner[f"Z{l}_{t}"] = z
            states.append(layer.g.reference(z, *layer.theta))
            inner[f"A{l}_{t}"] = states[-1]
        each = states
    if pooling == "last":
        return each[-1]
    return torch.stack(each).mean(0) if pooling == "mean" else torch.stack(each, 1).flatten(0, 1)
