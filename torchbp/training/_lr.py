"""Chooses the learning rate for ``lr: auto``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from torchbp.curvature import check_lrs, lrs_from_curvature

if TYPE_CHECKING:
    from torchbp.training._module import BPModule


def refuse_lr(lr: float | str) -> None:
    """Refuse a value that is not a learning rate.

    Raises:
        ValueError: neither ``'auto'`` nor a number above 0 and at most 3.4e38.
    """
    if lr != "auto" and (isinstance(lr, str) or not 0 < lr <= torch.finfo(torch.float32).max):
        raise ValueError(f"lr is {lr}; it must be 'auto', or a number above 0 and at most 3.4e38")


def find_lr(module: "BPModule") -> float:
    """1/λ of the first training batches, the same in every process; for K networks the smallest.

    Raises:
        ValueError, FloatingPointError: as :func:`torchbp.curvature.lr_from_curvature`.
    """
    trainer = module.trainer
    trainer.fit_loop.setup_data()  # make the loader, which Lightning would do a moment later
    # Restore the random generator, global or the loader's own: a shuffling DataLoader draws from it.
    own = getattr(trainer.train_dataloader, "generator", None)
    state = None if own is None else own.get_state()
    with isolate_rng():
        lrs = lrs_from_curvature(module.network, _batches(module), module.cost, module.pos_weight)
    check_lrs(lrs)
    if own is not None:
        own.set_state(state)
    return trainer.strategy.broadcast(lrs.min().item())


def _batches(module: "BPModule") -> Iterator[tuple[Tensor, ...]]:
    """Batches (x, y) or (x, y, weight) as the network takes them, each with the rows of all processes."""
    trainer: Any = module.trainer
    for batch in trainer.train_dataloader or ():
        tensors = [t.to(module.device) for t in batch[:3] if t is not None]
        # The fused engine's loader gives the rows of many batches at once.
        for parts in zip(*(t.split(getattr(batch, "batch_size", max(len(t), 1))) for t in tensors), strict=True):
            joined = tuple(_of_all(part, trainer.world_size) for part in parts)
            x, y, *weight = trainer.precision_plugin.convert_input(joined)
            if module.bptt_steps:  # a step sees only the first of them
                x, y = x[:, : module.bptt_steps], y[:, : module.bptt_steps]
            x, y, k = module.input_scaling(x), module.network_target(y), module.network.networks
            yield *(t if k is None else t.expand(k, *t.shape) for t in (x, y)), *weight


def _of_all(part: Tensor, world_size: int) -> Tensor:
    """The rows of all processes. Lightning's all_gather also carries gradients, and uses a form that PyTorch deprecates."""
    if world_size == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(world_size)]
    torch.distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)
