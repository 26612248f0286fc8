"""How much memory this machine has, and a network takes."""

import os
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["GIB", "memory_bytes", "number_of_parameters", "refuse_beyond_memory"]

GIB = 2**30


def memory_bytes() -> int:
    """The machine's memory; 16 GiB if the system does not say."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 16 * GIB


def number_of_parameters(layer_sizes: Sequence[int]) -> int:
    """How many weights and biases layers of these widths have."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(layer_sizes))


def refuse_beyond_memory(layer_sizes: Sequence[int], count: int, size: int = 4) -> None:
    """Refuse parameters that take more than half of the memory: their gradients take as much.

    Args:
        layer_sizes: the network's, for the message.
        count, size: the number of its parameters, and the bytes of each.

    Raises:
        MemoryError: they take more.
    """
    if 2 * count * size > memory_bytes():
        raise MemoryError(
            f"layer_sizes is {list(layer_sizes)}; its {count:.2g} parameters do not fit memory: with their gradients they take "
            f"{2 * count * size / GIB:.3g} GiB, and this machine has {memory_bytes() / GIB:.3g}"
        )
