"""Checks sequences, lengths and weights of a recurrent layer, and refuses those that do not fit together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp import _pytorch
from torchbp.iteration import Network

__all__ = ["check_network_of_sequences", "check_sequences", "checked_lengths"]


def check_sequences(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    batch_first: bool,
) -> None:
    """Check the arguments of :func:`torchbp.functional.elman`.

    Raises:
        ValueError: shapes do not fit, or there is no step.
        TypeError: a tensor does not have a real floating-point type.
    """
    m = weight_ih.shape[0] if weight_ih.dim() else 0
    if input.dim() not in (2, 3) or weight_ih.shape != (m, input.shape[-1]) or weight_hh.shape != (m, m):
        raise ValueError(
            f"input has shape {tuple(input.shape)}, weight_ih {tuple(weight_ih.shape)} and weight_hh {tuple(weight_hh.shape)}; "
            "they must be (T, B, n), (m, n) and (m, m)"
        )
    steps = int(batch_first and input.dim() == 3)
    if input.shape[steps] == 0:
        raise ValueError(f"input has shape {tuple(input.shape)}; it must have at least one step")
    state = (*(() if input.dim() == 2 else (input.shape[1 - steps],)), m)
    for name, tensor, shape in (("hx", hx, state), ("bias_ih", bias_ih, (m,)), ("bias_hh", bias_hh, (m,))):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; here it must be {shape}")
    every = {"input": input, "hx": hx, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    for name, tensor in every.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}; it must be of a real floating-point type")


def checked_lengths(lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
    """Check the lengths of sequences (T, B, n); returns them as a tensor (B) on the same device.

    Raises:
        ValueError: there is not one for each sequence, or one is not from 1 to T.
        TypeError: they are not integers.
    """
    found = torch.as_tensor(lengths)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"lengths are {found.dtype}; they must be integers")
    steps, batch = x.shape[:2]
    if found.shape != (batch,):
        raise ValueError(f"lengths have shape {tuple(found.shape)}; for this input they must be ({batch},)")
    # Under torch.func and torch.compile and on the meta device, values cannot be read.
    if batch and not (_pytorch.transformed() or type(found) is not Tensor or found.is_meta):
        low, high = found.min().item(), found.max().item()
        if low < 1 or high > steps:
            raise ValueError(f"lengths are from {low} to {high}; they must be from 1 to {steps}, the steps of input")
    return found.to(x.device, torch.int64)


def check_network_of_sequences(network: Network, input: Tensor, target: Tensor, parameters: Sequence[Tensor]) -> None:
    """Check the sequences and targets of a recurrent network.

    Raises:
        ValueError: shapes do not fit, or there is no step.
    """
    n_in, n_out = parameters[0].shape[-1], parameters[-1].shape[-1]
    leading = input.shape[: 2 if network.pooling == "each" else 1]
    if input.dim() != 3 or input.shape[-1] != n_in or not input.shape[1] or target.shape != (*leading, n_out):
        wanted = f"(B, T, {n_out})" if network.pooling == "each" else f"(B, {n_out})"
        raise ValueError(
            f"input has shape {tuple(input.shape)} and target {tuple(target.shape)}; they must be (B, T, {n_in}), T above 0, "
            f"and {wanted}"
        )
