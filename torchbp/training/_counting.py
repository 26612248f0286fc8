"""Adds to Lightning's counters the steps that Lightning did not take itself."""

from dataclasses import fields
from typing import Any

from lightning.pytorch import Trainer

from torchbp.training._lightning import count_stepped_batches


def count_updates(trainer: Trainer, updates: int) -> None:
    """Count ``updates`` steps on as many batches in one ``training_step``; Lightning counts the last one itself."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    count_steps(trainer, updates - 1)
    _add(batches, updates - 1)
    batches.is_last_batch = batches.current.ready >= trainer.num_training_batches
    count_stepped_batches(trainer, updates - 1)


def count_steps(trainer: Trainer, more: int) -> None:
    """Count ``more`` steps that Lightning did not take itself."""
    _add(trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step, more)


def _add(progress: Any, more: int) -> None:
    for part in (progress.total, progress.current):
        for counted in fields(part):
            setattr(part, counted.name, getattr(part, counted.name) + more)
