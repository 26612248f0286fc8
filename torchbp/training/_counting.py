"""Tells Lightning's counters of steps that it has not made itself."""

from dataclasses import fields
from typing import Any

from lightning.pytorch import Trainer

from torchbp.training._lightning import count_stepped_batches


def count_updates(trainer: Trainer, updates: int) -> None:
    """Make Lightning's counters what they are after so many steps on as many batches; it adds the ``training_step`` itself."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    count_steps(trainer, updates - 1)
    _add(batches, updates - 1)
    batches.is_last_batch = batches.current.ready >= trainer.num_training_batches
    count_stepped_batches(trainer, updates - 1)


def count_steps(trainer: Trainer, more: int) -> None:
    """Tell Lightning of so many steps that it has not made itself."""
    _add(trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step, more)


def _add(progress: Any, more: int) -> None:
    for part in (progress.total, progress.current):
        for counted in fields(part):
            setattr(part, counted.name, getattr(part, counted.name) + more)
