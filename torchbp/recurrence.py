"""The two passes of a recurrent (Elman) layer through time, each written once (equations 5.1 and 5.2), and padded sequences.

A sequence is given as its T steps, (B, m) each. Who calls them says whether results are written over what is not needed
any more.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp import equations as eq

__all__ = ["errors", "last_states", "padding", "reverse", "states", "told", "without_padding"]


def states(
    z: Sequence[Tensor],
    h: Tensor | None,
    Wht: Tensor,
    value: Callable[..., Tensor],
    theta: Sequence[Tensor] = (),
    padded: Sequence[Tensor] | None = None,
    over: bool = False,
) -> list[Tensor]:
    """A_t = g(Z_t) with Z_t = z_t + A_{t-1} Whᵀ, for t = 1..T. Equation 5.1.

    Args:
        z: X_t Wiᵀ + bi + bh of each step.
        h: A_0, or None for zeros.
        Wht: Whᵀ, (m, m).
        value: g, (z, θ..., out=None) -> a.
        theta: its parameters.
        padded: (B, 1) for each step, true where a sequence has ended: the state is 0 there.
        over: whether each state is written over its z.
    """
    a = []
    for t, zt in enumerate(z):
        out = zt if over else None
        h = value(zt if h is None else eq.recurrent_input(zt, h, Wht, out=out), *theta, out=out)
        if padded is not None:
            h = h.masked_fill_(padded[t], 0) if over else h.masked_fill(padded[t], 0)
        a.append(h)
    return a


def errors(
    da: Sequence[Tensor],
    kept: Sequence[Tensor],
    Wh: Tensor,
    error: Callable[..., Tensor],
    theta: Sequence[Tensor] = (),
    out: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """dZ_t = dA_t * g'(Z_t) with dA_t = da_t + dZ_{t+1} Wh, for t = T..1. Equation 5.2.

    Args:
        da: the gradient that comes from above at each step.
        kept: A_t or Z_t, whichever ``error`` is of.
        Wh: (m, m).
        error: (dA, kept, θ..., out=None) -> dA * g'.
        theta: the activation's parameters.
        out: where each dZ_t is written, and each dA_t over ``da``; ``da`` itself where dA_t is not needed any more.

    Returns:
        dA_t and dZ_t for t = 1..T.
    """
    gradients, results = [], []
    dz = None
    for t in range(len(da) - 1, -1, -1):
        dat = da[t]
        if dz is not None:
            dat = eq.recurrent_gradient(dat, dz, Wh, out=None if out is None else dat)
        dz = error(dat, kept[t], *theta, out=None if out is None else out[t])
        gradients.append(dat)
        results.append(dz)
    return gradients[::-1], results[::-1]


def padding(lengths: Tensor, steps: int) -> Tensor:
    """True from where a sequence has ended: lengths (B) -> (T, B, 1)."""
    return (torch.arange(steps, device=lengths.device).unsqueeze(-1) >= lengths).unsqueeze(-1)


def last_states(a: Tensor, lengths: Tensor | None) -> Tensor:
    """The state at each sequence's end: (T, B, m), lengths (B) -> (B, m)."""
    if lengths is None:
        return a[-1]
    return a.gather(0, (lengths - 1).view(1, -1, 1).expand(1, *a.shape[1:])).squeeze(0)


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence from its end to its beginning, its padding left where it is: (T, B, n), lengths (B) -> (T, B, n)."""
    if lengths is None:
        return x.flip(0)
    step = torch.arange(len(x), device=x.device).unsqueeze(-1)
    source = torch.where(step < lengths, lengths - 1 - step, step)
    return x.gather(0, source.unsqueeze(-1).expand_as(x))


def told(prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets as rows, (N, n) each: of sequences with a target at each step, the steps that have one."""
    if y.dim() < 3:
        return prediction, y
    there = ~y[..., 0].isnan()
    return prediction[there], y[there]


def without_padding(x: Tensor) -> Tensor:
    """The steps of sequences that are NaN after their ends, one below the other: (B, T, n) -> (steps, n)."""
    return x[~x[..., 0].isnan()]
