"""Trains networks side by side with the in-place descent, each on its own rows, until each has learned enough.

The scikit-learn estimators, ``torchbp search`` and ``torchbp cross-validate`` train with it. Lightning is not imported.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, isfinite, nan
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp._memory import number_of_parameters
from torchbp._snapshot import Snapshot, are_finite
from torchbp.blocks import automatic_steps
from torchbp.curvature import BATCHES, lrs_from_curvature
from torchbp.descent import Descent
from torchbp.nn import BPNetwork

__all__ = ["Learner", "Plan", "Table", "fit_together", "group_size", "network_of"]

SHAPES = 8  # minimum number of groups of trials of one shape, so that few trials also try several shapes
GROUP_VALUES = 2**27  # maximum numbers in the parameters and activations of a group: half a GiB of float32


class Table(Protocol):
    """The rows to train on: ``y`` (N, nL), ``weight`` (N) or None, and :meth:`x`."""

    y: Tensor
    weight: Tensor | None

    def x(self, rows: Tensor) -> Tensor:
        """The x of the rows with indices (*), (*, n0)."""


@dataclass(frozen=True)
class Plan:
    """How networks are trained; all networks of a plan have the same shape.

    Attributes:
        sizes, output, activation: as for :class:`torchbp.nn.BPNetwork`.
        cost: a cost for the output.
        batch_size: rows in a batch.
        epochs: the maximum number of epochs.
        per_unit: as for :class:`torchbp.nn.BPNetwork`.
        clip: clamp x, scaled by a learner's ``scaling``, to ±clip; None for no limit.
        tol, patience: a network ends after more than ``patience`` epochs without an improvement of cost or score by ``tol``;
            None for never.
        score: (predictions (V, nL), targets (V, nL), weights (V)) -> a network's score on its held-out rows; ``cost`` for
            their negative mean cost; None for no score.
        decide: whether the score replaces the cost in this rule, and each network gets the parameters of its best epoch; if
            not, scores are only recorded.
    """

    sizes: tuple[int, ...]
    output: str
    activation: Any
    cost: str
    batch_size: int
    epochs: int
    per_unit: bool = False
    clip: float | None = None
    tol: float = 0.0
    patience: int | None = None
    score: Callable[[Tensor, Tensor, Tensor], float] | Literal["cost"] | None = None
    decide: bool = True

    @property
    def weights(self) -> int:
        """The number of weights and biases of a network."""
        return number_of_parameters(self.sizes)


@dataclass
class Learner:
    """One network, in and after training.

    Attributes:
        state: its state_dict.
        rows: the indices of its training rows in the table, (N).
        order: the generator of each epoch's order of rows; None for the order of ``rows``.
        lr: α; None until it is found from the curvature of the cost, and not finite if there is none.
        lr_factor: multiplies the α that is found.
        order_seed: seeds each epoch's order, with the epoch's number added; replaces ``order``.
        held_out: the indices of the rows that it is scored on; None for none.
        scaling: its own mean and scale of x, (n0) each; None if the table is scaled already, or not at all.
        target_scaling: the same for y, (nL) each.
        target_weight: multiplies y, (nL).
        pos_weight: as for :class:`torchbp.descent.Descent`, (nL).
        costs, scores: one for each epoch.
        ended: whether to stop its training; ``on_epoch`` may set it.
        diverged: whether its cost or a parameter is no longer finite, or no ``lr`` is found; it then has its parameters from
            before that epoch.
        best, best_state: its best value so far, and with ``decide`` the parameters of that epoch.
        waited: the number of epochs since the last improvement by ``tol``.
    """

    state: dict[str, Tensor]
    rows: Tensor
    order: torch.Generator | None = None
    lr: float | None = None
    held_out: Tensor | None = None
    scaling: tuple[Tensor, Tensor] | None = None
    target_scaling: tuple[Tensor, Tensor] | None = None
    target_weight: Tensor | None = None
    pos_weight: Tensor | None = None
    lr_factor: float = 1.0
    order_seed: int | None = None
    costs: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ended: bool = False
    diverged: bool = False
    best: float = -inf
    best_state: dict[str, Tensor] | None = None
    waited: int = 0

    def shuffled(self, ahead: bool = False) -> Tensor:
        """The indices of its rows in an epoch's order.

        Args:
            ahead: do not advance the generator, so that the next epoch has this order.
        """
        generator = self.order
        if self.order_seed is not None:
            generator = torch.Generator().manual_seed(self.order_seed + len(self.costs))
        elif generator is not None and ahead:
            generator = torch.Generator().set_state(generator.get_state())
        if generator is None:
            return self.rows
        return self.rows.index_select(0, torch.randperm(len(self.rows), generator=generator).to(self.rows.device))


def network_of(plan: Plan, states: Sequence[dict[str, Tensor]]) -> BPNetwork:
    """The network of one state, which shares its tensors; for several states, K networks side by side on copies."""
    one = len(states) == 1
    networks = None if one else len(states)
    network = BPNetwork(
        plan.sizes, plan.output, activation=plan.activation, per_unit=plan.per_unit, networks=networks, device="meta"
    )
    state = states[0] if one else {name: torch.stack([state[name] for state in states]) for name in states[0]}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_()


def group_size(most: int, trials: int, shapes: int) -> int:
    """The number of a search's trials of one shape to train side by side, at most ``most``.

    Args:
        trials: the number of all trials.
        shapes: the number of shapes that they may have.
    """
    return min(most, ceil(trials / min(SHAPES, shapes)))


def fit_together(
    learners: Sequence[Learner],
    table: Table,
    plan: Plan,
    on_epoch: Callable[[int, Sequence[Learner]], object] | None = None,
) -> None:
    """Train networks side by side, in groups that fit into memory; the results are in their :class:`Learner`.

    Each network descends as it would alone. It leaves the group when it has learned enough or diverged.

    Args:
        on_epoch: called after each epoch with its number, from 1, and the learners trained in it; a true result ends the group.

    Raises:
        ValueError: only some learners have a ``target_scaling``.
    """
    if any(learner.target_scaling for learner in learners) and not all(learner.target_scaling for learner in learners):
        raise ValueError("either all learners have a target_scaling or none")
    values = 2 * plan.weights + 4 * plan.batch_size * sum(plan.sizes)
    size = max(1, GROUP_VALUES // values)
    for begin in range(0, len(learners), size):
        _Group(learners[begin : begin + size], table, plan).train(on_epoch)


class _Group:
    """Networks in memory side by side."""

    def __init__(self, learners: Sequence[Learner], table: Table, plan: Plan) -> None:
        self.table, self.plan = table, plan
        self._take(list(learners))
        if missing := [learner for learner in learners if learner.lr is None]:
            self._take(missing)
            lrs = lrs_from_curvature(self.network, self._first(), plan.cost, self.pos_weight)
            for learner, lr in zip(missing, lrs.tolist(), strict=True):
                learner.lr = learner.lr_factor * lr
                if not isfinite(lr):
                    learner.costs, learner.diverged = [nan], True
            self.learners = [learner for learner in learners if not learner.diverged]
            if self.learners:
                self._take(self.learners)

    def _take(self, learners: list[Learner]) -> None:
        self.learners = learners
        self.network: BPNetwork = network_of(self.plan, [learner.state for learner in learners])
        self.values = dict(self.network.named_parameters())
        self.device = next(iter(self.values.values())).device
        lrs = [learner.lr for learner in learners]
        self.scaling = _stacked([learner.scaling for learner in learners])
        self.target_scaling = _stacked([learner.target_scaling for learner in learners])
        self.target_weight = _stacked_rows([learner.target_weight for learner in learners])
        self.pos_weight: Tensor | None = _stacked_rows([learner.pos_weight for learner in learners])
        if None in lrs:
            return
        lr: Any = lrs[0]
        if len(learners) > 1:
            lr = torch.tensor(lrs, dtype=next(iter(self.values.values())).dtype, device=self.device)
        self.descent = Descent(self.network, self.plan.cost, lr, pos_weight=self.pos_weight)
        self._count([len(learner.rows) for learner in learners])
        values = self.plan.batch_size * (self.plan.sizes[0] + 2 * self.plan.sizes[-1]) * len(learners)
        self.block = self.plan.batch_size * automatic_steps(self.plan.weights * len(learners), values, self.plan.batch_size)

    def train(self, on_epoch: Callable[[int, Sequence[Learner]], object] | None) -> None:
        if not self.learners:
            return
        for number in range(1, self.plan.epochs + 1):
            before = Snapshot(self.network)
            costs = self._epoch([learner.shuffled() for learner in self.learners])
            finite = are_finite(self.network, costs)
            if not finite.all():
                before.put_back(None if len(self.learners) == 1 else ~finite)
                costs = costs.where(finite | ~costs.isfinite(), nan)
            scores = self._scores() if self.plan.score is not None else [None] * len(costs)
            for k, of_network in enumerate(zip(self.learners, costs.tolist(), scores, strict=True)):
                self._judge(k, *of_network)
            ended = on_epoch is not None and on_epoch(number, self.learners)
            going = [not (learner.ended or learner.diverged or self._enough(learner)) for learner in self.learners]
            if ended or not any(going) or number == self.plan.epochs:
                break
            if not all(going):
                self._give_back()
                self._take([learner for learner, goes in zip(self.learners, going, strict=True) if goes])
        self._give_back()

    def _judge(self, k: int, learner: Learner, cost: float, score: float | None) -> None:
        learner.costs.append(cost)
        if not isfinite(cost):
            learner.diverged = True
            return
        if score is not None:
            learner.scores.append(score)
        by_score = self.plan.score is not None and self.plan.decide
        value = score if by_score and score is not None else -cost
        learner.waited = learner.waited + 1 if value < learner.best + self.plan.tol else 0
        if value > learner.best:
            learner.best = value
            if by_score:
                learner.best_state = self._state(k)

    def _enough(self, learner: Learner) -> bool:
        return self.plan.patience is not None and learner.waited > self.plan.patience

    def _state(self, k: int) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._views(k).items()}

    def _give_back(self) -> None:
        """Copy each network's parameters to its learner."""
        for k, learner in enumerate(self.learners):
            if learner.best_state is not None and self.plan.decide:
                learner.state = learner.best_state
            else:
                learner.state = self._state(k)

    def _epoch(self, orders: Sequence[Tensor]) -> Tensor:
        """One iteration on each batch of every network's rows; returns each network's mean cost, (K)."""
        batch, longest = self.plan.batch_size, max(self.counts)
        order = self._joined(orders)
        costs = []
        for begin in range(0, longest, self.block):
            x, y, weight = self._rows(order, slice(begin, begin + self.block))
            costs.append(self.descent.steps(x, y, batch, weight=weight))
        means = costs[0] if len(costs) == 1 else torch.cat(costs, -1)
        return (means * self.shares).sum(-1, dtype=torch.float64).reshape(-1)

    def _count(self, counts: list[int]) -> None:
        """Set what follows from the networks' numbers of rows.

        ``shares`` has each batch's share in its epoch's mean cost, (K, number of batches), or (number of batches) for one
        network. ``filling`` has each row's weight, (K, N): 0 for rows that only fill up; None if the numbers are the same.
        """
        self.counts, batch, longest, dtype = counts, self.plan.batch_size, max(counts), self.table.y.dtype
        n = torch.tensor(counts, device=self.device).unsqueeze(-1)
        starts = torch.arange(0, longest, batch, device=self.device)
        rows = (n - starts).clamp(0, batch)
        shares = rows.to(dtype) / n
        self.shares = shares if len(counts) > 1 else shares[0]
        self.filling = None
        if len(set(counts)) > 1:
            sizes = (longest - starts).clamp(max=batch)  # of the batches with their filling
            factors = sizes.to(dtype) / rows.clamp(min=1)
            own = torch.arange(longest, device=self.device) < n
            self.filling = torch.where(own, factors.repeat_interleave(sizes, -1), 0.0)

    def _joined(self, orders: Sequence[Tensor]) -> Tensor:
        """The indices of all networks' rows, (K, N), or (N) for one network."""
        if len(orders) == 1:
            return orders[0]
        longest = max(self.counts)
        return torch.stack([order if len(order) == longest else _filled(order, longest) for order in orders])

    def _rows(self, order: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = order[..., part]
        weight = None if self.filling is None else self.filling[..., part]
        if self.table.weight is not None:
            own = self.table.weight[rows]
            weight = own if weight is None else own * weight
        return self._inputs(rows), self._targets(rows), weight

    def _inputs(self, rows: Tensor) -> Tensor:
        return _scaled(self.table.x(rows), self.scaling, self.plan.clip)

    def _targets(self, rows: Tensor) -> Tensor:
        y = _scaled(_at(self.table.y, rows), self.target_scaling)
        return y if self.target_weight is None else y * self.target_weight

    def _first(self) -> Iterator[tuple[Tensor, ...]]:
        """The first batches of the first epoch; its order can still be drawn."""
        orders = [learner.shuffled(ahead=True) for learner in self.learners]
        batch = self.plan.batch_size
        self._count([len(o) for o in orders])
        order = self._joined(orders)
        for number in range(min(BATCHES, -(-max(self.counts) // batch))):
            x, y, weight = self._rows(order, slice(number * batch, (number + 1) * batch))
            yield (x, y) if weight is None else (x, y, weight)

    @torch.no_grad()
    def _scores(self) -> list[float]:
        """Each network's score on its held-out rows."""
        held_out = [learner.held_out for learner in self.learners if learner.held_out is not None]
        longest = max(map(len, held_out))
        rows = torch.stack([_filled(rows, longest) for rows in held_out])
        by_cost, parts = self.plan.score == "cost", []
        for part in (rows if len(rows) > 1 else rows[0]).split(self.block, -1):
            x = self._inputs(part)
            if by_cost:
                y, of = self._targets(part), self.plan.cost
                costs, _ = self.network.cost(x, y, of, reduction="none", pos_weight=self.pos_weight)
                parts.append(costs.mean(-1, keepdim=True))
            else:
                parts.append(self.network(x))
        values = torch.cat(parts, -2).view(len(rows), longest, -1)
        of_each = zip(self.learners, held_out, values, strict=True)
        return [self._score(learner, rows, own[: len(rows)]) for learner, rows, own in of_each]

    def _score(self, learner: Learner, rows: Tensor, values: Tensor) -> float:
        """A network's score on its held-out rows (V), from their costs (V, 1) or its predictions (V, nL)."""
        if not callable(self.plan.score):
            return -values.mean(dtype=torch.float64).item()
        y = _scaled(self.table.y[rows], learner.target_scaling)
        weight = y.new_ones(len(y)) if self.table.weight is None else self.table.weight[rows]
        return self.plan.score(values, y, weight)

    def _views(self, k: int) -> dict[str, Tensor]:
        """Views of the parameters of network k."""
        one = len(self.learners) == 1
        return {name: value.detach() if one else value.detach()[k] for name, value in self.values.items()}


def _filled(rows: Tensor, length: int) -> Tensor:
    """The indices, filled up to ``length`` with the first one."""
    return torch.cat([rows, rows[:1].expand(length - len(rows))])


def _at(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows]; index_select is faster."""
    return values.index_select(0, rows.reshape(-1)).view(*rows.shape, *values.shape[1:])


def _scaled(values: Tensor, scaling: tuple[Tensor, Tensor] | None, clip: float | None = None) -> Tensor:
    if scaling is None:
        return values
    return eq.standardized(values, *scaling, clip)


def _stacked(scalings: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    """Mean and scale of one network, (n) each, or of each of K, (K, 1, n)."""
    given = [scaling for scaling in scalings if scaling is not None]
    if not given or len(scalings) == 1:
        return scalings[0]
    return torch.stack([mean for mean, _ in given]).unsqueeze(-2), torch.stack([scale for _, scale in given]).unsqueeze(-2)


def _stacked_rows(values: Sequence[Tensor | None]) -> Tensor | None:
    """Of one network (n), of K (K, 1, n)."""
    given = [value for value in values if value is not None]
    return values[0] if not given or len(values) == 1 else torch.stack(given).unsqueeze(-2)
