"""Networks trained side by side, each compared with the same network alone."""

import numpy as np
import pytest
import torch

from torchbp.curvature import lr_from_curvature, lrs_from_curvature
from torchbp.fitting import Learner, Plan, fit_together, network_of
from torchbp.nn import BPNetwork


class Held:
    weight = None

    def __init__(self, x, y):
        self.rows, self.y = x, y

    def x(self, rows):
        return self.rows[rows]


def learners_of(plan, counts, lrs):
    torch.manual_seed(0)
    states = [BPNetwork(plan.sizes, plan.output).double().state_dict() for _ in counts]
    return [
        Learner(state, torch.arange(count), torch.Generator().manual_seed(k), lr)
        for k, (state, count, lr) in enumerate(zip(states, counts, lrs, strict=True))
    ]


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_networks_with_rows_of_their_own_learn_as_by_themselves(output):
    torch.manual_seed(1)
    table = Held(torch.randn(50, 4).double(), torch.eye(3).double()[torch.randint(3, (50,))])
    plan = Plan((4, 6, 3), output, "sigmoid", "cross_entropy", 8, 4)
    counts, lrs = (50, 43, 16), (None, 0.5, None)
    together, alone = learners_of(plan, counts, lrs), learners_of(plan, counts, lrs)
    fit_together(together, table, plan)
    for learner in alone:
        fit_together([learner], table, plan)
    for ours, one in zip(together, alone, strict=True):
        assert ours.costs == pytest.approx(one.costs, rel=1e-9)
        for name in one.state:
            torch.testing.assert_close(ours.state[name], one.state[name], rtol=1e-7, atol=1e-10)


def test_a_network_that_diverges_does_not_end_the_others(monkeypatch):
    table = Held(torch.randn(40, 4).double(), torch.randn(40, 1).double())
    plan = Plan((4, 3, 1), "linear", "identity", "squared_error", 8, 30)
    learners = learners_of(plan, (40, 40, 40), (0.01, 1e9, 0.01))
    monkeypatch.setattr("torchbp.fitting.GROUP_VALUES", 2 * (2 * plan.weights + 4 * 8 * 8))  # groups of two
    fit_together(learners, table, plan)
    assert [learner.diverged for learner in learners] == [False, True, False]
    assert all(len(learner.costs) == 30 for learner in learners[::2])
    assert all(value.isfinite().all() for learner in learners for value in learner.state.values())


@pytest.mark.parametrize("count", [1, 2])
def test_a_last_step_that_is_too_large_is_undone(count):
    table = Held(10 * torch.randn(40, 4).double(), torch.randn(40, 1).double())
    plan = Plan((4, 1), "linear", "identity", "squared_error", 40, 1)
    learners = learners_of(plan, [40] * count, [1e308, 0.001][:count])
    start = learners[0].state["layers.0.weight"].clone()
    fit_together(learners, table, plan)  # the only cost is from before the only step
    assert [learner.diverged for learner in learners] == [True, False][:count]
    assert learners[0].state["layers.0.weight"].equal(start)
    assert np.isnan(learners[0].costs).all()


def test_a_network_without_a_learning_rate_does_not_end_the_others():
    table = Held(torch.randn(40, 4).double(), torch.randn(40, 1).double())
    plan = Plan((4, 3, 1), "linear", "identity", "squared_error", 8, 3)
    learners, [alone] = learners_of(plan, (40, 40), (None, None)), learners_of(plan, (40,), (None,))
    learners[1].state["layers.0.weight"].fill_(1e200)
    fit_together(learners, table, plan)
    fit_together([alone], table, plan)
    assert [learner.diverged for learner in learners] == [False, True]
    assert learners[0].costs == pytest.approx(alone.costs, rel=1e-9)
    broken = learners_of(plan, (40, 40), (None, None))
    for learner in broken:
        learner.state["layers.0.weight"].fill_(1e200)
    fit_together(broken, table, plan)
    assert [learner.diverged for learner in broken] == [True, True]


@pytest.mark.parametrize("score", ["cost", lambda a, y, weight: -(weight * (a - y).square().mean(-1)).mean().item()])
def test_held_out_rows_are_scored_block_by_block(score, monkeypatch):
    monkeypatch.setattr("torchbp.fitting.automatic_steps", lambda *_: 1)
    taken = []

    class Watched(Held):
        def x(self, rows):
            taken.append(rows.shape[-1])
            return super().x(rows)

    table = Watched(torch.randn(60, 4).double(), torch.randn(60, 2).double())
    plan = Plan((4, 3, 2), "linear", "sigmoid", "squared_error", 8, 2, score=score, decide=False)
    learners = learners_of(plan, (30, 30), (0.01, 0.02))
    for learner, first in zip(learners, (30, 41), strict=True):
        learner.held_out = torch.arange(first, 60)
    fit_together(learners, table, plan)
    assert max(taken) == 8
    for learner in learners:
        a = network_of(plan, [learner.state])(table.rows[learner.held_out])
        assert -learner.scores[-1] == pytest.approx((a - table.y[learner.held_out]).square().mean().item())


def test_each_networks_curvature_is_its_own():
    networks = [BPNetwork([3, 4, 2]).double() for _ in range(3)]
    x, y = torch.randn(3, 20, 3).double(), torch.rand(3, 20, 2).double()
    plan = Plan((3, 4, 2), "sigmoid", "sigmoid", "cross_entropy", 20, 1)
    lrs = lrs_from_curvature(network_of(plan, [network.state_dict() for network in networks]), [(x, y)])
    assert lrs.tolist() == pytest.approx([lr_from_curvature(network, [(x[k], y[k])]) for k, network in enumerate(networks)])
