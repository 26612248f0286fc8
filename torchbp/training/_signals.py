"""Measures backpropagation layer by layer: the size of the error and of the update, and the share of units that still learn."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from torchbp.activations import Activation
from torchbp.data import RowsDataModule
from torchbp.data.rows import evenly_spaced
from torchbp.elman import Elman
from torchbp.functions import positives_weighted
from torchbp.iteration import Collect, Dense, Sink, backward, forward, layers_of
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.recurrence import target_rows
from torchbp.training._budget import Budget
from torchbp.training._diagnosis import Diagnosis, Signal
from torchbp.training._reach import errors_back, reach, reach_image

ROWS = 512  # rows of the training split, evenly spaced, the same for the whole run
FLAT = 0.05  # a slope of at most this share of the steepest is near 0
TINY = 1e-30
Z_MAX = 8.0  # the steepest slope is that between -8 and 8


class _Watched(Dense):
    """A layer that keeps the values for its :class:`Signal`."""

    flat: Tensor | None = None  # (B, n), whether the slope is near 0
    dz: Tensor

    def error(self, da: Tensor, sink: Sink) -> Tensor:
        kept = self.a if self.g.keeps == "a" else self.z
        self.flat = self.g.slope(kept, *self.theta).abs() <= FLAT * _steepest(self.g, kept.shape[-1], self.theta)
        return super().error(da, sink)

    def give(self, dz: Tensor, sink: Sink) -> None:
        self.dz = dz
        super().give(dz, sink)


class _WatchedElman(Elman):
    """A recurrent layer that keeps the values for its :class:`Signal`, of all steps before the sequences' ends."""

    flat: Tensor | None = None
    dz: Tensor

    def error(self, da: Tensor, sink: Sink) -> Tensor:
        kept = self.a if self.g.keeps == "a" else self.z
        kept = kept.flatten(0, 1) if self.padding.ended is None else kept[~self.padding.ended.squeeze(-1)]
        self.flat = self.g.slope(kept, *self.theta).abs() <= FLAT * _steepest(self.g, kept.shape[-1], self.theta)
        self.dz = super().error(da, sink)
        return self.dz


def _steepest(g: Activation, units: int, theta: Sequence[Tensor]) -> Tensor:
    """The largest |g'(z; θ)| for z between -8 and 8, for each unit, (units)."""
    like = theta[0] if theta else torch.empty(0)
    z = torch.linspace(-Z_MAX, Z_MAX, 129, dtype=like.dtype, device=like.device).unsqueeze(1).repeat(1, units if theta else 1)
    slope = g.slope(g.value(z, *theta) if g.keeps == "a" else z, *theta)
    return slope.abs().amax(0).expand(units).to(slope.device)


