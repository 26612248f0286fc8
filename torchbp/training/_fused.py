"""The fused engine: takes many gradient-descent steps in one ``training_step``, and counts each for Lightning."""

import sys
from collections.abc import Sequence
from math import isfinite
from operator import mul
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbp._pytorch import mark_stepped
from torchbp._snapshot import Snapshot, are_finite
from torchbp.descent import Descent
from torchbp.nn import RecurrentNetwork
from torchbp.recurrent_descent import RecurrentDescent
from torchbp.training._counting import count_steps, count_updates
from torchbp.training._finite import not_finite
from torchbp.training._in_time import count_of, joined, parts_of

if TYPE_CHECKING:
    from torchbp.training._module import BPModule


class FusedEngine:
    """Trains a :class:`BPModule` with :class:`torchbp.descent.Descent`.

    Args:
        module: a module that is about to be trained. Its optimizer holds the learning rate, and must be plain gradient descent
            on the whole network.
    """

    def __init__(self, module: "BPModule") -> None:
        self.module, self.trainer = module, module.trainer
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        self.group = optimizer.param_groups[0]
        mark_stepped(optimizer)
        self.band: list[Tensor] = []
        several = self.trainer.world_size > 1
        reduce = _mean_over_processes if several else None
        how: dict[str, Any] = {"cuda_graph": module.cuda_graph, "compile": module.engine == "compiled"}
        how |= {"pos_weight": module.pos_weight, "clip_norm": self.trainer.gradient_clip_val or None}
        kind = RecurrentDescent if isinstance(module.network, RecurrentNetwork) else Descent
        self.descent = kind(module.network, module.cost, self.group["lr"], reduce, **how)

    def norms(self) -> list[Tensor]:
        """The norm of each step's gradient since the last call, if gradients are clipped."""
        norms, self.descent.norms = self.descent.norms, []
        return norms

    def train(
        self, x: Tensor, y: Tensor, batch_size: int, batch_idx: int, weight: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """Take one step for each ``batch_size`` rows in turn.

        Args:
            x, y: the rows of the batches, as the data module gives them.
            batch_idx: the number of batches of this epoch before these.
            weight: the factor of each row's cost, (B), or (B, K) for K networks.

        Returns:
            The rows' mean cost and their predictions (B, num_outputs).

        Raises:
            FloatingPointError: a batch's cost is not finite.
        """
        module = self.module
        if module.bptt_steps:
            return self._train_by_parts(x, y, batch_idx, weight)
        before = Snapshot(module.network)
        batches = -(-len(x) // batch_size)
        lrs = self._learning_rates(batches, batch_idx)
        ends_epoch = batch_idx + batches >= self.trainer.num_training_batches
        a, t = module.input_scaling(x), module.network_target(y)
        keeps = module.keep_gradients and ends_epoch
        several = self.trainer.world_size > 1
        # A single process computes the last batch's gradients separately, so that keeping them changes no bit of a parameter.
        first = batches - 1 if keeps and not several else batches
        costs, predictions = [], []
        with torch.no_grad():
            for begin, end in ((0, first), (first, batches)):
                if begin == end:
                    continue
                part = slice(begin * batch_size, end * batch_size)
                w = None if weight is None else self._of_networks(weight[part])
                if begin == first:
                    self._keep_gradients(a[part], t[part], w)
                own = self._own_rates(lrs[begin:end])
                steps = self.descent.steps(a[part], t[part], batch_size, keeps and several, own, w)
                prediction = self.descent.prediction
                if module.kept is not None:
                    steps, prediction = self._of_kept(steps, prediction, before)
                costs += steps.tolist()
                predictions.append(prediction)
            if not all(map(isfinite, costs)):
                self._explain(x, a, t, weight, batch_size, lrs, before)
        count_updates(self.trainer, batches)
        prediction = torch.cat(predictions) if len(predictions) > 1 else predictions[0]
        if module.target_scaling is not None:
            prediction = module.target_scaling.inverse(prediction)
        if y.dim() == 3:
            counts = [count_of(part) for part in y.split(batch_size)]
            return sum(map(mul, costs, counts)) / max(sum(counts), 1), prediction
        *full, last = costs  # the last batch may be smaller: weight the costs by rows
        rows = batch_size * len(full)
        return (sum(full) * batch_size + last * (len(x) - rows)) / len(x), prediction

    def _of_networks(self, weight: Tensor) -> Tensor:
        """The rows' weights; for K networks, (B, K) is turned to (K, B)."""
        return weight.mT if self.module.network.networks is not None and weight.dim() == 2 else weight

    def _own_rates(self, lrs: Sequence[float]) -> Sequence[float | Tensor]:
        """Each batch's α; for K networks, 0 for a network that is left out."""
        kept = self.module.kept
        return lrs if kept is None or bool(kept.all()) else [lr * kept for lr in lrs]

    def _of_kept(self, costs: Tensor, prediction: Tensor, before: Snapshot) -> tuple[Tensor, Tensor]:
        """The mean costs and predictions over the networks that have not diverged, of (K, batches) and (K, B, nL).

        A network that has just diverged gets its earlier parameters back and is left out from now on, unless it is the last.
        """
        kept, bad = self.module.kept, ~are_finite(self.module.network, costs)
        assert kept is not None
        if bad.any() and ((kept > 0) & ~bad).any():
            before.put_back(bad)
            for k in ((kept > 0) & bad).nonzero().flatten().tolist():
                what = f"network {k + 1} of {len(kept)} diverged before step {self.trainer.global_step + costs.shape[1]}"
                print(f"torchbp: {what} and is left out; a smaller lr may help", file=sys.stderr, flush=True)
            kept[bad] = 0
        self.band.append(costs)
        return costs[kept > 0].mean(0), prediction[kept > 0].mean(0)

    def log_band(self) -> None:
        """Write the lowest and the highest of K networks' mean costs in this epoch to the loggers."""
        if not self.band:
            return
        assert self.module.kept is not None
        means = torch.cat(self.band, 1).mean(1)[self.module.kept > 0]
        self.band.clear()
        values = {"networks/least cost": means.min().item(), "networks/greatest cost": means.max().item()}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, self.trainer.global_step - 1)

    def _train_by_parts(self, x: Tensor, y: Tensor, batch_idx: int, weight: Tensor | None) -> tuple[float, Tensor]:
        """Take one gradient-descent step per ``bptt_steps`` steps of a batch of sequences; states are carried on."""
        module, descent, network = self.module, self.descent, self.module.network
        assert isinstance(descent, RecurrentDescent)
        assert isinstance(network, RecurrentNetwork)
        descent.lr = self.group["lr"]
        states = network.first_states(x)
        parts = list(parts_of(x, y, module.bptt_steps or x.shape[1]))
        keeps = module.keep_gradients and batch_idx + 1 >= self.trainer.num_training_batches
        costs, predictions = [], []
        for number, (px, py) in enumerate(parts):
            a, t = module.input_scaling(px), module.network_target(py)
            before = Snapshot(network)
            cost = descent.step(a, t, keeps and number + 1 == len(parts), weight, states).item()
            if not isfinite(cost):
                before.put_back()
                raise not_finite(module, cost, self.trainer.global_step + number, px)
            costs.append(cost)
            states, prediction = descent.states, descent.prediction
            predictions.append(prediction if module.target_scaling is None else module.target_scaling.inverse(prediction))
        count_steps(self.trainer, len(parts) - 1)
        return joined(costs, predictions, [py for _, py in parts], y)

    def _keep_gradients(self, a: Tensor, t: Tensor, weight: Tensor | None) -> None:
        """Put a batch's ∂L/∂W and ∂L/∂b into the parameters' ``.grad``."""
        module = self.module
        with torch.enable_grad():
            network = module.network
            network.zero_grad()
            if network.networks is not None:  # each network's own gradients, as if it were alone
                a, t = (rows.expand(network.networks, *rows.shape) for rows in (a, t))
            cost = network.cost(a, t, module.cost, weight, pos_weight=module.pos_weight)[0]
            cost.sum().backward()

    def _learning_rates(self, batches: int, batch_idx: int) -> Sequence[float]:
        """Each batch's α. Steps the schedulers between batches; Lightning steps them after the last one."""
        lrs = [self.group["lr"]]
        for done in range(batch_idx + 1, batch_idx + batches):
            for config in self.trainer.lr_scheduler_configs:
                if config.interval == "step" and not config.reduce_on_plateau and done % config.frequency == 0:
                    self.module.lr_scheduler_step(config.scheduler, None)
            lrs.append(self.group["lr"])
        return lrs

    def _explain(
        self,
        x: Tensor,
        a: Tensor,
        t: Tensor,
        weight: Tensor | None,
        batch_size: int,
        lrs: Sequence[float],
        before: Snapshot,
    ) -> None:
        """Repeat the steps, up to the batch with a cost that is not finite, and raise.

        Raises:
            FloatingPointError: with the step and the layer.
        """
        before.put_back()
        weights = [None] * len(lrs) if weight is None else weight.split(batch_size)
        for number, (raw, inputs, targets, w, lr) in enumerate(
            zip(x.split(batch_size), a.split(batch_size), t.split(batch_size), weights, lrs, strict=True)
        ):
            before = Snapshot(self.module.network)
            self.descent.lr = lr
            w = None if w is None else self._of_networks(w)
            cost = self.descent.step(inputs, targets, weight=w).mean().item()
            if not isfinite(cost):
                before.put_back()
                raise not_finite(self.module, cost, self.trainer.global_step + number, raw)


def _mean_over_processes(gradients: Tensor) -> None:
    torch.distributed.all_reduce(gradients)
    gradients.div_(torch.distributed.get_world_size())
