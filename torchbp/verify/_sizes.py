"""Checks of other sizes than the example's: no row, one row, many rows, other ranks, and sizes that broadcast."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchbp.verify._outcome import Comparison, Skipped
from torchbp.verify._subject import EXACT, Subject, gradients

NO_BATCH = "no batch dimension was found in the inputs"


def empty_batch(s: Subject) -> Iterator[Comparison]:
    """A batch without rows has gradients: empty ones for inputs with a batch dimension, zeros for the others."""
    if not s.batch:
        raise Skipped(NO_BATCH)
    empty = of_batch(s, lambda t: t[:0])
    tensors = empty.tensors()
    try:
        outputs = empty.function(*tensors)
    except Exception:
        if s.reference is not None and _raises(s.reference, empty.arguments(empty.tensors())):
            return
        raise
    if all(o.isfinite().all() for o in outputs):  # a mean of nothing is NaN
        got = gradients(outputs, tensors, [torch.ones_like(o) for o in outputs])
        yield from s.gradients_agree([torch.zeros_like(t) for t in tensors], got, EXACT, ", no rows")


def batch_sizes(s: Subject) -> Iterator[Comparison]:
    """The derivative is right for one row and for seven, after a call with the example's number of rows."""
    if not s.batch:
        raise Skipped(NO_BATCH)
    for rows in (1, 7):
        yield from with_rows(s, rows).slopes_agree(f", {rows} row{'s'[: rows - 1]}")


def ranks(s: Subject) -> Iterator[Comparison]:
    """The derivative is right for inputs with fewer or more dimensions, if forward accepts them."""
    leading = s.batch or [i for i, value in enumerate(s.inputs) if isinstance(value, Tensor) and value.dim()]
    for note, change in (
        (", without the first dimension", lambda t: t[0]),
        (", with a first dimension of 1", lambda t: t.unsqueeze(0)),
        (", with another first dimension", lambda t: torch.stack([t, t.roll(1, 0)])),
    ):
        changed = [change(v.detach()) if i in leading else v for i, v in enumerate(s.inputs)]
        yield from s.with_inputs(changed).slopes_agree(note)


def broadcast_inputs(s: Subject) -> Iterator[Comparison]:
    """The gradient of an input that forward broadcasts is summed to the input's shape."""
    for i, t in zip(s.positions, s.tensors(), strict=True):
        for dim in range(t.dim()):
            if t.shape[dim] > 1:
                smaller = [v.detach().narrow(dim, 0, 1) if i == j else v for j, v in enumerate(s.inputs)]
                yield from s.with_inputs(smaller).slopes_agree(f", {s.input_names[i]} of size 1 in dimension {dim}")


CHECKS = [empty_batch, batch_sizes, ranks, broadcast_inputs]


def of_batch(s: Subject, rows: Callable[[Tensor], Tensor]) -> Subject:
    """The same function with the batch's rows changed by ``rows``."""
    return s.with_inputs([rows(v.detach()) if i in s.batch else v for i, v in enumerate(s.inputs)])


def with_rows(s: Subject, count: int) -> Subject:
    """The same function with ``count`` rows, repeating those of the batch."""
    size = s.inputs[s.batch[0]].shape[0]
    return of_batch(s, lambda t: t[torch.arange(count, device=t.device) % size])


def _raises(function: Callable[..., Any], arguments: list[Any]) -> bool:
    try:
        function(*arguments)
    except Exception:
        return True
    return False
