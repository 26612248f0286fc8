"""Says in one line why a run does not learn: which layer shows it, and what to try."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import Trainer

from torchbp.data.values import counted

SATURATED = 0.8  # share of a layer's activations, at the start
DEAD = 0.9  # share of a layer's units, after the start
VANISHED = 1e-3  # norm of δ / norm of the last layer's δ
RISEN, FALLEN = 0.5, 0.01  # change of the cost / its size at the start
EXPLODED = 10  # the same, for a rise that needs no EPOCHS and STEPS
EPOCHS, STEPS = 3, 30  # the cost must have moved after these
CHANGED = 0.01  # minimum relative change of W over a run that learns


@dataclass(frozen=True)
class Signal:
    """What one iteration shows about a layer.

    Attributes:
        delta: the norm of δ = ∂L/∂Z, L the mean cost.
        update: α ‖∂L/∂W‖ / ‖W‖, the relative change of W in a step.
        saturated: the share of activations, over all rows and units, with a slope g' near 0; None for the last layer.
        dead: the share of units with a slope near 0 for every row; None for the last layer.
        reach, steps: for a recurrent layer, how many steps back an error at a sequence's end reaches, and the number of steps.
    """

    delta: float
    update: float
    saturated: float | None = None
    dead: float | None = None
    reach: int | None = None
    steps: int | None = None


class Diagnosis:
    """Compares a run with its start, and says what goes wrong."""

    def __init__(self) -> None:
        self._start: float | None = None

    def of(self, cost: float, signals: Sequence[Signal], lr: float, trainer: Trainer) -> str | None:
        """What goes wrong, in words, according to the current cost and signals of the layers; None if nothing does."""
        if self._start is None:
            self._start = cost
            return _saturated(signals) or _vanishing(signals)
        epochs = trainer.current_epoch + 1
        rise, size = cost - self._start, abs(self._start)  # Poisson's cost may be below 0
        if (epochs < EPOCHS or trainer.global_step < STEPS) and not rise > EXPLODED * size:
            return None
        moved = f"the cost was {self._start:.3g} at the start and is {cost:.3g} after {counted(epochs, 'epoch', 'epochs')}"
        lower = "auto" if rise > EXPLODED * size else f"{lr / 10:.1g}, or auto"  # a tenth may still be far too high
        number, most = max(enumerate(signals, 1), key=lambda one: one[1].update)
        for dead, signal in enumerate(signals, 1):
            if signal.dead is not None and signal.dead > DEAD and signal.delta <= VANISHED * signals[-1].delta:
                return (
                    f"{moved}, with {signal.dead:.0%} of layer {dead}'s units dead, for their slope is near 0 for every row:"
                    f" lr {lr:.3g} is too high; try --model.lr {lower}"
                )
        if rise > RISEN * size:
            step = f"a step changes W of layer {number} by {most.update:.2g} of it"
            return f"{moved}: lr {lr:.3g} is too high; {step}; try --model.lr {lower}"
        if rise < -FALLEN * size:
            return None
        if most.update * trainer.estimated_stepping_batches < CHANGED:
            step = f"a step changes W of layer {number}, where it changes most, by {most.update:.1g} of it"
            better = f"--model.lr {lr * 1e-3 / most.update:.1g}, or auto" if most.update else "--model.lr auto"
            return f"{moved}: lr {lr:.3g} is too low; {step}; try {better}"
        return _vanishing(signals) or _forgetting(moved, signals)


def _saturated(signals: Sequence[Signal]) -> str | None:
    for number, signal in enumerate(signals, 1):
        if signal.saturated is not None and signal.saturated > SATURATED:
            cause = "inputs of one scale (--data.standardize true)" if number == 1 else "another --model.activation"
            return (
                f"layer {number} is saturated at the start: the slope of {signal.saturated:.0%} of its activations is near 0,"
                f" so that it hardly learns; try {cause}, or smaller weights (--model.init glorot)"
            )
    return None


def _vanishing(signals: Sequence[Signal]) -> str | None:
    number, least = min(enumerate(signals, 1), key=lambda one: one[1].delta)
    if least.delta >= VANISHED * signals[-1].delta:
        return None
    return (
        f"the error vanishes on its way down: the norm of ∂L/∂Z is {signals[-1].delta:.2g} in layer {len(signals)} and"
        f" {least.delta:.2g} in layer {number}, which hardly learns; try --model.activation tanh or relu, or fewer layers"
    )


def _forgetting(moved: str, signals: Sequence[Signal]) -> str | None:
    for number, signal in enumerate(signals, 1):
        if signal.reach is not None and signal.steps is not None and signal.reach < signal.steps:
            return (
                f"{moved}: in layer {number} an error reaches {signal.reach} of {signal.steps} steps back in time before it is"
                " a hundredth of what it was; try --model.init orthogonal, --model.activation tanh, or --model.pooling mean"
            )
    return None
