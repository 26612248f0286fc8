"""A recurrent layer: equations 5.1 to 5.3."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import functions
from torchbp._sequences import check_sequences, checked_lengths
from torchbp.activations import Activation, activation_of
from torchbp.functional._calls import recurrent_call
from torchbp.functional._checks import autocasts, check_parameters, check_tensors
from torchbp.recurrence import last_states, padding, reverse, scanned


def elman(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    activation: str | Activation = "tanh",
    *parameters: Tensor,
    lengths: Tensor | Sequence[int] | None = None,
    batch_first: bool = False,
    backwards: bool = False,
) -> tuple[Tensor, Tensor]:
    """States of a recurrent (Elman) layer for whole sequences, a_t = g(x_t Wiᵀ + bi + a_{t-1} Whᵀ + bh; θ) (equation 5.1).

    This is a layer of ``torch.nn.RNN`` with any activation. Its backward is backpropagation through time (5.2, 5.3), in one
    node of the graph.

    Args:
        input: (T, B, n), or (B, T, n) with ``batch_first``, or (T, n) for one sequence.
        hx: a_0, (B, m), or (m) for one sequence; None for zeros.
        weight_ih, weight_hh: Wi (m, n) and Wh (m, m).
        bias_ih, bias_hh: bi and bh, (m) each, or None.
        activation, parameters: as for :func:`activate`.
        lengths: the number of steps of each sequence, (B) integers from 1 to T; None for T. The rest is padding: it may have
            any values, its states are 0, and it gets no gradient.
        batch_first: whether the batch is the first dimension of input and output.
        backwards: whether each sequence is read from its end to its start.

    Returns:
        The states, in the shape of ``input`` with m for n, and the last state read of each sequence, (B, m) or (m).

    Raises:
        ValueError: shapes do not fit, lengths are not from 1 to T, or there is no such activation.
        TypeError: a tensor does not have a real floating-point type, or lengths are not integers.

    >>> elman(torch.ones(3, 1), None, torch.ones(1, 1), torch.ones(1, 1), activation="identity")[0].squeeze()
    tensor([1., 2., 3.])
    """
    g = activation_of(activation)
    tensors = {"hx": hx, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    check_tensors("hx", "bias_ih", "bias_hh", input=input, **tensors)
    check_sequences(input, hx, weight_ih, weight_hh, bias_ih, bias_hh, batch_first)
    check_parameters(g, parameters, len(weight_hh))
    one, transposed = input.dim() == 2, batch_first and input.dim() == 3
    x = input.unsqueeze(1) if one else input.transpose(0, 1) if transposed else input
    ended = None
    if lengths is not None:
        lengths = checked_lengths(lengths, x)
        ended = padding(lengths, x.shape[0])
        x = x.masked_fill(ended, 0)
    h = hx.unsqueeze(0) if one and hx is not None else hx
    layer = weight_ih, weight_hh, bias_ih, bias_hh, *parameters
    a, last = read(x, h, layer, g, lengths, ended, backwards)
    if one:
        return a.squeeze(1), last.squeeze(0)
    return (a.transpose(0, 1) if transposed else a), last


def read(
    x: Tensor,
    h: Tensor | None,
    layer: Sequence[Tensor | None],
    g: Activation,
    lengths: Tensor | None,
    ended: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, Tensor]:
    """All states, and the last one read, of sequences (T, B, n), 0 after their end; ``layer`` is Wi, Wh, bi, bh, θ..."""
    x, h, *layer = _cast(x, h, *layer)
    Wi, Wh, bi, bh, *theta = layer
    x = reverse(x, lengths) if backwards else x
    if torch.compiler.is_exporting():
        a = scanned(functions.from_input(x, Wi, bi, bh), h, Wh.mT, g.value, theta, ended)
    else:
        a = recurrent_call(g)(x, h, Wi, Wh, bi, bh, ended, *theta)
    last = last_states(a, lengths)
    return reverse(a, lengths) if backwards else a, last


def _cast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Cast all tensors to autocast's dtype; without autocast, cast only θ to the dtype of x."""
    if autocasts(x) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), *(t if t is None else t.to(dtype) for t in others)
    return x, *others[:5], *(t if t is None else t.to(x.dtype) for t in others[5:])
