"""Networks for sequences: makes them, and trains them by truncated backpropagation through time."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.outputs import Output
from torchbp.training._counting import count_steps
from torchbp.training._finite import not_finite

if TYPE_CHECKING:
    from torchbp.training._module import BPModule

PLACES = (None, "last", "each")
MAX_LAYERS = 1000  # hidden layers


def network_of(
    sizes: Sequence[int],
    entry: Output,
    init: Any,
    activation: Any,
    per_unit: bool,
    sequences: str | None,
    pooling: Any,
    bidirectional: bool,
    networks: int | None = None,
) -> BPNetwork:
    """The network for rows; or for sequences, with a target at the ``last`` step or at ``each``.

    Raises:
        ValueError: too many hidden layers; a setting for sequences in a network for rows; a network for sequences without a
            hidden layer.
        MemoryError: the layers do not fit into memory.
    """
    hidden_sizes = list(sizes[1:-1])
    if len(hidden_sizes) > MAX_LAYERS:
        raise ValueError(f"hidden_sizes has {len(hidden_sizes)} layers; at most {MAX_LAYERS} are allowed")
    if sequences not in PLACES:
        raise ValueError(f"sequences is {sequences!r}; it must be last, each or null")
    if pooling not in ("last", "mean"):
        raise ValueError(f"pooling is {pooling!r}; it must be last or mean")
    if pooling == "mean" and sequences != "last":
        raise ValueError(f"pooling is mean; it is for sequences: last, with one target each, here sequences is {sequences}")
    if sequences is None and bidirectional:
        raise ValueError("bidirectional is True; it is for sequences, and the data are rows")
    if sequences is not None and not hidden_sizes:
        raise ValueError("hidden_sizes is []; a network for sequences has a recurrent layer or more, such as [16]")
    how: Any = "each" if sequences == "each" else pooling
    try:
        if sequences is None:
            return BPNetwork(sizes, entry.name, init, activation, per_unit, networks)
        return RecurrentNetwork(sizes, entry.name, init, activation, per_unit, how, bidirectional)
    except MemoryError as error:
        raise MemoryError(f"hidden_sizes is {hidden_sizes}, so that {error}") from None


def refuse_bptt_steps(bptt_steps: int | None, sequences: str | None, bidirectional: bool) -> None:
    """Refuse truncation where it is not possible.

    Raises:
        ValueError: a number below 1, sequences without a target at each step, or a bidirectional network.
    """
    if bptt_steps is None:
        return
    if bptt_steps < 1:
        raise ValueError(f"bptt_steps is {bptt_steps}; it must be 1 or more")
    if sequences != "each" or bidirectional:
        what = f"sequences is {sequences}" if sequences != "each" else "the network is bidirectional"
        raise ValueError(f"bptt_steps is {bptt_steps}; it is for sequences: each, and not for bidirectional: here {what}")


def parts_of(x: Tensor, y: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split sequences (B, T, n) into parts of ``steps`` steps; stop where all sequences have ended."""
    for px, py in zip(x.split(steps, 1), y.split(steps, 1), strict=True):
        if px[:, 0].isnan().all():
            return
        yield px, py


def count_of(y: Tensor) -> int:
    """The number of targets: rows, or steps with a target."""
    return len(y) if y.dim() == 2 else int((~y[..., 0].isnan()).sum())


def joined(costs: Sequence[float], predictions: Sequence[Tensor], ys: Sequence[Tensor], y: Tensor) -> tuple[float, Tensor]:
    """The mean cost over all parts of :func:`parts_of`, and their predictions joined, NaN after all sequences have ended.

    Args:
        costs, predictions, ys: those of each part.
        y: the targets of all steps.
    """
    counts = [count_of(part) for part in ys]
    value = sum(cost * count for cost, count in zip(costs, counts, strict=True)) / max(sum(counts), 1)
    whole = torch.full_like(y, float("nan"), dtype=predictions[0].dtype)
    whole[:, : sum(part.shape[1] for part in predictions)] = torch.cat([*predictions], 1)
    return value, whole


def step_by_parts(module: "BPModule", x: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Tensor, float, Tensor]:
    """Take a step by autograd after each ``bptt_steps`` steps of sequences; Lightning takes the one after the last part.

    Returns:
        The cost of the last part, with its graph; the mean cost and the predictions of all parts.

    Raises:
        FloatingPointError: a cost is not finite.
        ValueError: there are several processes.
    """
    network, trainer = module.network, module.trainer
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    if trainer.world_size > 1:
        raise ValueError(
            f"bptt_steps is {module.bptt_steps} and there are {trainer.world_size} processes; that needs engine: fused"
        )
    assert isinstance(network, RecurrentNetwork)
    states, parts = network.first_states(x), list(parts_of(x, y, module.bptt_steps or x.shape[1]))
    costs: list[Tensor] = []
    predictions = []
    for number, (px, py) in enumerate(parts):
        if costs:
            optimizer.zero_grad()
            costs[-1].backward()
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.step()
        batch = module.input_scaling(px), module.network_target(py), module.cost, weight
        cost, prediction, states = network.cost_from(states, *batch, pos_weight=module.pos_weight)
        if not isfinite(value := cost.item()):
            raise not_finite(module, value, module.global_step + number, px)
        costs.append(cost)
        predictions.append(prediction if module.target_scaling is None else module.target_scaling.inverse(prediction))
    count_steps(trainer, len(parts) - 1)
    return costs[-1], *joined([cost.item() for cost in costs], predictions, [py for _, py in parts], y)
