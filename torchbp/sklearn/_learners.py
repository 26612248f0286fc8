"""Makes the networks that an estimator trains, and the curve of their training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbp.fitting import Learner
from torchbp.nn import BPNetwork


def initial_state(sizes: Sequence[int], output: str, activation: Any, seed: int, dtype: Any) -> dict[str, Tensor]:
    """The state_dict of a network at its start; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # as torch.manual_seed does on the CPU, in a hundredth of the time
        network = BPNetwork(sizes, output, activation=activation)
    # Drawn in float32, so that both precisions start alike.
    dtypes = {np.dtype(np.float64): torch.float64, np.dtype(np.float32): torch.float32}
    return {name: value.detach().to(dtypes[np.dtype(dtype)]) for name, value in network.state_dict().items()}


def learner_of(
    state: dict[str, Tensor],
    lr: float | None,
    seed: int,
    train: Tensor,
    held_out: Tensor | None,
    shuffle: bool,
    sample: int | None,
) -> Learner:
    """A learner with a copy of a network's state, on the device of ``train``.

    Args:
        lr: the learning rate; None for one that is found.
        seed: draws the order of the rows, and the sample.
        train, held_out: the numbers of the rows to train on and to validate by.
        shuffle: whether each epoch has an order of its own.
        sample: the size of a bootstrap sample of the rows, drawn with replacement; None for all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = None if sample is None else torch.randint(sample, (sample,), generator=generator).to(train.device)
    return Learner(
        {name: value.to(train.device, copy=True) for name, value in state.items()},
        train if drawn is None else train[drawn],
        generator if shuffle else None,
        lr,
        held_out,
    )


def on_cpu(learner: Learner) -> Learner:
    state = {name: value.detach().cpu() for name, value in learner.state.items()}
    return Learner(state, learner.rows.cpu()[:0], learner.order, learner.lr, costs=learner.costs)


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean of the networks that were still trained in each epoch."""
    longest = max(map(len, curves))
    return [float(np.mean([curve[epoch] for curve in curves if len(curve) > epoch])) for epoch in range(longest)]
