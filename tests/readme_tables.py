"""The README's tables of what works under which transform: ``make tables`` writes them anew, test_verify finds them stale."""

import contextlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchbp.cli import main

README = Path(__file__).parents[1] / "README.md"
# What gradcheck is told for the table of this name.
TABLES = {"torchbp": ["--json"], "naive": ["--json", "--module", "naive_functions"]}
# From the worst outcome that a check can have to the best.
SIGNS = {"failed": "✗", "bypassed": "bypassed", "skipped": "–", "passed": "✓"}

Rows = Sequence[dict[str, Any]]


def cells(rows: Rows) -> dict[str, str]:
    """A sign for each check of one function, that of its worst outcome where it is made in several dtypes."""
    outcomes: dict[str, set[str]] = {}
    for row in rows:
        outcomes.setdefault(row["check"], set()).add(row["status"])
    return {check: next(SIGNS[status] for status in SIGNS if status in found) for check, found in outcomes.items()}


def table(rows: Rows) -> str:
    """Markdown: a row a check, a column a function."""
    names = dict.fromkeys(row["function"] for row in rows)
    columns = {name: cells([row for row in rows if row["function"] == name]) for name in names}
    # Without underscores, so that long names can be broken into lines.
    lines = [["", *(name.replace("_", " ") for name in columns)], ["---", *[":-:"] * len(columns)]]
    lines += [[check, *(column[check] for column in columns.values())] for check in cells(rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns_in_readme(name: str) -> dict[str, dict[str, str]]:
    """The table of this name as it stands: by function, the sign for each check."""
    lines = [line for line in _section(name)[1].splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {function.replace(" ", "_"): {line[0]: line[i] for line in body} for i, function in enumerate(head) if i}


def write(name: str, rows: Rows) -> None:
    before, _, after = _section(name)
    README.write_text(f"{before}{table(rows)}\n{after}", encoding="utf-8")


def _section(name: str) -> tuple[str, str, str]:
    """README before the table of this name, the table, and README after it."""
    text = README.read_text(encoding="utf-8")
    found = re.fullmatch(f"(.*<!-- table: {name} -->\n)(.*?)(<!-- end -->.*)", text, re.DOTALL)
    assert found, f"{README} has no table {name}"
    return found[1], found[2], found[3]


if __name__ == "__main__":
    for name, options in TABLES.items():
        with contextlib.redirect_stdout(io.StringIO()) as output:
            main(["gradcheck", *options])
        write(name, json.loads(output.getvalue()))
