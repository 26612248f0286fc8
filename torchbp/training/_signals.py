"""Backpropagation at work: the size of every layer's error and update, and how many of its units still learn."""

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
from torchbp.elman import Elman
from torchbp.functions import positives_weighted
from torchbp.iteration import Collect, Dense, Sink, backward, forward, layers_of
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.recurrence import target_rows
from torchbp.training._budget import Budget
from torchbp.training._diagnosis import Diagnosis, Signal
from torchbp.training._reach import errors_back, reach, reach_image

ROWS = 512  # of the training split, spread evenly over it, and the same for the whole run
FLAT = 0.05  # a slope of less than this share of the steepest one is near 0
TINY = 1e-30
Z_MAX = 8.0  # the steepest between -8 and 8


class _Watched(Dense):
    """A layer that keeps what its :class:`Signal` is made of."""

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
    """The same of a recurrent layer, of all steps before the sequences' ends."""

    flat: Tensor | None = None
    dz: Tensor

    def error(self, da: Tensor, sink: Sink) -> Tensor:
        kept = self.a if self.g.keeps == "a" else self.z
        kept = kept.flatten(0, 1) if self.padding.ended is None else kept[~self.padding.ended.squeeze(-1)]
        self.flat = self.g.slope(kept, *self.theta).abs() <= FLAT * _steepest(self.g, kept.shape[-1], self.theta)
        self.dz = super().error(da, sink)
        return self.dz


def _steepest(g: Activation, units: int, theta: Sequence[Tensor]) -> Tensor:
    """The largest |g'(z; θ)| between -8 and 8, of each unit, (units)."""
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
    """The mean cost of some rows, and the signals of each layer, of one iteration that changes no parameter.

    Args:
        network: of any depth and activations; not of K networks.
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
    """What a layer has kept, over both directions where there are two."""
    parts = getattr(layer, "directions", (layer,))
    # Of a recurrent layer W is Wi and Wh.
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
    """Scalars of every layer in TensorBoard, here of layer 1, at the start and then of the network after an epoch.

    ``norm/dL_dZ/1`` is the norm of δ: where it falls from layer to layer, the error vanishes. ``update/1`` is by how much of
    itself a step changes W, ``saturated/1`` and ``dead/1`` are the shares of activations and of whole units whose slope is near
    0 (:class:`Signal`). The custom scalars page has them side by side. They are of the same 512 rows of the training split for
    the whole run, whatever the engine, or of the first batch where the data are not torchbp's.

    Of a recurrent network there is a picture besides, ``norm/dL_dA_of_t/1``: the norm of ∂L/∂A_t against t, in powers of ten,
    in grey what it was at the start; ``reach/1`` is how many steps back from the end it is felt.

    Where they, or the cost, show that training fails in a known way, a line on standard error says so, once.

    Args:
        budget: when they are taken; None for every epoch.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: Sequence[Tensor | None] | None = None
        self._at_start: Sequence[Tensor] = []  # of a recurrent network, its errors back in time
        self._diagnosis = Diagnosis() if trainer.global_step == 0 else None
        data = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero and isinstance(data, RowsDataModule):
            rows = data.split_rows("train")
            self._rows = rows.take(torch.linspace(0, len(rows) - 1, min(len(rows), ROWS)).long())
            self._take(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and self._rows is None:
            self._rows = [None if part is None else part[:ROWS] for part in batch[:3]]
            self._take(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Asked in every process, for all are told the same.
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
            if isinstance(module.network, RecurrentNetwork):
                signals = self._in_time(trainer, signals, errors_back(module.network, *arguments[:2], module.cost))
            if isinstance(trainer.logger, TensorBoardLogger):
                if not trainer.global_step:
                    trainer.logger.experiment.add_custom_scalars(LAYOUT)
                trainer.logger.log_metrics(_scalars(signals), trainer.global_step)
            if self._diagnosis is not None and (line := self._diagnosis.of(cost, signals, lr, trainer)):
                self._diagnosis = None
                print(f"torchbp: {line}", file=sys.stderr, flush=True)

    def _in_time(self, trainer: Trainer, signals: Sequence[Signal], norms: Sequence[Tensor]) -> list[Signal]:
        """Draw each recurrent layer's error in time; the signals with how far it reaches."""
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


# TensorBoard's custom scalars page: charts by title, their tags as regular expressions.
LAYOUT = {
    "training": {"cost": _chart("cost/.*"), "accuracy, or R²": _chart("accuracy/.*", "r2/.*")},
    "backpropagation, layer by layer": {
        "norm of δ = ∂L/∂Z: vanishing where it falls from layer to layer": _chart("norm/dL_dZ/.*"),
        "update of W in a step, as a share of W": _chart("update/.*"),
        "share of saturated activations": _chart("saturated/.*"),
        "share of dead units": _chart("dead/.*"),
        "steps that an error reaches back in time": _chart("reach/.*"),
        "norm of ∂L/∂W": _chart("norm/dL_dW/.*"),
    },
}
