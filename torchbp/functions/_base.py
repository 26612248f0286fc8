"""What the Functions share."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import _pytorch


class BPFunction(Function):
    """A Function written as forward, setup_context, backward and jvp; PyTorch derives its vmap rule from them."""

    generate_vmap_rule = True


def call_of(function: type[BPFunction]) -> Callable[..., Tensor]:
    """A Function's ``apply``, or what stands in for it where PyTorch would drop one of its derivatives.

    - Under torch.compile: the Function without its jvp, which Dynamo cannot trace.
    - Under torch.func inside torch.compile, where Dynamo would drop the backward: forward alone, which PyTorch differentiates.
    - In forward mode inside forward mode, where PyTorch takes a jvp's own derivative to be zero: forward alone, likewise.
    """
    traced: Any = type(function.__name__, (function,), {"jvp": staticmethod(Function.jvp)})

    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return function.forward(*args) if _pytorch.transforms_active() else traced.apply(*args)
        return function.forward(*args) if _pytorch.forward_levels() > 1 else function.apply(*args)

    return call


def as_rows(t: Tensor) -> Tensor:
    """All leading dimensions made one, a view where it can be: (*, n) -> (B, n)."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])
