"""Argument checks and casts that several functionals share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.activations import Activation
from torchbp.iteration import Network, layers_of

REDUCTIONS = ("mean", "sum", "none")


def check_tensors(*optional: str, **arguments: object) -> None:
    """Refuse arguments that are no tensors; those named in ``optional`` may be None."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and not (value is None and name in optional):
            raise TypeError(f"{name} is {' '.join(repr(value).split()):.80}; it must be a tensor")


def check_network(network: Network, input: Tensor, target: Tensor, parameters: Sequence[Tensor]) -> None:
    if not parameters:
        raise ValueError("there are 0 parameters; they must be W1, b1, ..., WL, bL")
    *rows, n = input.shape or (None,)
    for layer in layers_of(network, parameters):
        W, b = layer.W, layer.b
        check_floating("W", W)
        if W.shape != (*b.shape, n) or b.dim() not in (1, 2):
            raise ValueError(
                f"a layer's W has shape {tuple(W.shape)} and its b {tuple(b.shape)}, where the layer below or the input has "
                f"width {n}; they must be (n, {n}) and (n)"
            )
        n = b.shape[-1]
    shape = (*rows, n)
    if target.shape != shape and not (parameters[0].dim() == 3 and target.shape[-2:] == shape[-2:]):
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be that of the prediction, {shape}")


def check_parameters(g: Activation, parameters: Sequence[Tensor], n: int) -> None:
    if len(parameters) != len(g.parameters):
        raise ValueError(f"there are {len(parameters)} parameters; {g.name} has {len(g.parameters)}")
    for (name, parameter), theta in zip(g.parameters.items(), parameters, strict=True):
        check_tensors(**{name: theta})
        count = len(parameter.initial)
        if theta.shape[-2:] not in ((count, 1), (count, n)):
            raise ValueError(f"{name} of {g.name} has shape {tuple(theta.shape)}; it must be ({count}, 1) or ({count}, {n})")
        check_floating(name, theta)


def checked_layer(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    check_tensors("bias", input=input, weight=weight, bias=bias)
    of_networks = weight.dim() == 3 and input.dim() in (2, 3) and input.shape[:-2] in ((), weight.shape[:1])
    if (weight.dim() != 2 and not of_networks) or input.dim() == 0 or input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; "
            "they must be (*, in_features) and (out_features, in_features)"
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; for this weight it must be {tuple(weight.shape[:-1])}")
    check_floating("input", input)
    check_floating("weight", weight)
    if bias is not None:
        check_floating("bias", bias)
    if autocasts(input) and input.dtype != torch.float64:
        # The casts are outside the Function, so that autograd casts each gradient back to its own dtype.
        dtype = torch.get_autocast_dtype(input.device.type)
        return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return input, weight, bias


def checked_cost(input: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor, str]:
    if input.shape != target.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be that of input, {tuple(input.shape)}")
    check_reduction(reduction)
    check_floating("input", input)
    check_floating("target", target)
    if autocasts(input) and input.dtype in (torch.float16, torch.bfloat16):
        return input.float(), target.float(), reduction
    if input.dtype != target.dtype:
        dtype = torch.promote_types(input.dtype, target.dtype)
        return input.to(dtype), target.to(dtype), reduction
    return input, target, reduction


def autocasts(tensor: Tensor) -> bool:
    device_type = tensor.device.type
    return device_type != "meta" and torch.is_autocast_enabled(device_type)  # meta has no autocast, and asking raises


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be 'mean', 'sum' or 'none'")


def check_floating(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} is {tensor.dtype}; it must be of a real floating-point type")
