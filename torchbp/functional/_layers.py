"""Layers: equations 2.1 to 2.4, and 4.1."""

import torch
from torch import Tensor

from torchbp.activations import ACTIVATIONS, Activation, activation_of
from torchbp.functional._calls import activation_call, linear_call
from torchbp.functional._checks import check_floating, check_parameters, check_tensors, checked_layer
from torchbp.functions import as_rows


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted input of a layer, z = x Wᵀ + b (equations 2.1 and 2.3), like ``torch.nn.functional.linear``.

    Args:
        input: (*, in_features), with any or no leading dimensions; for K networks side by side (K, B, in_features), or
            (B, in_features) shared by all.
        weight: (out_features, in_features), or (K, out_features, in_features).
        bias: (out_features), or (K, out_features), or None.

    Returns:
        (*, out_features), or (K, B, out_features).

    Raises:
        ValueError: shapes do not fit.
        TypeError: a tensor does not have a real floating-point type.

    >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]))
    tensor([16.])
    """
    input, weight, bias = checked_layer(input, weight, bias)
    if weight.dim() == 3:
        return linear_call(input.expand(len(weight), *input.shape[-2:]), weight, None if bias is None else bias.unsqueeze(-2))
    if input.dim() == 2:
        return linear_call(input, weight, bias)
    return linear_call(as_rows(input), weight, bias).reshape(*input.shape[:-1], weight.shape[0])


def activate(input: Tensor, activation: str | Activation, *parameters: Tensor) -> Tensor:
    """Activation of weighted inputs, a = g(z; θ) (equations 2.2 and 4.1).

    Args:
        input: (*, n), with any or no leading dimensions; with parameters of K networks (K, B, n).
        activation: a name, an import path ``package.module:name``, or an :class:`torchbp.activations.Activation`.
        parameters: its learnable parameters, (C, 1) or (C, n) each; for K networks (K, C, 1) or (K, C, n).

    Returns:
        Activations in the shape of ``input``.

    Raises:
        ValueError: there is no such activation, or the number or the shapes of parameters do not fit.
        TypeError: a tensor does not have a real floating-point type.

    >>> activate(torch.tensor([-1.0, 0.0]), "sigmoid")
    tensor([0.2689, 0.5000])
    """
    g = activation_of(activation)
    check_tensors(input=input)
    check_floating("input", input)
    check_parameters(g, parameters, input.shape[-1] if input.dim() else 1)
    if g is ACTIVATIONS["identity"]:
        return input
    if not parameters:
        return activation_call(g)(input)
    for name, theta in zip(g.parameters, parameters, strict=True):
        if theta.shape[:-2] not in ((), input.shape[:-2]):
            raise ValueError(
                f"{name} of {g.name} has shape {tuple(theta.shape)}; it does not fit an input {tuple(input.shape)}"
            )
        if theta.dtype != input.dtype:  # outside the Function, so that autograd casts each gradient back to its own dtype
            input = input.to(torch.promote_types(input.dtype, theta.dtype))
    parameters = tuple(theta.to(input.dtype) for theta in parameters)
    if any(theta.dim() > 2 for theta in parameters):
        return activation_call(g)(input, *parameters)
    rows = input.reshape(1, -1) if input.dim() < 2 else as_rows(input)
    return activation_call(g)(rows, *parameters).reshape(input.shape)


def activated_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | Activation, *parameters: Tensor
) -> Tensor:
    """Activation of a layer, a = g(x Wᵀ + b; θ) (equations 2.1 and 2.2): :func:`linear`, then :func:`activate`.

    >>> activated_linear(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, -1.5]]), None, "relu")
    tensor([0.])
    """
    return activate(linear(input, weight, bias), activation, *parameters)


def sigmoid_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Activation of a sigmoid layer, a = g(x Wᵀ + b) (equations 2.1 and 2.2); arguments and errors of :func:`linear`.

    >>> sigmoid_linear(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, -1.0]]))
    tensor([0.5000])
    """
    return activation_call(ACTIVATIONS["sigmoid"])(linear(input, weight, bias))
