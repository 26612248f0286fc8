"""The Functions in the manner of ``torch.nn.functional``: the same names, arguments, shapes and meaning."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from torchbp import equations as eq
from torchbp import functions
from torchbp.functions import as_rows, call_of, positives_weighted, reduce

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear",
    "mse_loss",
    "network_cost",
    "sigmoid_linear",
]

_linear = call_of(functions.Linear)
_sigmoid_linear = call_of(functions.SigmoidLinear)
_squared_error = call_of(functions.SquaredError)
_cross_entropy = call_of(functions.CrossEntropy)
_sigmoid_cross_entropy = call_of(functions.SigmoidCrossEntropy)
_softmax_cross_entropy = call_of(functions.SoftmaxCrossEntropy)
# Past Function.apply, which looks for torch.func's transforms as network_cost does, and takes a twentieth of a small step.
_network_cost = super(Function, functions.NetworkCost).apply


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted input of a layer, z = x Wᵀ + b (equations 2.1 and 2.3), as ``torch.nn.functional.linear``.

    Args:
        input: (*, in_features), any leading shape, also none.
        weight: (out_features, in_features).
        bias: (out_features), or None.

    Returns:
        (*, out_features).

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a tensor that is not of a real floating-point type.

    >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]))
    tensor([16.])
    """
    return _linear(*_checked_layer(input, weight, bias))


def sigmoid_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Activation of a sigmoid layer, a = g(x Wᵀ + b) (equations 2.1 and 2.2); arguments and errors as :func:`linear`.

    >>> sigmoid_linear(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, -1.0]]))
    tensor([0.5000])
    """
    return _sigmoid_linear(*_checked_layer(input, weight, bias))


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared-error cost (a - y)² (equation 3.1a), as ``torch.nn.functional.mse_loss``.

    Args:
        input: activations or predictions, any shape.
        target: the same shape as ``input``; unlike PyTorch's, never broadcast.
        reduction: ``'mean'`` divides by the number of elements, ``'sum'`` adds them, ``'none'`` keeps the shape.

    Returns:
        A scalar, or the shape of ``input`` for ``'none'``.

    Raises:
        ValueError: shapes that differ, or another ``reduction``.
        TypeError: a tensor that is not of a real floating-point type.

    >>> mse_loss(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]))
    tensor(0.1250)
    """
    return _squared_error(*_checked_cost(input, target, reduction))


