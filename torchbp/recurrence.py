"""The two passes of a recurrent (Elman) layer through time, each written once (equations 5.1 and 5.2), and padded sequences.

A sequence is given as its T steps, (B, m) each. The caller chooses whether results overwrite tensors that are no longer needed.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp import _pytorch
from torchbp import equations as eq

__all__ = [
    "errors",
    "from_states",
    "last_states",
    "lengths_of",
    "missing",
    "padding",
    "pooled",
    "pooled_gradient",
    "reverse",
    "rows_with_target",
    "scanned",
    "states",
    "target_rows",
    "without_padding",
]


def states(
    z: Sequence[Tensor],
    h: Tensor | None,
    Wht: Tensor,
    value: Callable[..., Tensor],
    theta: Sequence[Tensor] = (),
    padded: Sequence[Tensor] | None = None,
    into: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """A_t = g(Z_t) with Z_t = z_t + A_{t-1} Whᵀ, for t = 1..T. Equation 5.1.

    Args:
        z: X_t Wiᵀ + bi + bh of each step.
        h: A_0, or None for zeros.
        Wht: Whᵀ, (m, m).
        value: g, (z, θ..., out=None) -> a.
        theta: its parameters.
        padded: (B, 1) for each step, true where a sequence has ended: the state is 0 there.
        into: memory for each state; it may be ``z`` itself. Each Z_t then overwrites ``z``. None for new memory.
    """
    a = []
    for t, zt in enumerate(z):
        if h is not None:
            zt = eq.recurrent_input(zt, h, Wht, out=None if into is None else zt)
        h = value(zt, *theta, out=None if into is None else into[t])
        if padded is not None:
            h = h.masked_fill(padded[t], 0) if into is None else h.masked_fill_(padded[t], 0)
        a.append(h)
    return a


def scanned(
    z: Tensor,
    h: Tensor | None,
    Wht: Tensor,
    value: Callable[..., Tensor],
    theta: Sequence[Tensor] = (),
    ended: Tensor | None = None,
) -> Tensor:
    """:func:`states` of (T, B, m) for torch.export, which does not know the number of steps; ``ended`` is (T, B, 1)."""
    padded = z.new_zeros(*z.shape[:2], 1, dtype=torch.bool) if ended is None else ended

    def step(h: Tensor, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        [a] = states([now[0]], h, Wht, value, theta, [now[1]])
        return a, a.clone()  # scan does not allow the same tensor twice

    return _pytorch.scan()(step, torch.zeros_like(z[0]) if h is None else h, (z, padded))[1]


def from_states(a: Tensor, h: Tensor | None, Wht: Tensor) -> Tensor:
    """A_{t-1} Whᵀ for all t: (T, B, m), (B, m), (m, m) -> (T, B, m). In equation 5.1."""
    before = torch.cat([torch.zeros_like(a[:1]) if h is None else h.unsqueeze(0), a[:-1]])
    return eq.weighted_input(before.reshape(-1, a.shape[-1]), Wht).view(a.shape)


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
        da: the gradient from above at each step.
        kept: A_t or Z_t, whichever ``error`` takes.
        Wh: (m, m).
        error: (dA, kept, θ..., out=None) -> dA * g'.
        theta: the activation's parameters.
        out: memory for each dZ_t; it may be ``da`` itself if dA_t is not needed. Each dA_t then overwrites ``da``. None for new
            memory.

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
    """True after a sequence's end: lengths (B) -> (T, B, 1)."""
    return (torch.arange(steps, device=lengths.device).unsqueeze(-1) >= lengths).unsqueeze(-1)


def lengths_of(x: Tensor) -> Tensor | None:
    """The lengths (B) of sequences (B, T, n) that are NaN in every channel after their end; None if all have T steps.

    Under torch.func, torch.compile and torch.export values cannot be read, so the result is never None.
    """
    if not (_pytorch.transformed() or torch.compiler.is_exporting() or x.is_meta or bool(x[:, -1].isnan().all(-1).any())):
        return None
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    return torch.where(x.isnan().all(-1), 0, place).amax(1)


