"""The result of an audit: a row for each check on one device in one dtype."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torchbp.verify._outcome import STATUSES, Comparison, Outcome, Status, agrees, disagreement, errors, worst
from torchbp.verify._refusals import refusal_of

if TYPE_CHECKING:
    from rich.table import Table

MAX_DETAILS = 5


@dataclass(frozen=True)
class Row:
    """One check on one device in one dtype.

    ``absolute_error`` is the largest ``|got - expected|``; ``relative_error`` divides it by the largest ``|expected|`` of its
    tensor. Both are None if nothing was compared. ``detail`` says what was found and where. ``missing`` is the feature that the
    Function lacks if the status is ``unsupported``, else empty.
    """

    check: str
    device: str
    dtype: str
    status: Status
    absolute_error: float | None = None
    relative_error: float | None = None
    detail: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Result:
    """The rows of an audited function."""

    function: str
    rows: Sequence[Row]

    @property
    def passed(self) -> bool:
        """Whether no row is ``wrong`` or ``error``."""
        return not self.failures

    @property
    def failures(self) -> list[Row]:
        """The rows that are ``wrong`` or ``error``."""
        return self.at_least("error")

    @property
    def findings(self) -> list[Row]:
        """The failures, and the rows that are ``unsupported`` or ``wasteful``."""
        return self.at_least("wasteful")

    def at_least(self, status: Status) -> list[Row]:
        """The rows that ended as ``status`` or worse: ``wrong``, ``error``, ``unsupported``, ``wasteful``, in this order."""
        statuses = list(STATUSES)
        return [row for row in self.rows if statuses.index(row.status) <= statuses.index(status)]

    def with_status(self, status: Status) -> list[Row]:
        """The rows that ended as ``status``."""
        return [row for row in self.rows if row.status == status]

    def to_json(self) -> list[dict[str, Any]]:
        """A dict for each row, with strings, finite floats and None; an infinite error is the string 'inf'."""

        def finite(value: Any) -> Any:
            return "inf" if value == float("inf") else value

        return [{"function": self.function, **{k: finite(v) for k, v in asdict(row).items()}} for row in self.rows]

    def table(self) -> "Table":
        """A table of every row, with the findings below it, worst first; it fits in 100 columns."""
        from torchbp.verify._report import rows_table

        return rows_table(self)


def row_of(check: str, device: str, dtype: str, comparisons: Sequence[Comparison], raised: Exception | None) -> Row:
    """The row of a check, from its comparisons and from what it raised."""
    measured = [errors(c) for c in comparisons]
    absolute = max((error for error, _ in measured), default=None)
    relative = max((error for _, error in measured), default=None)
    # A check may compare a tensor several times, with several seeds: the first disagreement is enough.
    disagreements: dict[str, str] = {}
    for c in comparisons:
        if c.what not in disagreements and not agrees(c):
            disagreements[c.what] = disagreement(c)
    details, statuses, missing = list(disagreements.values()), ["wrong"] * len(disagreements), ""
    if isinstance(raised, Outcome):
        details.insert(0, str(raised))
        statuses.append(raised.status)
    elif raised is not None:
        refusal = refusal_of(raised)
        details.insert(0, one_line(raised) if refusal else f"{type(raised).__name__}: {one_line(raised)}")
        statuses.append("unsupported" if refusal else "error")
        missing = refusal.missing if refusal and not disagreements else ""
    if len(details) > MAX_DETAILS:
        details[MAX_DETAILS:] = [f"and {len(details) - MAX_DETAILS} more"]
    return Row(check, device, dtype, worst(statuses), absolute, relative, "\n".join(details), missing)  # type: ignore[arg-type]


def one_line(error: BaseException) -> str:
    """The first line of an error, and its explanation if it has one."""
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    # Dynamo has a line with an explanation, torch.export a list.
    explanation = next((line for line in rest if line.startswith(("Explanation: ", "- "))), "")
    return " ".join([first, explanation or "".join(rest[:1] if first.endswith(":") else [])]).rstrip()
