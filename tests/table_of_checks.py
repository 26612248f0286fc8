"""The tables of docs/what_passes.md: ``make tables`` writes them, and test_verify_passes fails if they are out of date."""

import contextlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchbp.cli import main
from torchbp.verify import STATUSES

PAGE = Path(__file__).parents[1] / "docs" / "what_passes.md"
# The options of gradcheck for each table.
TABLES = {"torchbp": ["--json"], "naive": ["--json", "--module", "naive_functions"]}
SIGNS = {"wrong": "✗ wrong", "error": "✗ error", "skipped": "–", "passed": "✓"}

Rows = Sequence[dict[str, Any]]


def cells(rows: Rows) -> dict[str, str]:
    """A sign for each check of one function; of several outcomes, the worst."""

    def rank(row: dict[str, Any]) -> tuple[bool, int]:
        return row["status"] == "skipped", list(STATUSES).index(row["status"])

    worst: dict[str, dict[str, Any]] = {}
    for row in rows:
        kept = worst.setdefault(row["check"], row)
        worst[row["check"]] = min(kept, row, key=rank)
    return {check: sign(row) for check, row in worst.items()}


def sign(row: dict[str, Any]) -> str:
    return f"no {row['missing']}" if row["missing"] else SIGNS.get(row["status"], row["status"])


def function_of(sample: str) -> str:
    """The function of a sample: ``activate`` for ``activate-tanh``."""
    return sample.partition("-")[0]


def table(rows: Rows) -> str:
    """Markdown: one row per check, one column per function; ``activate-tanh`` and the like share a column.

    Checks that all functions refuse for the same missing feature share one row.
    """
    names = dict.fromkeys(function_of(row["function"]) for row in rows)
    columns = {name: cells([row for row in rows if function_of(row["function"]) == name]) for name in names}
    lines: dict[tuple[Any, ...], list[str]] = {}
    for check in cells(rows):
        signs = tuple(column[check] for column in columns.values())
        refused = all(sign.startswith("no ") for sign in signs)
        lines.setdefault(signs if refused else (check, *signs), []).append(check)
    # Without underscores, so that long names can wrap.
    body = [[", ".join(checks), *signs[-len(columns) :]] for signs, checks in lines.items()]
    head = [["", *(name.replace("_", " ") for name in columns)], ["---", *[":-:"] * len(columns)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in head + body)


def columns_of_page(name: str) -> dict[str, dict[str, str]]:
    """The table of this name as the page has it: by function, the sign for each check."""
    lines = [line for line in _section(name)[1].splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {
        function.replace(" ", "_"): {check: line[i] for line in body for check in line[0].split(", ")}
        for i, function in enumerate(head)
        if i
    }


def write(name: str, rows: Rows) -> None:
    before, _, after = _section(name)
    PAGE.write_text(f"{before}{table(rows)}\n{after}", encoding="utf-8")


def _section(name: str) -> tuple[str, str, str]:
    """The page before the table of this name, the table, and the page after it."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.fullmatch(f"(.*<!-- table: {name} -->\n)(.*?)(<!-- end -->.*)", text, re.DOTALL)
    assert found, f"{PAGE} has no table {name}"
    return found[1], found[2], found[3]


if __name__ == "__main__":
    for name, options in TABLES.items():
        with contextlib.redirect_stdout(io.StringIO()) as output:
            main(["gradcheck", *options])
        write(name, json.loads(output.getvalue()))
