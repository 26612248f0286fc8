"""How much memory this machine has, and a network takes."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

__all__ = ["GIB", "memory_bytes", "number_of_parameters", "refuse_beyond_memory"]

GIB = 2**30
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of cgroup v2, and of v1


def memory_bytes() -> int:
    """The machine's memory, or its container's limit if that is less; 16 GiB if the system does not say.

    A limit is seen where the container has its own view of cgroups, as Docker's and Kubernetes' have.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 16 * GIB]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # there is no such limit, or it is "max"
            sizes.append(int(path.read_text()))
    return min(sizes)


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
