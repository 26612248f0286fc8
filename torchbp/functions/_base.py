"""The base class of the Functions, and how to call them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import _pytorch


class BPFunction(Function):
    """A Function with forward, setup_context, backward and jvp; PyTorch derives its vmap rule from these."""

    generate_vmap_rule = True


def call_of(function: type[BPFunction]) -> Callable[..., Tensor]:
    """A callable that applies a Function, and replaces it in settings where PyTorch would lose one of its derivatives.

    - Under torch.compile, it applies the Function without its jvp, which Dynamo cannot trace.
    - Under torch.func inside torch.compile, where Dynamo loses the backward, it calls forward, which PyTorch differentiates.
    - In forward mode inside forward mode, where PyTorch takes the derivative of a jvp as zero, it calls forward too.
    """
    traced: Any = type(function.__name__, (function,), {"jvp": staticmethod(Function.jvp)})

    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return function.forward(*args) if _pytorch.transforms_active() else traced.apply(*args)
        return function.forward(*args) if _pytorch.forward_levels() > 1 else function.apply(*args)

    return call


def as_rows(t: Tensor) -> Tensor:
    """Flatten all leading dimensions to one, as a view if possible: (*, n) -> (B, n)."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])
