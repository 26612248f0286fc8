"""Chooses how many steps the fused engine takes in one ``training_step``."""

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from torchbp.blocks import automatic_steps
from torchbp.training._lightning import every_n_train_steps

if TYPE_CHECKING:
    from torchbp.training._module import BPModule


def updates_ahead(module: "BPModule", done: int, batch_size: int) -> int:
    """How many batches the next ``training_step`` takes.

    Args:
        done: the number of batches of this epoch before these.
        batch_size: the number of rows in a batch.
    """
    if module.engine == "autograd":  # chosen after the loader was made
        return 1
    if module.hparams["sequences"] and (module.bptt_steps or not module.sequence_steps):
        return 1  # with bptt_steps, or before the length is known: a block could take hours
    steps = max(module.sequence_steps, 1)
    weights = steps * sum(parameter.numel() for parameter in module.network.parameters())
    values = steps * batch_size * (module.hparams["num_features"] + 2 * module.hparams["num_outputs"])
    wanted = module.steps_per_execution or automatic_steps(weights, values, batch_size)
    return _within_events(module.trainer, wanted, done)


def _within_events(trainer: Trainer, wanted: int, done: int) -> int:
    """The largest block of steps, at most ``wanted``, that crosses no Lightning event (epoch end, validation, checkpoint).

    Args:
        wanted: the number of steps asked for.
        done: the number of batches of this epoch before these.
    """
    ahead = [wanted, int(trainer.num_training_batches) - done]
    if trainer.max_steps != -1:
        ahead.append(trainer.max_steps - trainer.global_step)
    if trainer.val_check_batch not in (None, float("inf")):
        interval = int(trainer.val_check_batch)
        since = trainer.fit_loop.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else done
        ahead.append(interval - since % interval)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and (every := every_n_train_steps(callback)) > 0:
            ahead.append(every - trainer.global_step % every)
    return max(min(ahead), 1)
