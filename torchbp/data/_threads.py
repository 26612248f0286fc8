"""Works on several parts in parallel threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

T = TypeVar("T")


def num_threads() -> int:
    """As many as PyTorch is told to use, up to two: more would wait for the interpreter's lock."""
    return min(torch.get_num_threads(), 2)


def each(parts: Iterator[T], work: Callable[[T], None]) -> None:
    """Do the work on each part; no more parts are taken at a time than there are threads.

    Raises:
        Exception: what the work on the first part that fails raises, whichever thread comes first.
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
            del part  # before the next is made

    with ThreadPoolExecutor(num_threads()) as threads:
        for done in [threads.submit(take_and_work) for _ in range(num_threads())]:
            done.result()
    if failed:
        raise failed[min(failed)]
