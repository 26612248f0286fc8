"""What an audit finds: rows, each one check on one device in one dtype, and the result that holds them."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["passed", "failed", "skipped", "bypassed"]

STYLES: dict[Status, str] = {"passed": "green", "failed": "bold red", "skipped": "dim", "bypassed": "yellow"}


MAX_DETAILS = 5


class Outcome(Exception):
    """Raised by a check that has found its outcome without comparing numbers."""

    status: Status


class Failed(Outcome):
    status = "failed"


class Skipped(Outcome):
    status = "skipped"


class Bypassed(Outcome):
    """The derivatives are right, and not those of the audited backward: PyTorch differentiated the forward itself."""

    status = "bypassed"


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


@dataclass(frozen=True)
class Row:
    """One check on one device in one dtype.

    ``absolute_error`` is the largest |got - expected|, ``relative_error`` that over the largest |expected| of its tensor; both
    are None where nothing was compared. ``detail`` says what failed and where, or why the check was skipped or bypassed.
    """

    check: str
    device: str
    dtype: str
    status: Status
    absolute_error: float | None = None
    relative_error: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """The rows of one audited function."""

    function: str
    rows: Sequence[Row]

    @property
    def passed(self) -> bool:
        """Whether no row failed; what was skipped or bypassed is no failure."""
        return not self.failures

    @property
    def failures(self) -> list[Row]:
        return self.with_status("failed")

    def with_status(self, status: Status) -> list[Row]:
        """The rows that ended as ``status``."""
        return [row for row in self.rows if row.status == status]

    def to_json(self) -> list[dict[str, Any]]:
        """A dict for each row, of strings, finite floats and None; an error that is infinite is the string 'inf'."""

        def finite(value: Any) -> Any:
            return "inf" if value == float("inf") else value

        return [{"function": self.function, **{k: finite(v) for k, v in asdict(row).items()}} for row in self.rows]

    def table(self) -> "Table":
        """Every row, and beneath them what failed, was bypassed or was skipped, and why; 100 columns are enough."""
        from rich.table import Table

        table = Table(title=self.function, caption=_details([self]), caption_justify="left", caption_style="")
        for heading in ("check", "device", "dtype"):
            table.add_column(heading)
        for heading in ("absolute error", "relative error"):
            table.add_column(heading, justify="right")
        table.add_column("result")
        for row in self.rows:
            result = f"[{STYLES[row.status]}]{row.status}"
            table.add_row(row.check, row.device, row.dtype, _number(row.absolute_error), _number(row.relative_error), result)
        return table


def summary(results: Iterable[Result]) -> "Table":
    """One line a function: how many checks ended how, and the largest error in float64; beneath them what did not pass."""
    from rich.table import Table

    results = list(results)
    table = Table(caption=_details(results), caption_justify="left", caption_style="")
    table.add_column("function")
    for status, style in STYLES.items():
        table.add_column(status, justify="right", style=style)
    table.add_column("largest float64 error", justify="right")
    for result in results:
        errors = [row.absolute_error for row in result.rows if row.dtype == "float64" and row.absolute_error is not None]
        counts = [str(len(result.with_status(status))) for status in STYLES]
        table.add_row(result.function, *counts, _number(max(errors, default=None)))
    return table


def row_of(check: str, device: str, dtype: str, comparisons: Sequence[Comparison], outcome: Outcome | None) -> Row:
    """The row for what a check compared and, where it raised one, its outcome."""
    errors = [_errors(c) for c in comparisons]
    absolute = max((error for error, _ in errors), default=None)
    relative = max((error for _, error in errors), default=None)
    details = [] if outcome is None else [str(outcome)]
    # A tensor may be compared several times, with several seeds: its first disagreement tells enough.
    disagreements: dict[str, str] = {}
    for c in comparisons:
        if c.what not in disagreements and not agrees(c):
            disagreements[c.what] = _disagreement(c)
    details += disagreements.values()
    status: Status = outcome.status if outcome else "failed" if details else "passed"
    if len(details) > MAX_DETAILS:
        details[MAX_DETAILS:] = [f"and {len(details) - MAX_DETAILS} more"]
    return Row(check, device, dtype, status, absolute, relative, "\n".join(details))


def agrees(c: Comparison) -> bool:
    """Whether every entry is within the tolerance, NaN and infinity only where they are expected."""
    return c.got.shape == c.expected.shape and not bool(_excess(c).gt(0).any())


def _disagreement(c: Comparison, entries: int = 3) -> str:
    """Which tensor is wrong, and its worst entries."""
    if c.got.shape != c.expected.shape:
        return f"{c.what}: expected shape {tuple(c.expected.shape)}, got {tuple(c.got.shape)}"
    excess = _excess(c).flatten()
    wrong = int(excess.gt(0).sum())
    worst = []
    for index in excess.topk(min(entries, wrong)).indices:
        place = [int(i) for i in torch.unravel_index(index, c.expected.shape)]
        expected, got = (t[tuple(place)].item() for t in (c.expected, c.got))
        worst.append(f"{place if place else 'value'} expected {expected:.6g}, got {got:.6g}")
    return f"{c.what}: {wrong} of {excess.numel()} entries wrong: " + "; ".join(worst)


def _excess(c: Comparison) -> Tensor:
    """By how much each entry is further off than it may be; infinite where one is NaN or infinite and the other is not."""
    return _difference(c) - (c.tolerance.absolute + c.tolerance.relative * _wide(c.expected).abs().nan_to_num())


def _errors(c: Comparison) -> tuple[float, float]:
    if c.got.shape != c.expected.shape:
        return torch.inf, torch.inf
    if not c.expected.numel():
        return 0.0, 0.0
    absolute = _difference(c).max().item()
    scale = _wide(c.expected).abs().nan_to_num().max().item()
    return absolute, absolute / scale if scale else absolute


def _difference(c: Comparison) -> Tensor:
    expected, got = _wide(c.expected), _wide(c.got)
    same = (expected == got) | (expected.isnan() & got.isnan())
    return torch.where(same, 0.0, (expected - got).abs()).nan_to_num(nan=torch.inf)


def _wide(t: Tensor) -> Tensor:
    return t.detach().cpu().to(torch.complex128 if t.is_complex() else torch.float64)


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def _details(results: Sequence[Result]) -> Any:
    """What did not pass and why, checks that say the same thing in one paragraph."""
    from rich.text import Text

    several_devices = len({row.device for result in results for row in result.rows}) > 1
    paragraphs: dict[tuple[Status, str, str], list[str]] = {}
    for result in results:
        for row in result.rows:
            if row.detail:
                check = row.check if row.dtype == "float64" else f"{row.check} {row.dtype}"
                check += f" on {row.device}" if several_devices and row.status == "failed" else ""
                # What PyTorch bypasses, it bypasses in every function alike.
                whose = f"{result.function}: " if len(results) > 1 and row.status == "failed" else ""
                checks = paragraphs.setdefault((row.status, whose, row.detail), [])
                checks += [] if check in checks else [check]
    text = Text()
    for status in ("failed", "bypassed", "skipped"):
        for (its_status, whose, detail), checks in paragraphs.items():
            if its_status == status:
                text.append(f"{status} ", STYLES[status]).append(f"{whose}{', '.join(checks)}: ")
                text.append(detail.replace("\n", "\n  ") + "\n")
    return text
