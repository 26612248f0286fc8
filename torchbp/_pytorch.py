"""What this package uses of PyTorch without a public name, each with its reason.

A test calls each, so that it names the one that a new version of PyTorch has changed.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transforms_active() -> bool:
    """Whether a transform of torch.func is active: there an autograd.Function needs a setup_context."""
    return torch._C._are_functorch_transforms_active()


def forward_levels() -> int:
    """How many forward-mode transforms are nested: from two on PyTorch differentiates no custom jvp (issue 197867)."""
    if not transforms_active():
        return 0
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or []
    return sum(level.key() == functorch.TransformType.Jvp for level in stack)


def more_than_gradients() -> bool:
    """Whether values and gradients are not all that is asked for: torch.func, torch.compile, autocast or forward mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_any_autocast_enabled()  # the public is_autocast_enabled asks one device type at a time
        or forward_ad._current_level >= 0
    )


def keeps_graph() -> bool:
    """In a backward pass, whether it was called with ``retain_graph=True``: what is saved may not be given away then."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def is_one(dL: Tensor) -> bool:
    """Whether this is the gradient that ``cost.backward()`` begins with, where asking costs nothing."""
    try:
        return dL.is_cpu and dL.item() == 1  # any other device would have to be waited for
    except RuntimeError:  # a batch of gradients, or a tensor without values
        return False
