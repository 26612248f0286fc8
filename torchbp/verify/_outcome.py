"""How a check ends: the statuses, and the comparison of what it expects with what it got."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# From the worst to the best.
Status = Literal["wrong", "error", "unsupported", "wasteful", "bypassed", "skipped", "passed"]

STATUSES: dict[Status, str] = {
    "wrong": "silently: wrong values, lost gradients, a wrong shape or dtype",
    "error": "raises where it should work",
    "unsupported": "PyTorch refuses and says why: a feature that the Function lacks",
    "wasteful": "right, at a cost in time or memory that it need not have",
    "bypassed": "right, but PyTorch differentiated forward itself: the custom backward did not run",
    "skipped": "not tried, and why",
    "passed": "as it should be",
}


class Outcome(Exception):
    """Raised by a check that has found its outcome without comparing numbers."""

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
    """|got - expected| may be at most absolute + relative·|expected|."""

    absolute: float
    relative: float


class Comparison(NamedTuple):
    """One tensor that a check expects, beside what it got; ``what`` names it for the reader."""

    what: str
    expected: Tensor
    got: Tensor
    tolerance: Tolerance


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them; passed where there are none."""
    return min(statuses, key=list(STATUSES).index, default="passed")


def agrees(c: Comparison) -> bool:
    """Whether every entry is within the tolerance, NaN and infinity only where they are expected."""
    return c.got.shape == c.expected.shape and not bool(_excess(c).gt(0).any())


def disagreement(c: Comparison, entries: int = 3) -> str:
    """Which tensor is wrong, and its worst entries."""
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
    """The largest |got - expected|, and that over the largest |expected|."""
    if c.got.shape != c.expected.shape:
        return torch.inf, torch.inf
    if not c.expected.numel():
        return 0.0, 0.0
    absolute = _difference(c).max().item()
    scale = _wide(c.expected).abs().nan_to_num().max().item()
    return absolute, absolute / scale if scale else absolute


def _excess(c: Comparison) -> Tensor:
    """By how much each entry is further off than it may be; infinite where one is NaN or infinite and the other is not."""
    return _difference(c) - (c.tolerance.absolute + c.tolerance.relative * _wide(c.expected).abs().nan_to_num())


def _difference(c: Comparison) -> Tensor:
    expected, got = _wide(c.expected), _wide(c.got)
    same = (expected == got) | (expected.isnan() & got.isnan())
    return torch.where(same, 0.0, (expected - got).abs()).nan_to_num(nan=torch.inf)


def _wide(t: Tensor) -> Tensor:
    return t.detach().cpu().to(torch.complex128 if t.is_complex() else torch.float64)
