"""The data of a trace: its steps, and the values that they start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from torchbp.iteration import Network

Section = Literal["forward", "cost", "backward", "descent"]


@dataclass(frozen=True)
class Step:
    """One equation: its number in the text, a description, ``symbol = formula``, its value, and PyTorch's value.

    ``layer`` counts from 1; the cost has none. ``expression`` and ``latex`` are the whole equation, in the syntax of
    :mod:`torchbp.trace._formula` and in LaTeX. ``before`` is a parameter's value before its update; only 3.2g has it.
    """

    section: Section
    number: str
    layer: int | None
    what: str
    symbol: str
    formula: str
    expression: str
    latex: str
    value: Tensor
    autograd: Tensor
    before: Tensor | None = None

    @property
    def relation(self) -> str:
        """The sign between symbol and formula."""
        return "=" if self.before is None else "←"

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        """The two values to show: the value and PyTorch's, or a parameter before and after."""
        return (self.value, self.autograd) if self.before is None else (self.before, self.value)

    @property
    def difference(self) -> float:
        """Largest ``|value - autograd|``."""
        return (self.value - self.autograd).abs().max().item()

    def record(self) -> dict[str, Any]:
        """Every field by name, with tensors as nested lists: for JSON."""
        fields = {name: t.tolist() if isinstance(t, Tensor) else t for name, t in vars(self).items()}
        return {**fields, "difference": self.difference}


@dataclass(frozen=True)
class Trace:
    """One iteration on samples ``x`` (B, n0), or (B, T, n0), with targets ``y`` (B, nL), or (B, T, nL).

    ``parameters`` maps symbols to parameters before the iteration: W1, b1, those of the activation, W2, ...
    """

    network: Network
    x: Tensor
    y: Tensor
    parameters: Mapping[str, Tensor]
    lr: float
    steps: Sequence[Step]

    @property
    def sizes(self) -> list[int]:
        """[n0, n1, ..., nL]."""
        biases = (self.parameters.get(f"bi{l}", self.parameters.get(f"b{l}")) for l in range(1, len(self.network.hidden) + 2))
        return [self.x.shape[-1], *map(len, biases)]  # type: ignore[arg-type]

    @property
    def m(self) -> int:
        """The number of costs in the mean."""
        return self.network.output.count(self.y)

    @property
    def given(self) -> dict[str, Tensor]:
        """The values that the iteration starts from, by symbol."""
        x = {"X": self.x} if self.x.dim() == 2 else {f"X_{t}": xt for t, xt in enumerate(self.x.unbind(1), 1)}
        return {**x, "Y": self.y.flatten(0, -2), **self.parameters}

    def record(self) -> dict[str, Any]:
        """The given values and every step, with tensors as nested lists: for JSON."""
        output = self.network.output
        return {
            "sizes": self.sizes,
            "activations": [g.name for g in self.network.hidden],
            "output": output.name,
            "cost": output.cost,
            "lr": self.lr,
            "given": {symbol: t.tolist() for symbol, t in self.given.items()},
            "steps": [step.record() for step in self.steps],
        }