@torch.no_grad()
def signals_of(
    network: BPNetwork,
    x: Tensor,
    y: Tensor,
    lr: float,
    cost: str | None = None,
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[float, list[Signal]]:
    """The mean cost of some rows, and the signals of each layer, from one forward and backward pass without an update.

    Args:
        network: a single network, of any depth and activations.
        x, y, weight: the rows (B, n0), (B, nL) and (B), or sequences, as the network's cost takes them.
        lr: the learning rate α.
        cost, pos_weight: as for :meth:`torchbp.nn.BPNetwork.cost`.
    """
    described = network.iteration(cost)
    parameters = [parameter.detach() for parameter in network.ordered_parameters()]
    layers: list[Any] = layers_of(described, parameters, _Watched, _WatchedElman)
    y, w = target_rows(y, weight, None)
    share = torch.ones_like(y[:, :1]) if w is None else w
    number = described.output.count(y if described.pooling != "each" else y[share[:, 0] != 0])
    if pos_weight is not None:
        u, y = positives_weighted(y, pos_weight)
        share = share * u
    share = share / number
    z = forward(layers, x)
    a = described.output.activation(z)
    value = (described.output.value(z, a, y) * share).sum().item()
    sink = Collect([True] * len(parameters))
    backward(layers, described.output.error(z, a, y) * share, sink)
    return value, [_signal(layer, sink.gradients, lr) for layer in layers]


def _signal(layer: Any, gradients: Sequence[Tensor | None], lr: float) -> Signal:
    """The signal of a layer, over both directions if there are two."""
    parts = getattr(layer, "directions", (layer,))
    # A recurrent layer's W is Wi and Wh together.
    weights = [(p.slot + i, W) for p in parts for i, W in enumerate([p.W] if isinstance(p, Dense) else [p.Wi, p.Wh])]
    changes, sizes = (
        torch.stack([t.norm() for t in of]).norm() for of in zip(*((gradients[s], W) for s, W in weights), strict=True)
    )
    delta = torch.stack([part.dz.norm() for part in parts]).norm()
    signal = [delta.item(), (lr * changes / sizes.clamp(min=TINY)).item()]
    if parts[0].flat is not None:
        flat = torch.cat([part.flat for part in parts], -1)
        signal += [flat.float().mean().item(), flat.all(0).float().mean().item()]
    return Signal(*signal)


class Signals(Callback):
    """Writes scalars of each layer to TensorBoard, at the start and after epochs; the names below are those of layer 1.

    ``norm/dL_dZ/1`` is the norm of δ: if it falls towards layer 1, the error vanishes. ``update/1`` is the relative change
    of W in a step. ``saturated/1`` and ``dead/1`` are the shares of activations and of whole units with a slope near 0
    (:class:`Signal`). The custom scalars page shows them side by side. They are measured on the same 512 rows of the training
    split for the whole run, with any engine; or on the first batch, if the data module is not torchbp's.

    For a recurrent network, the picture ``norm/dL_dA_of_t/1`` shows the norm of ∂L/∂A_t over t on a logarithmic scale, with
    the norm at the start in grey; ``reach/1`` is how many steps back from the end the error reaches.

    If these values or the cost show that training fails in a known way, one line on standard error says so, once.

    Args:
        budget: decides when to measure; None for every epoch.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: Sequence[Tensor | None] | None = None
        self._at_start: Sequence[Tensor] = []  # a recurrent network's errors back in time, at the start
        self._diagnosis = Diagnosis() if trainer.global_step == 0 else None
        data = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero and isinstance(data, RowsDataModule):
            rows = data.split_rows("train")
            self._rows = rows.take(evenly_spaced(len(rows), ROWS))
            self._take(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and self._rows is None:
            self._rows = [None if part is None else part[:ROWS] for part in batch[:3]]
            self._take(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Every process must ask: the answer is broadcast.
        due = self.budget is None or self.budget.due(trainer)
        if due and trainer.is_global_zero:
            self._take(trainer, pl_module)

    def _take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        with self.budget.spending() if self.budget and trainer.global_step else nullcontext():
            assert self._rows is not None
            rows = tuple(part if part is None else part.to(module.device) for part in self._rows)
            x, y, *weight = trainer.precision_plugin.convert_input(rows)
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            arguments = module.input_scaling(x), module.network_target(y), lr
            cost, signals = signals_of(module.network, *arguments, module.cost, module.pos_weight, *weight)
            recurrent = isinstance(module.network, RecurrentNetwork)
            if recurrent:
                signals = self._in_time(trainer, signals, errors_back(module.network, *arguments[:2], module.cost))
            if isinstance(trainer.logger, TensorBoardLogger):
                if not trainer.global_step:
                    trainer.logger.experiment.add_custom_scalars(_layout(recurrent))
                trainer.logger.log_metrics(_scalars(signals), trainer.global_step)
            if self._diagnosis is not None and (line := self._diagnosis.of(cost, signals, lr, trainer)):
                self._diagnosis = None
                print(f"torchbp: {line}", file=sys.stderr, flush=True)

    def _in_time(self, trainer: Trainer, signals: Sequence[Signal], norms: Sequence[Tensor]) -> list[Signal]:
        """Draw each recurrent layer's error over time; return the signals with how far it reaches."""
        self._at_start = self._at_start or norms
        if isinstance(trainer.logger, TensorBoardLogger):
            for number, (now, start) in enumerate(zip(norms, self._at_start, strict=True), 1):
                picture = reach_image(now, start)
                trainer.logger.experiment.add_image(f"norm/dL_dA_of_t/{number}", picture, trainer.global_step)
        *recurrent, last = signals
        return [*(replace(s, reach=reach(n), steps=len(n)) for s, n in zip(recurrent, norms, strict=True)), last]


def _scalars(signals: Sequence[Signal]) -> dict[str, float]:
    scalars = {}
    for number, signal in enumerate(signals, 1):
        named = {"norm/dL_dZ": signal.delta, "update": signal.update, "saturated": signal.saturated, "dead": signal.dead}
        named["reach"] = signal.reach
        scalars.update({f"{name}/{number}": value for name, value in named.items() if value is not None})
    return scalars


def _chart(*tags: str) -> list[Any]:
    return ["Multiline", list(tags)]


def _layout(recurrent: bool) -> dict[str, Any]:
    """TensorBoard's custom scalars page: charts by title, with tags as regular expressions."""
    layers = {
        "norm of δ = ∂L/∂Z (if it falls towards layer 1, the error vanishes)": _chart("norm/dL_dZ/.*"),
        "update of W in a step, as a share of W": _chart("update/.*"),
        "share of saturated activations": _chart("saturated/.*"),
        "share of dead units": _chart("dead/.*"),
        "norm of ∂L/∂W": _chart("norm/dL_dW[ih]?(_reverse)?/.*"),
    }
    if recurrent:
        layers["steps that an error reaches back in time"] = _chart("reach/.*")
    return {
        "training": {"cost": _chart("cost/.*"), "accuracy, or R²": _chart("accuracy/.*", "r2/.*")},
        "backpropagation, layer by layer": layers,
    }
