"""How much memory data may take."""

from torchbp._memory import GIB, memory_bytes


def most_bytes() -> int:
    """The most bytes that one array or column may take: a quarter of the memory, because its tensors take as much again."""
    return memory_bytes() // 4


def refuse_large(what: str, size: int) -> None:
    """Refuse data that take too much memory.

    Args:
        what: the data in words, in the plural.
        size: their size in bytes.

    Raises:
        ValueError: ``size`` is more than :func:`most_bytes`.
    """
    if size > (most := most_bytes()):
        raise ValueError(f"{what} take {size / GIB:.3g} GiB; with this machine's memory they may take {most / GIB:.3g} GiB")


def refuse_one_hot(rows: int, classes: int) -> None:
    """Refuse targets that take too much memory with one column per class, which even a small file can ask for.

    Raises:
        ValueError: they take more than :func:`most_bytes`.
    """
    refuse_large(f"targets of {rows:,} rows with a column for each of {classes:,} classes", 4 * rows * classes)
