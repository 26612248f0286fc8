"""The sections of checks.md: what each check asks, and how to fix a fault that it finds."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).with_name("checks.md")


def explanations() -> dict[str, str]:
    """The section of each check in Markdown, by the check's name."""
    text = DOCUMENT.read_text(encoding="utf-8")
    _, *parts = re.split(r"^### (.+)\n", text, flags=re.MULTILINE)
    return {name: body.split("\n## ")[0].strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def explain(check: str) -> str:
    """The section of one check, with the Function that its example changes; ValueError if there is no such check."""
    every = explanations()
    if check not in every:
        raise ValueError(f"explain is {check!r}; the checks are {', '.join(sorted(every))}")
    section = every[check]
    text = DOCUMENT.read_text(encoding="utf-8")
    if named := re.search(r"Fixed: `(\w+)` .*", section):
        code = re.search(rf"class {named[1]}\(.*?(?=\n\n\nclass|\n```)", text, re.DOTALL)
        section = section.replace(named[0], f"Fixed:\n\n```python\n{code[0] if code else named[1]}\n```")
    return f"### {check}\n\n{section}\n"