def missing(y: Tensor) -> Tensor:
    """True for steps without a target, which are NaN: (B, T, nL) -> (B, T, 1)."""
    return y.isnan().any(-1, keepdim=True)


def target_rows(y: Tensor, weight: Tensor | None, batch_size: int | None) -> tuple[Tensor, Tensor | None]:
    """Targets as rows, and each row's weight, so that rows without a target do not count.

    Args:
        y: (B, nL), or (B, T, nL) with NaN where there is no target.
        weight: the weight of each sequence's cost, (B), or None.
        batch_size: the number of sequences in a mean over all their rows; the weights of rows with a target are raised to make
            up for those without. None for a sum of costs.

    Returns:
        (B, nL), and (B, 1) or None; or (B T, nL) with 0 where there is no target, and (B T, 1).
    """
    w = None if weight is None else weight.unsqueeze(-1)
    if y.dim() == 2:
        return y, w
    gone = missing(y)
    counts = (~gone).to(y.dtype)
    if batch_size is not None:
        counts = torch.cat([part / part.mean().clamp(min=1 / part.numel()) for part in counts.split(batch_size)])
    if w is not None:
        counts = counts * w.unsqueeze(-1)
    return y.masked_fill(gone, 0).flatten(0, 1), counts.flatten(0, 1)


def pooled(a: Tensor, lengths: Tensor | None, how: str) -> Tensor:
    """The ``last`` state or the ``mean`` of states (T, B, m) that are 0 after the end; lengths (B) -> (B, m)."""
    if how == "last":
        return last_states(a, lengths)
    return a.mean(0) if lengths is None else a.sum(0) / lengths.clamp(min=1).unsqueeze(-1)


def pooled_gradient(da: Tensor, steps: int, lengths: Tensor | None, how: str, out: Tensor | None = None) -> Tensor:
    """The backward of :func:`pooled`: (B, m) -> the gradient of each state, (T, B, m). For ``mean`` it is not 0 after the end.

    ``out`` is memory for the result.
    """
    if how == "mean":
        count = steps if lengths is None else lengths.clamp(min=1).unsqueeze(-1)
        each = (da / count).expand(steps, *da.shape)
        return each.contiguous() if out is None else out.copy_(each)
    index = torch.full_like(da, steps - 1, dtype=torch.int64) if lengths is None else _places(lengths, da)
    if out is None:
        return da.new_zeros(steps, *da.shape).scatter(0, index.unsqueeze(0), da.unsqueeze(0))
    return out.zero_().scatter_(0, index.unsqueeze(0), da.unsqueeze(0))


def last_states(a: Tensor, lengths: Tensor | None) -> Tensor:
    """The state at each sequence's end: (T, B, m), lengths (B) -> (B, m)."""
    if lengths is None:
        return a[-1]
    return a.gather(0, _places(lengths, a[0]).unsqueeze(0)).squeeze(0)


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse each sequence, with its padding left at the end: (T, B, n), lengths (B) -> (T, B, n)."""
    if lengths is None:
        return x.flip(0)
    step = torch.arange(x.shape[0], device=x.device).unsqueeze(-1)
    source = torch.where(step < lengths, lengths - 1 - step, step)
    return x.gather(0, source.unsqueeze(-1).expand_as(x))


def rows_with_target(prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets as rows, (N, n) each: for targets at each step, only the steps that have one."""
    if y.dim() < 3:
        return prediction, y
    there = ~y[..., 0].isnan()
    return prediction[there], y[there]


def without_padding(x: Tensor) -> Tensor:
    """All steps of sequences without their NaN padding: (B, T, n) -> (steps, n)."""
    return x[~x[..., 0].isnan()]


def _places(lengths: Tensor, like: Tensor) -> Tensor:
    """The index of each sequence's last step, repeated for every unit, (B, m); 0 for a sequence without steps."""
    return (lengths - 1).clamp(min=0).unsqueeze(-1).expand_as(like)