def binary_cross_entropy(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy cost of activations (equation 3.1c), as ``torch.nn.functional.binary_cross_entropy``.

    ``input`` and ``target`` lie in [0, 1]; shapes, ``reduction`` and errors as :func:`mse_loss`. Where the activation comes
    from a sigmoid, :func:`binary_cross_entropy_with_logits` is as exact at saturation, and its gradient never vanishes there.

    >>> binary_cross_entropy(torch.tensor([0.5]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    return _cross_entropy(*_checked_cost(input, target, reduction))


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, reduction: str = "mean", pos_weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy cost of g(z) from the weighted input z (equations 2.4 and 3.1c); its backward is a - y (3.2c).

    As ``torch.nn.functional.binary_cross_entropy_with_logits``, finite for every finite ``input``; ``target`` lies in [0, 1];
    shapes, ``reduction`` and errors as :func:`mse_loss`. ``pos_weight``, 0 or above and broadcast to ``input``, multiplies the
    cost's term of the positive class, y ln a; it may have a gradient of its own.

    >>> binary_cross_entropy_with_logits(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    input, target, reduction = _checked_cost(input, target, reduction)
    if pos_weight is None:
        return _sigmoid_cross_entropy(input, target, reduction)
    weight, target = positives_weighted(target.to(input.dtype), pos_weight)
    return reduce(weight * _sigmoid_cross_entropy(input, target, "none"), reduction)


def cross_entropy(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy cost of softmax outputs, as ``torch.nn.functional.cross_entropy``; its backward is a - y as well.

    Args:
        input: weighted inputs, finite, (C) or (B, C).
        target: class indices, () or (B), or probabilities of the shape of ``input``.
        reduction: ``'mean'`` divides by the number of rows, ``'sum'`` adds them, ``'none'`` gives one cost a row.

    Returns:
        A scalar, or () or (B) for ``'none'``.

    Raises:
        ValueError: shapes that do not fit, or another ``reduction``.
        TypeError: an ``input`` that is not of a real floating-point type.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    if input.dim() not in (1, 2):
        raise ValueError(f"input has shape {tuple(input.shape)}; cross_entropy takes (C) or (B, C)")
    if not (target.is_floating_point() or target.is_complex()):
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"target has shape {tuple(target.shape)}; class indices for an input of shape {tuple(input.shape)} "
                f"have shape {tuple(input.shape[:-1])}"
            )
        target = torch.zeros_like(input).scatter(-1, target.long().unsqueeze(-1), 1)  # one-hot, also under vmap
    input, target, reduction = _checked_cost(input, target, reduction)
    if input.dim() == 2:
        return _softmax_cross_entropy(input, target, reduction)
    # One row: its mean and its sum are the cost itself.
    return _softmax_cross_entropy(input.unsqueeze(0), target.unsqueeze(0), "sum")


def network_cost(
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    cost: str = "cross_entropy",
    output: str = "sigmoid",
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cost of a network of sigmoid layers, and its prediction, with one node in the graph (equations 2.1 to 3.1).

    The values and gradients are those of :func:`sigmoid_linear`, :func:`linear` and the cost one after the other, at less
    overhead and memory. Under torch.compile, torch.func, forward-mode derivatives and autocast it is these functions that run.

    Args:
        input: (*, n0).
        target: (*, nL), within [0, 1] for cross-entropy; taken in the type of ``input``.
        parameters: W1 (n1, n0), b1 (n1), ..., WL, bL, of at least one layer.
        cost: ``'cross_entropy'`` (3.1c, for sigmoid outputs) or ``'squared_error'`` (3.1a).
        output: ``'sigmoid'``, or ``'linear'`` for a last layer without activation.
        reduction: as in :func:`mse_loss`.
        pos_weight: as in :func:`binary_cross_entropy_with_logits`, for cross-entropy.

    Returns:
        The cost, a scalar, or (*, nL) for ``'none'``; and the prediction (*, nL), without a gradient.

    Raises:
        ValueError: shapes that do not fit, another ``cost``, ``output`` or ``reduction``, a ``pos_weight`` of squared error.
        TypeError: a tensor that is not of a real floating-point type.

    >>> network_cost(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]), [torch.tensor([[2.0, -1.0]]), torch.tensor([0.0])])
    (tensor(0.6931), tensor([[0.5000]]))
    """
    end = functions.ENDS.get((cost, output))
    if end is None:
        allowed = ", ".join(f"{c!r} with {o!r}" for c, o in functions.ENDS)
        raise ValueError(f"cost is {cost!r} with output {output!r}; it must be {allowed}")
    _check_reduction(reduction)
    _check_floating("input", input)
    if target.dtype != input.dtype:
        _check_floating("target", target)
        target = target.to(input.dtype)
    weight, weight_has_gradient = None, False
    if pos_weight is not None:
        if cost != "cross_entropy":
            raise ValueError(f"pos_weight is given with cost {cost!r}; it is for 'cross_entropy' only")
        weight_has_gradient = target.requires_grad or pos_weight.requires_grad
    if reduction == "none" or weight_has_gradient or _goes_by_single_layers():
        return _by_single_layers(input, target, parameters, cost, output, reduction, pos_weight)
    if pos_weight is not None:
        weight, target = positives_weighted(target, pos_weight)
    call = _network_cost if torch.is_grad_enabled() else functions.network_forward
    try:
        if input.dim() == 2:
            return call(input, target, weight, end, reduction == "mean", *parameters)
        weight = None if weight is None else as_rows(weight)
        value, prediction = call(as_rows(input), as_rows(target), weight, end, reduction == "mean", *parameters)
    except (RuntimeError, ValueError, IndexError):
        # Looked at only now, for to look at every shape takes a twentieth of a small network's step.
        _check_network(input, target, parameters)
        raise
    return value, prediction.reshape(target.shape)


def _by_single_layers(
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    cost: str,
    output: str,
    reduction: str,
    pos_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check_network(input, target, parameters)
    z = input
    for W, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        z = sigmoid_linear(z, W, b)
    z = linear(z, *parameters[-2:])
    if cost == "cross_entropy":
        return binary_cross_entropy_with_logits(z, target, reduction, pos_weight), eq.sigmoid(z.detach())
    a = eq.sigmoid(z) if output == "sigmoid" else z
    return mse_loss(a, target, reduction), a.detach()


def _goes_by_single_layers() -> bool:
    """Whether more than the values and gradients is asked for."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
    )


def _check_network(input: Tensor, target: Tensor, parameters: Sequence[Tensor]) -> None:
    if not parameters or len(parameters) % 2:
        raise ValueError(f"there are {len(parameters)} parameters; they must be W1, b1, ..., WL, bL")
    *rows, n = input.shape or (None,)
    for W, b in zip(parameters[::2], parameters[1::2], strict=True):
        _check_floating("W", W)
        if W.shape != (*b.shape, n) or b.dim() != 1:
            raise ValueError(
                f"a layer's W has shape {tuple(W.shape)} and its b {tuple(b.shape)}, where the layer below or the input has "
                f"width {n}; they must be (n, {n}) and (n)"
            )
        (n,) = b.shape
    if target.shape != (*rows, n):
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be that of the prediction, {(*rows, n)}")


def _checked_layer(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    if weight.dim() != 2 or input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; "
            "they must be (*, in_features) and (out_features, in_features)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; for this weight it must be {tuple(weight.shape[:1])}")
    _check_floating("input", input)
    _check_floating("weight", weight)
    if bias is not None:
        _check_floating("bias", bias)
    if _autocasts(input) and input.dtype != torch.float64:
        # The casts stand outside the Function, so that autograd carries each gradient back to its own type.
        dtype = torch.get_autocast_dtype(input.device.type)
        return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return input, weight, bias


def _checked_cost(input: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor, str]:
    if input.shape != target.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be that of input, {tuple(input.shape)}")
    _check_reduction(reduction)
    _check_floating("input", input)
    _check_floating("target", target)
    if _autocasts(input) and input.dtype in (torch.float16, torch.bfloat16):
        return input.float(), target.float(), reduction
    if input.dtype != target.dtype:
        dtype = torch.promote_types(input.dtype, target.dtype)
        return input.to(dtype), target.to(dtype), reduction
    return input, target, reduction


def _autocasts(tensor: Tensor) -> bool:
    device_type = tensor.device.type
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; it must be 'mean', 'sum' or 'none'")


def _check_floating(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} is {tensor.dtype}; it must be of a real floating-point type")
