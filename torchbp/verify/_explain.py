"""The sections of checks.md: what each check asks, and how to fix a fault that it finds."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

DOCUMENT = Path(__file__).with_name("checks.md")


def explanations() -> dict[str, str]:
    """The section of each check in Markdown, by the check's name."""
    text = DOCUMENT.read_text(encoding="utf-8")
    _, *parts = re.split(r"^### (.+)\n", text, flags=re.MULTILINE)
    return {name: body.split("\n## ")[0].strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def refuse_unknown(option: str, names: Collection[str], checks: Collection[str]) -> None:
    """Refuse a name that no check has; ValueError, with the names that are spelled like it."""
    for name in sorted(names):
        if name not in checks:
            near = get_close_matches(name.lower(), checks)
            meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
            raise ValueError(f"{option} has {name!r}, which is no check{meant} torchbp gradcheck --explain lists the checks")


def overview() -> str:
    """Each check's name with what it asks, in Markdown."""
    return "\n".join(f"- **{name}**: {section.partition(chr(10))[0]}" for name, section in explanations().items())


def explain(check: str) -> str:
    """The section of one check, with the Function that its example changes; ValueError if there is no such check."""
    every = explanations()
    refuse_unknown("explain", [check], every)
    section = every[check]
    text = DOCUMENT.read_text(encoding="utf-8")
    if named := re.search(r"Fixed: `(\w+)` .*", section):
        code = re.search(rf"class {named[1]}\(.*?(?=\n\n\nclass|\n```)", text, re.DOTALL)
        section = section.replace(named[0], f"Fixed:\n\n```python\n{code[0] if code else named[1]}\n```")
    return f"### {check}\n\n{section}\n"
