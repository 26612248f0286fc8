"""What this package uses of PyTorch without a public name, each with its reason.

A test calls each, so that it names the one that a new version of PyTorch has changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
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
    # The public is_autocast_enabled asks one device type at a time.
    return transformed() or torch._C._is_any_autocast_enabled()


def transformed() -> bool:
    """Whether torch.func, torch.compile or forward mode is at work."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def may_write(tensor: Tensor) -> bool:
    """Whether a Function may write results like this tensor in place: no derivative is made of them, and none is a batch."""
    return not (torch.is_grad_enabled() or transformed() or torch._C._functorch.is_legacy_batchedtensor(tensor))


def keeps_graph() -> bool:
    """In a backward pass, whether it was called with ``retain_graph=True``: what is saved may not be given away then."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def is_one(dL: Tensor) -> bool:
    """Whether this is the gradient that ``cost.backward()`` begins with, where asking costs nothing."""
    try:
        return dL.is_cpu and dL.item() == 1  # any other device would have to be waited for
    except RuntimeError:  # a batch of gradients, or a tensor without values
        return False


def parameters_of(module: nn.Module) -> Mapping[str, Any]:
    """A module's own parameters from where they are kept: the attributes take as long as the products of a small network."""
    return module._parameters


def mark_stepped(optimizer: torch.optim.Optimizer) -> None:
    """Tell schedulers that there was a step: they ask, and warn where it was made without the optimizer."""
    optimizer._opt_called = True  # type: ignore[attr-defined]


def file_writer(writer: Any) -> Any:
    """What a SummaryWriter writes events with: its public methods take neither many scalars at once nor a ready graph."""
    return writer._get_file_writer()


def graph_node() -> Callable[..., Any]:
    """What makes a node of TensorBoard's graph: SummaryWriter.add_graph traces the network, which PyTorch 2.14 deprecates."""
    from torch.utils.tensorboard._proto_graph import node_proto

    return node_proto


def scan() -> Callable[..., Any]:
    """A loop over time that torch.export keeps as one, of any number of steps: what Python's would be of is compiled in."""
    from torch._higher_order_ops.scan import scan as of_time

    return of_time
