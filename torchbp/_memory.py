"""How much memory this machine has."""

import os

__all__ = ["GIB", "memory_bytes"]

GIB = 2**30


def memory_bytes() -> int:
    """The machine's memory; 16 GiB if the system does not say."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 16 * GIB
