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
    """The Function's ``apply``, or under torch.compile that of its form without a jvp, which is all that Dynamo can trace.

    Under torch.func inside torch.compile it is forward alone, for PyTorch to differentiate: Dynamo would drop the backward, and
    the gradients of those arguments that no Function before has computed.
    """
    traced: Any = type(function.__name__, (function,), {"jvp": staticmethod(Function.jvp)})

    def call(*args: Any) -> Tensor:
        if not torch.compiler.is_compiling():
            return function.apply(*args)
        if torch._C._are_functorch_transforms_active():
            return function.forward(*args)
        return traced.apply(*args)

    return call


def as_rows(t: Tensor) -> Tensor:
    """All leading dimensions made one, a view where it can be: (*, n) -> (B, n)."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])
