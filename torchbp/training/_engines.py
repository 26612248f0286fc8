"""Chooses the engine of a run: what the fused and the compiled engine cannot do."""

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint, ProgressBar
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

if TYPE_CHECKING:
    from torchbp.training._module import BPModule

ENGINES = ("auto", "autograd", "fused", "compiled")
# All names that a Trainer has for them.
PRECISIONS = (None, 32, "32", "32-true", 64, "64", "64-true", "bf16-true")
SGD_ONLY = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)


def refuse_engine(engine: str, steps_per_execution: int | None, cuda_graph: bool, sequences: str | None) -> None:
    """Refuse an unknown engine, and settings that the engine does not have.

    Raises:
        ValueError: such an engine or setting.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
    if steps_per_execution is not None and (engine == "autograd" or steps_per_execution < 1):
        raise ValueError(
            f"steps_per_execution is {steps_per_execution}; it must be 1 or more, with another engine than autograd"
        )
    if cuda_graph and engine in ("autograd", "compiled"):
        raise ValueError(f"cuda_graph is for engine: fused only, here engine is {engine}")
    if sequences is not None and (cuda_graph or engine == "compiled"):
        raise ValueError(f"{'cuda_graph' if cuda_graph else 'engine: compiled'} is for rows; here sequences is {sequences}")


def refuse_device(device: torch.device) -> None:
    """Refuse a device without float64, which finding the learning rate and R² take.

    Raises:
        ValueError: it is one.
    """
    if device.type == "mps":
        raise ValueError("the Trainer's device is mps, which has no float64; set its accelerator to 'cpu'")


def trainer_obstacle(trainer: Trainer, engine: str, single: bool = True) -> str | None:
    """The Trainer's setting, in words, that the fused or the compiled engine cannot do; None if there is none.

    Args:
        engine: the engine's name.
        single: whether there is one network, and no CUDA graph.
    """
    accumulation = [c.scheduling for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)  # each process has the whole network
    clips = trainer.gradient_clip_val or None
    asked = {
        "gradient_clip_val": clips if engine == "compiled" or not single else None,
        "gradient_clip_algorithm": "value" if clips and trainer.gradient_clip_algorithm == "value" else None,
        "accumulate_grad_batches": trainer.accumulate_grad_batches if trainer.accumulate_grad_batches != 1 else None,
        "GradientAccumulationScheduler": accumulation[0] if accumulation else None,
        "strategy": None if whole else type(trainer.strategy).__name__,
        "precision": None if trainer.precision in PRECISIONS else trainer.precision,
        "the number of processes": trainer.world_size if engine == "compiled" and trainer.world_size > 1 else None,
    }
    return next((f"{name} is {value}" for name, value in asked.items() if value is not None), None)


def optimizer_obstacle(module: "BPModule") -> str | None:
    """Why the optimizer is not plain gradient descent on the whole network, in words; None if it is."""
    optimizer = module.optimizers(use_pl_optimizer=False)
    if not isinstance(optimizer, torch.optim.SGD) or len(optimizer.param_groups) != 1:
        return f"the optimizer is {_kind(optimizer)}, not torch.optim.SGD with one group of parameters"
    (group,) = optimizer.param_groups
    if given := [name for name in SGD_ONLY if group[name]]:
        return f"{given[0]} is {group[given[0]]}"
    trained = {id(parameter) for parameter in group["params"] if parameter.requires_grad}
    every = {id(parameter) for parameter in module.network.parameters()}
    return None if trained == every else "not every parameter is trained"


def step_watcher(trainer: Trainer) -> str | None:
    """A callback with a hook for every step, in words; None if there is none."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback).__module__.startswith("torchbp.") or isinstance(callback, ModelCheckpoint | ProgressBar):
            continue  # they handle blocks of steps
        for hook in STEP_HOOKS:
            if getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook):
                return f"{_kind(callback)} has a hook for every step"
    return None


def refuse_obstacle(obstacle: str | None, engine: str) -> None:
    """Refuse an obstacle to an engine that was chosen by name.

    Raises:
        ValueError: ``obstacle`` is not None.
    """
    if obstacle is not None:
        raise ValueError(f"{obstacle}; engine: {engine} cannot do that, use engine: autograd")


def choose_engine(module: "BPModule", obstacle: str | None) -> None:
    """Choose the fused engine, or autograd if there is an obstacle; a choice of autograd is final.

    Raises:
        ValueError: there is an obstacle, and the engine was chosen by name or there are several networks.
    """
    if module.engine == "autograd":
        return
    if obstacle and module.hparams["networks"]:
        raise ValueError(f"{obstacle}; several networks cannot be trained with that")
    if module.hparams["engine"] != "auto":
        refuse_obstacle(obstacle, module.engine)
    else:
        module.engine, module.obstacle = ("autograd" if obstacle else "fused"), obstacle


def _kind(one: object) -> str:
    return type(one).__name__


def refuse_precision(precision: str | int | None, engine: str) -> None:
    """Refuse a Trainer's precision that the engine cannot train in.

    Raises:
        ValueError: mixed precision, or float16.
    """
    refuse_obstacle(None if precision in PRECISIONS else f"precision is {precision}", engine)
