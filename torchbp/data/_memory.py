"""How much memory data may take."""

import os

GIB = 2**30


def most_bytes() -> int:
    """The most bytes that one array or column may take: a quarter of the memory, since its tensors take as much again."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return 2**32


def refuse_large(what: str, size: int) -> None:
    """Refuse what takes too much memory.

    Args:
        what: it, in the plural.
        size: the bytes that it takes.

    Raises:
        ValueError: more than :func:`most_bytes`.
    """
    if size > (most := most_bytes()):
        raise ValueError(f"{what} take {size / GIB:.3g} GiB; with this machine's memory they may take {most / GIB:.3g} GiB")


def refuse_one_hot(rows: int, classes: int) -> None:
    """Refuse targets that take too much memory with a column for each class, as those of a small file may.

    Raises:
        ValueError: they do.
    """
    refuse_large(f"targets of {rows:,} rows with a column for each of {classes:,} classes", 4 * rows * classes)
