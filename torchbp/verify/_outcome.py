"""The statuses of a check, and the comparison of an expected tensor with the one that was computed."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# From worst to best.
Status = Literal["wrong", "error", "unsupported", "wasteful", "bypassed", "skipped", "passed"]

STATUSES: dict[Status, str] = {
    "wrong": "wrong values, lost gradients, a wrong shape or dtype, without an error",
    "error": "an exception where it should work",
    "unsupported": "PyTorch refuses and says why: the Function lacks a feature",
    "wasteful": "right, but it costs time or memory without need",
    "bypassed": "right, but PyTorch differentiated forward itself: the custom backward did not run",
    "skipped": "not run, with the reason",
    "passed": "right",
}


class Outcome(Exception):
    """Raised by a check whose outcome needs no comparison of numbers."""

    status: Status


class Wrong(Outcome):
    status = "wrong"


class Error(Outcome):
    status = "error"


class Wasteful(Outcome):
    status = "wasteful"


class Bypassed(Outcome):
    status = "bypassed"


class Skipped(Outcome):
    status = "skipped"


class Tolerance(NamedTuple):
    """|got - expected| must be at most absolute + relative·|expected|."""

    absolute: float
    relative: float


class Comparison(NamedTuple):
    """A tensor that a check expects and the one that it got; ``what`` names it in messages."""

    what: str
    expected: Tensor
    got: Tensor
    tolerance: Tolerance


def worst(statuses: Iterable[Status]) -> Status:
    """The worst status; ``passed`` if there are none."""
    return min(statuses, key=list(STATUSES).index, default="passed")


def agrees(c: Comparison) -> bool:
    """Whether every entry is within the tolerance, with NaN and infinity only where expected."""
    return c.got.shape == c.expected.shape and not bool(_excess(c).gt(0).any())


def disagreement(c: Comparison, entries: int = 3) -> str:
    """A message that names the tensor and its worst entries."""
    if c.got.shape != c.expected.shape:
        return f"{c.what}: expected shape {tuple(c.expected.shape)}, got {tuple(c.got.shape)}"
    excess = _excess(c).flatten()
    wrong = int(excess.gt(0).sum())
    listed = []
    for index in excess.topk(min(entries, wrong)).indices:
        place = [int(i) for i in torch.unravel_index(index, c.expected.shape)]
        expected, got = (t[tuple(place)].item() for t in (c.expected, c.got))
        values = f"expected {expected:.6g}, got {got:.6g}"
        if f"{expected:.6g}" == f"{got:.6g}":  # equal in the digits shown
            values += f" (off by {abs(got - expected):.1e})"
        listed.append(f"{place if place else 'value'} {values}")
    return f"{c.what}: {wrong} of {excess.numel()} entries wrong: " + "; ".join(listed)


def errors(c: Comparison) -> tuple[float, float]:
    """The largest |got - expected|, and the same / the largest |expected|."""
    if c.got.shape != c.expected.shape:
        return torch.inf, torch.inf
    if not c.expected.numel():
        return 0.0, 0.0
    absolute = _difference(c).max().item()
    scale = _wide(c.expected).abs().nan_to_num().max().item()
    return absolute, absolute / scale if scale else absolute


def _excess(c: Comparison) -> Tensor:
    """How far each entry exceeds the tolerance; infinite if only one of the two is NaN or infinite."""
    return _difference(c) - (c.tolerance.absolute + c.tolerance.relative * _wide(c.expected).abs().nan_to_num())


def _difference(c: Comparison) -> Tensor:
    expected, got = _wide(c.expected), _wide(c.got)
    same = (expected == got) | (expected.isnan() & got.isnan())
    return torch.where(same, 0.0, (expected - got).abs()).nan_to_num(nan=torch.inf)


def _wide(t: Tensor) -> Tensor:
    return t.detach().cpu().to(torch.complex128 if t.is_complex() else torch.float64)
