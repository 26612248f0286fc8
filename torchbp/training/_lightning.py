"""The private parts of Lightning that this package uses, each with its reason.

A test calls each, so it names the part that a new version of Lightning has changed.
"""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def every_n_train_steps(checkpoint: ModelCheckpoint) -> int:
    """Steps between two saves, 0 for none: a block of steps must end where it saves."""
    return checkpoint._every_n_train_steps


def count_stepped_batches(trainer: Trainer, batches: int) -> None:
    """Add ``batches`` to Lightning's count of batches with a step: loggers use it as the step."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += batches


def copies_this_process(trainer: Trainer) -> bool:
    """Whether training runs in copies of this process: then nothing that it changes comes back."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def instantiator(cli: LightningCLI, key: str) -> Callable[..., Any]:
    """Lightning's function that makes the model or the data and keeps its arguments; our own instantiators call it."""
    return _InstantiatorFn(cli=cli, key=key)
