"""Outputs: the activation of the last layer together with a cost, one entry each.

An entry gives the cost of each target and the error ∂L/∂z with which the backward pass begins. To add an output, add an entry
to ``OUTPUTS``: Functions, engines, options, trace, audit and tests are made from it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as TF

from torchbp import equations as eq
from torchbp.activations import ACTIVATIONS, Activation

__all__ = ["CROSS_ENTROPY_OF_ACTIVATION", "OUTPUTS", "Output", "output_for", "output_of"]


def _mean(z: Tensor) -> Tensor:
    return z.mean(0)


@dataclass(frozen=True, eq=False)
class Output:
    """The activation of the last layer and the cost of its predictions.

    Attributes:
        cost: the cost's name in options.
        name: the activation's name in options.
        formula: the cost of one target (or of one row) in SymPy's syntax, with ``a`` or ``z``, and ``y``.
        error_formula: the derivative of the cost by z in the same syntax; empty if it is only that of ``of_activation`` times
            g'(z).
        activation: (z, out=None) -> a, the prediction.
        value: (z, a, y) -> the single costs, (B, n), or (B, 1) if a row has one cost.
        error: (z, a, y, out=None) -> dZ, the derivative of each cost by z. ``out`` may be a.
        target_derivative: (z, a, y) -> the derivative of each cost by y.
        reference: PyTorch's own differentiable form, (z, y) -> the single costs.
        targets: the range of a target.
        mean: what the mean is over, ``elements`` or ``rows``.
        tasks: the tasks that it fits; the first output that names a task is that task's default.
        g: the activation's entry if it is elementwise, else None.
        activation_formula, activation_reference: the activation in SymPy's syntax, and PyTorch's own form, if ``g`` is None.
        of_activation: the same cost as a function of given activations, whose error is ∂L/∂a.
        equations: the equation numbers of the cost and of its error.
        pooled: K networks' weighted inputs (K, B, n) -> the weighted input whose activation is the mean of theirs, (B, n).
        gain: the factor of the last layer's initial weights above a hidden layer; None for the initial weights of
            ``torch.nn.Linear``.
    """

    cost: str
    name: str
    formula: str
    error_formula: str
    activation: Callable[..., Tensor]
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    error: Callable[..., Tensor]
    target_derivative: Callable[[Tensor, Tensor, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor]
    targets: tuple[float, float] = (-float("inf"), float("inf"))
    mean: Literal["elements", "rows"] = "elements"
    tasks: Sequence[str] = ()
    g: Activation | None = None
    activation_formula: str = ""
    activation_reference: Callable[[Tensor], Tensor] | None = None
    of_activation: "Output | None" = None
    equations: tuple[str, str] = ("3.1", "3.2c")
    pooled: Callable[[Tensor], Tensor] = _mean
    gain: float | None = None

    def __deepcopy__(self, memo: object) -> "Output":
        return self

    def __reduce__(self) -> Any:
        return output_of, (self.cost, self.name)

    def __repr__(self) -> str:
        return f"<output {self.name}, {self.cost}: {self.formula}>"

    @property
    def takes_any(self) -> bool:
        """Whether a target may be any number; only then may targets be standardised."""
        return self.targets == (-float("inf"), float("inf"))

    def check_targets(self, y: Tensor) -> None:
        """Check that targets are in this output's range.

        Raises:
            ValueError: one is not.
        """
        low, high = self.targets
        if y.numel() and not (y.min() >= low and y.max() <= high):
            raise ValueError(
                f"y reaches from {y.min().item():g} to {y.max().item():g}; for {self.name} outputs with cost {self.cost} it "
                f"must lie in [{low:g}, {high:g}]"
            )

    @property
    def predicts_z(self) -> bool:
        """Whether the prediction is the weighted input itself."""
        return self.g is ACTIVATIONS["identity"]

    def check_pos_weight(self) -> None:
        """Check that this output takes a ``pos_weight``.

        Raises:
            ValueError: it is not cross-entropy with sigmoid outputs.
        """
        if self is not OUTPUTS["cross_entropy", "sigmoid"]:
            raise ValueError(
                f"pos_weight is for cost 'cross_entropy' with sigmoid outputs; here the cost is {self.cost!r} with {self.name} "
                "outputs"
            )

    def count(self, y: Tensor) -> int:
        """The number of costs of targets ``y``: m of the mean."""
        return y.numel() if self.mean == "elements" else y.numel() // y.shape[-1]


def output_of(cost: str, name: str) -> Output:
    """The entry with this cost and this activation of the last layer.

    Raises:
        ValueError: there is none.
    """
    found = OUTPUTS.get((cost, name))
    if found is None:
        allowed = ", ".join(f"{c!r} with {n!r}" for c, n in OUTPUTS)
        raise ValueError(f"cost is {cost!r} with output {name!r}; it must be {allowed}")
    return found


def output_for(task: str, cost: str | None = None, name: str | None = None) -> Output:
    """The first entry for a task, with this cost and this activation if they are given.

    Raises:
        ValueError: there is none.
    """
    of_task = [entry for entry in OUTPUTS.values() if task in entry.tasks]
    for entry in of_task:
        if cost in (None, entry.cost) and name in (None, entry.name):
            return entry
    asked = " with ".join(f"{what} {value!r}" for what, value in (("cost", cost), ("output", name)) if value is not None)
    allowed = " or ".join(f"{entry.cost!r} with output {entry.name!r}" for entry in of_task)
    raise ValueError(f"{asked} is not for task {task}; it must be cost {allowed}")


def _log_odds_of_mean(z: Tensor) -> Tensor:
    """The weighted input whose sigmoid is the mean of K sigmoids."""
    return TF.logsigmoid(z).logsumexp(0) - TF.logsigmoid(-z).logsumexp(0)


def _squared_error(
    name: str, g: Activation, targets: tuple[float, float], tasks: Sequence[str], of_activation: Output | None = None
) -> Output:
    """Squared error (3.1a) of a = g(z)."""
    carried = g.error

    def error(z: Tensor, a: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        da = eq.squared_error_derivative(a, y, out=None if out is a else out)
        return carried(da, a, out=out)  # 3.2b

    return Output(
        "squared_error",
        name,
        "(a - y)**2",
        "" if of_activation else "2*(a - y)",
        activation=g.value,
        value=lambda z, a, y: eq.squared_error(a, y),  # 3.1a
        error=error,
        target_derivative=lambda z, a, y: -eq.squared_error_derivative(a, y),
        reference=lambda z, y: TF.mse_loss(g.reference(z), y, reduction="none"),
        targets=targets,
        tasks=tasks,
        g=g,
        of_activation=of_activation,
        equations=("3.1a", "3.2b" if of_activation else "3.1a"),
        pooled=_log_odds_of_mean if g is ACTIVATIONS["sigmoid"] else _mean,
        gain=None if g is ACTIVATIONS["identity"] else g.gain,
    )


# Not a network's output: the cross-entropy of given activations.
CROSS_ENTROPY_OF_ACTIVATION = Output(
    "cross_entropy",
    "linear",
    "-(y*log(a) + (1 - y)*log(1 - a))",
    "(a - y)/(a*(1 - a))",
    activation=ACTIVATIONS["identity"].value,
    value=lambda z, a, y: eq.cross_entropy(a, y),  # 3.1c
    error=lambda z, a, y: eq.cross_entropy_derivative(a, y),  # 3.2a
    target_derivative=lambda z, a, y: eq.cross_entropy_target_derivative(a, y),
    reference=lambda z, y: TF.binary_cross_entropy(z, y, reduction="none"),
    targets=(0, 1),
    g=ACTIVATIONS["identity"],
    equations=("3.1c", "3.2a"),
)

_SIGMOID_CROSS_ENTROPY = Output(
    "cross_entropy",
    "sigmoid",
    "-(y*log(a) + (1 - y)*log(1 - a))",
    "a - y",
    activation=eq.sigmoid,
    value=lambda z, a, y: eq.cross_entropy_of_weighted_input(z, y),  # 3.1c
    error=lambda z, a, y, out=None: eq.output_error(a, y, out=out),  # 3.2c
    target_derivative=lambda z, a, y: eq.cross_entropy_of_weighted_input_target_derivative(z),
    reference=lambda z, y: TF.binary_cross_entropy_with_logits(z, y, reduction="none"),
    targets=(0, 1),
    tasks=("binary", "multilabel", "multiclass"),
    g=ACTIVATIONS["sigmoid"],
    of_activation=CROSS_ENTROPY_OF_ACTIVATION,
    equations=("3.1c", "3.2c"),
    pooled=_log_odds_of_mean,
    gain=ACTIVATIONS["sigmoid"].gain,
)

_SOFTMAX_CROSS_ENTROPY = Output(
    "cross_entropy",
    "softmax",
    "-sum(y*log(a))",
    "a*sum(y) - y",
    activation=eq.softmax,
    value=lambda z, a, y: eq.softmax_cross_entropy(z, y),  # 4.2
    error=lambda z, a, y, out=None: eq.softmax_output_error(a, y, out=out),  # 4.2
    target_derivative=lambda z, a, y: eq.softmax_cross_entropy_target_derivative(z),
    reference=lambda z, y: TF.cross_entropy(z, y, reduction="none").unsqueeze(-1),
    targets=(0, 1),
    mean="rows",
    tasks=("multiclass",),
    activation_formula="exp(z)/sum(exp(z))",
    activation_reference=partial(torch.softmax, dim=-1),
    equations=("4.2", "4.2"),
    pooled=lambda z: TF.log_softmax(z, -1).logsumexp(0) - math.log(len(z)),
    gain=1.0,
)

_POISSON = Output(
    "poisson",
    "exp",
    "exp(z) - y*z",
    "a - y",
    activation=lambda z, out=None: torch.exp(z, out=out),
    value=lambda z, a, y: a - y * z,  # -ln of Poisson's probability of y at rate a, without the terms that only have y
    error=lambda z, a, y, out=None: eq.output_error(a, y, out=out),
    target_derivative=lambda z, a, y: -z,
    reference=partial(TF.poisson_nll_loss, log_input=True, reduction="none"),
    targets=(0, float("inf")),
    tasks=("regression",),
    activation_formula="exp(z)",
    activation_reference=torch.exp,
    pooled=lambda z: z.logsumexp(0) - math.log(len(z)),
)

_LINEAR_SQUARED_ERROR = _squared_error("linear", ACTIVATIONS["identity"], (-float("inf"), float("inf")), ("regression",))

OUTPUTS: dict[tuple[str, str], Output] = {
    (output.cost, output.name): output
    for output in (
        _SOFTMAX_CROSS_ENTROPY,
        _SIGMOID_CROSS_ENTROPY,
        _LINEAR_SQUARED_ERROR,
        _POISSON,
        _squared_error(
            "sigmoid", ACTIVATIONS["sigmoid"], (0, 1), ("binary", "multilabel", "multiclass"), _LINEAR_SQUARED_ERROR
        ),
    )
}
