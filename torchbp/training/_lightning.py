"""What this package uses of Lightning without a public name, each with its reason.

A test calls each, so that it names the one that a new version of Lightning has changed.
"""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def every_n_train_steps(checkpoint: ModelCheckpoint) -> int:
    """After how many steps it saves, 0 for never: a block of steps must not cross one that it saves after."""
    return checkpoint._every_n_train_steps


def count_stepped_batches(trainer: Trainer, batches: int) -> None:
    """Have Lightning count as many batches more that were stepped on: by it loggers tell the steps apart."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += batches


def copies_this_process(trainer: Trainer) -> bool:
    """Whether the run is in copies of this process, of which nothing comes back."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def instantiator(cli: LightningCLI, key: str) -> Callable[..., Any]:
    """What Lightning's command line makes the model or the data with, and keeps the arguments of; ours stands before it."""
    return _InstantiatorFn(cli=cli, key=key)
