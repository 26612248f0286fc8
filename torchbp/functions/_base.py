"""What the Functions share."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class BPFunction(Function):
    """A Function written as forward, setup_context, backward and jvp; PyTorch derives its vmap rule from them."""

    generate_vmap_rule = True


def call_of(function: type[BPFunction]) -> Callable[..., Tensor]:
    """The Function's ``apply``, or under torch.compile that of its form without a jvp, which is all that Dynamo can trace."""
    traced: Any = type(function.__name__, (function,), {"jvp": staticmethod(Function.jvp)})

    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return traced.apply(*args)
        return function.apply(*args)

    return call


def as_rows(t: Tensor) -> Tensor:
    """All leading dimensions made one, a view where it can be: (*, n) -> (B, n)."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])
