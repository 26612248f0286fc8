"""Shows results as tables in the terminal, Markdown, and JUnit XML."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from torchbp.verify._outcome import STATUSES, Status
from torchbp.verify._refusals import BY_MISSING
from torchbp.verify._result import Result, Row

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

STYLES: dict[Status, str] = {
    "wrong": "bold red",
    "error": "red",
    "unsupported": "magenta",
    "wasteful": "yellow",
    "bypassed": "cyan",
    "skipped": "dim",
    "passed": "green",
}


def rows_table(result: Result) -> "Table":
    """A table of every row of one result, with the findings below it."""
    from rich.table import Table

    table = Table(title=result.function, caption=_captions([result]), caption_justify="left", caption_style="")
    for heading in ("check", "device", "dtype"):
        table.add_column(heading)
    for heading in ("absolute error", "relative error"):
        table.add_column(heading, justify="right")
    table.add_column("result")
    for row in result.rows:
        numbers = _number(row.absolute_error), _number(row.relative_error)
        table.add_row(row.check, row.device, row.dtype, *numbers, f"[{STYLES[row.status]}]{row.status}")
    return table


def summary(results: Iterable[Result]) -> "Table":
    """A table with one line per function: counts by status and the largest error in float64; the findings below it."""
    from rich.table import Table

    results = list(results)
    table = Table(caption=_captions(results), caption_justify="left", caption_style="", padding=(0, 0))
    table.add_column("function", overflow="fold")
    for status, style in STYLES.items():
        table.add_column(status, justify="right", style=style)
    table.add_column("largest error", justify="right")
    for result in results:
        found = [row.absolute_error for row in result.rows if row.dtype == "float64" and row.absolute_error is not None]
        counts = [str(len(result.with_status(status))) for status in STYLES]
        table.add_row(result.function, *counts, _number(max(found, default=None)))
    return table


def findings(results: Sequence[Result]) -> list[tuple[Status, str]]:
    """The findings, worst first: checks with the same detail, or the same missing feature, make one finding."""
    several_devices = len({row.device for result in results for row in result.rows}) > 1
    grouped: dict[tuple[Status, str, str], list[str]] = {}
    for result in results:
        for row in result.rows:
            if row.detail:
                check = row.check if row.dtype == "float64" else f"{row.check} {row.dtype}"
                failed = row.status in ("wrong", "error", "unsupported", "wasteful")
                check += f" on {row.device}" if several_devices and failed else ""
                # PyTorch bypasses the backward of every function in the same settings.
                whose = f"{result.function}: " if len(results) > 1 and failed else ""
                checks = grouped.setdefault((row.status, whose, f"no {row.missing}" if row.missing else row.detail), [])
                checks += [] if check in checks else [check]
    found = [(status, _finding(status, whose, detail, checks)) for (status, whose, detail), checks in grouped.items()]
    return sorted(found, key=lambda finding: list(STATUSES).index(finding[0]))


def _finding(status: Status, whose: str, detail: str, checks: Sequence[str]) -> str:
    if status == "unsupported":
        refusal = BY_MISSING.get(detail.removeprefix("no "))
        remedy = f"; {refusal.remedy}" if refusal else ""
        count = "1 check" if len(checks) == 1 else f"{len(checks)} checks"
        return f"{whose}{detail}: {count} not possible ({', '.join(checks)}){remedy}"
    return f"{whose}{', '.join(checks)}: " + detail.replace("\n", "\n  ")


def markdown(results: Iterable[Result]) -> str:
    """A table of counts and the findings in Markdown, for a GitHub job summary."""
    results = list(results)
    head = ["function", *STATUSES]
    lines = [head, ["---", *["--:"] * len(STATUSES)]]
    lines += [[f"`{result.function}`", *(str(len(result.with_status(status))) for status in STATUSES)] for result in results]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    listed = "\n".join(f"- **{status}** {text.replace(chr(10), '<br>')}" for status, text in findings(results))
    return f"{table}\n\n{listed}\n" if listed else f"{table}\n"


def junit(results: Iterable[Result], fail_on: Status) -> str:
    """JUnit XML: one suite per function, one case per check; a status of ``fail_on`` or worse is a failure."""
    suites = ElementTree.Element("testsuites")
    for result in results:
        failed = result.at_least(fail_on)
        skipped = result.with_status("skipped")
        counts = {"tests": str(len(result.rows)), "failures": str(len(failed)), "skipped": str(len(skipped))}
        suite = ElementTree.SubElement(suites, "testsuite", {"name": result.function, **counts})
        for row in result.rows:
            case = ElementTree.SubElement(suite, "testcase", classname=result.function, name=case_name(row))
            if row in failed:
                first = row.detail.splitlines()[0] if row.detail else row.status
                ElementTree.SubElement(case, "failure", type=row.status, message=first).text = row.detail
            elif row.status == "skipped":
                ElementTree.SubElement(case, "skipped", message=row.detail)
            elif row.detail:
                ElementTree.SubElement(case, "system-out").text = f"{row.status}: {row.detail}"
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def case_name(row: Row) -> str:
    """The check with its device and dtype: unique in a result."""
    return f"{row.check} [{row.device}, {row.dtype}]"


def _captions(results: Sequence[Result]) -> "Text":
    from rich.text import Text

    text = Text()
    for status, finding in findings(results):
        text.append(f"{status} ", STYLES[status]).append(f"{finding}\n")
    return text


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
