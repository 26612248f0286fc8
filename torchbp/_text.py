"""Shows text from files and checkpoints, with control characters escaped and passwords hidden."""

import re
from unicodedata import category

# In a URL: after the user's name, or in the query. SQLAlchemy's own rule, so that none is shown: what is hidden may be more.
PASSWORD = re.compile(r"(?<=://)([^\s:/]*:)\S+(?=@)|(?<=[?&;])(\w*(?:pass|password|passwd|pwd|token)=)[^\s\"'&;]+", re.I)


def printable(text: str, keep: str = "") -> str:
    """The text with each control or invisible character escaped, such as ``\\x1b``.

    Args:
        text: any text; it may have invalid Unicode, as in file names.
        keep: characters that are not escaped.
    """
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c in keep or category(c) == "Zs" else _escape(c) for c in text)
    return "".join(shown)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def without_passwords(text: str) -> str:
    """The text with each URL's password, if it has no spaces, replaced by ``***``."""
    return PASSWORD.sub(r"\1\2***", text)


def digits(value: float) -> str:
    """A number with three significant digits, without an exponent from 0.001 to a million."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2e}"
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"
