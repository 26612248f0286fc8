"""Processes parts in parallel threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

T = TypeVar("T")


def num_threads() -> int:
    """PyTorch's number of threads, at most two: more would wait for the interpreter's lock."""
    return min(torch.get_num_threads(), 2)


def each(parts: Iterator[T], work: Callable[[T], None]) -> None:
    """Call ``work`` on each part; at any time there are at most as many parts as threads.

    Raises:
        Exception: the error of the first part that fails, in the order of the parts.
    """
    numbered, lock, failed = enumerate(parts), Lock(), dict[int, Exception]()

    def take_and_work() -> None:
        while not failed:
            with lock:
                number, part = next(numbered, (0, None))
            if part is None:
                return
            try:
                work(part)
            except Exception as error:
                failed[number] = error
            del part  # free it before the next is made

    with ThreadPoolExecutor(num_threads()) as threads:
        for done in [threads.submit(take_and_work) for _ in range(num_threads())]:
            done.result()
    if failed:
        raise failed[min(failed)]
