"""Refuses schedulers of the learning rate that fail, before and during training."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def refuse_failing(make: Callable[[Any], Any], lr: float) -> None:
    """Try the scheduler on a throwaway optimizer with one step: PyTorch accepts some arguments that fail only then.

    Args:
        make: makes the scheduler from an optimizer.
        lr: the learning rate at the start.

    Raises:
        ValueError: the scheduler fails, or sets a learning rate that is negative, infinite or NaN.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr)
    name = "lr_scheduler"
    try:
        scheduler = make(optimizer)
        arguments = {key: getattr(scheduler, key, None) for key in inspect.signature(type(scheduler)).parameters}
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if isinstance(value, int | float | str | list))
        name = f"lr_scheduler {type(scheduler).__name__}({shown.replace(', last_epoch=0', '')})"
        optimizer.step()
        scheduler.step(*([0.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    except Exception as error:
        raise ValueError(f"{name} cannot be used: {error}") from None
    refuse_lr_of(scheduler, name)


def refuse_lr_of(scheduler: Any, name: str | None = None) -> None:
    """Refuse a learning rate that a scheduler has set.

    Args:
        scheduler: the scheduler.
        name: its name in the message; None for that of its class.

    Raises:
        ValueError: the learning rate is negative, infinite or NaN.
    """
    for group in scheduler.optimizer.param_groups:
        if not 0 <= group["lr"] < math.inf:
            name = name or f"lr_scheduler {type(scheduler).__name__}"
            raise ValueError(f"{name} sets the learning rate to {group['lr']:g}; it must be a finite number, 0 or more")
