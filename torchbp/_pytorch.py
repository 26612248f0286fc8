"""All uses of PyTorch's private names in this package, each with its reason.

A test calls each function, so it names the one that a new version of PyTorch breaks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def transforms_active() -> bool:
    """Whether a torch.func transform is active: then an autograd.Function needs a setup_context."""
    return torch._C._are_functorch_transforms_active()


def forward_levels() -> int:
    """The number of nested forward-mode transforms: with two or more, PyTorch does not differentiate a jvp (issue 197867)."""
    if not transforms_active():
        return 0
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or []
    return sum(level.key() == functorch.TransformType.Jvp for level in stack)


def more_than_gradients() -> bool:
    """Whether torch.func, torch.compile, autocast or forward mode is active: a plain forward and backward is not enough."""
    # The public is_autocast_enabled tells only about one device type.
    return transformed() or torch._C._is_any_autocast_enabled()


def transformed() -> bool:
    """Whether torch.func, torch.compile or forward mode is active."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def may_write(tensor: Tensor) -> bool:
    """Whether a Function may write its results in place: nothing is differentiated, and ``tensor`` is not a vmap batch."""
    return not (torch.is_grad_enabled() or transformed() or torch._C._functorch.is_legacy_batchedtensor(tensor))


def keeps_graph() -> bool:
    """Whether this backward pass has ``retain_graph=True``: then saved tensors must be kept."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def is_one(dL: Tensor) -> bool:
    """Whether ``dL`` is 1, as ``cost.backward()`` starts with; False on a GPU, where reading it would wait for the device."""
    try:
        return dL.is_cpu and dL.item() == 1
    except RuntimeError:  # a batch of gradients, or a tensor without values
        return False


def parameters_of(module: nn.Module) -> Mapping[str, Any]:
    """A module's own parameters: reading the attributes takes as long as the products of a small network."""
    return module._parameters


def mark_stepped(optimizer: torch.optim.Optimizer) -> None:
    """Mark that there was a step: schedulers warn if the optimizer made none."""
    optimizer._opt_called = True  # type: ignore[attr-defined]


def file_writer(writer: Any) -> Any:
    """A SummaryWriter's file writer: the public methods cannot write many scalars at once, or a finished graph."""
    return writer._get_file_writer()


def graph_node() -> Callable[..., Any]:
    """Makes a node of TensorBoard's graph: SummaryWriter.add_graph traces the network, which PyTorch 2.14 deprecates."""
    from torch.utils.tensorboard._proto_graph import node_proto

    return node_proto


def scan() -> Callable[..., Any]:
    """A loop over time that torch.export keeps as a loop: the number of steps of a Python loop would be fixed."""
    from torch._higher_order_ops.scan import scan as of_time

    return of_time
