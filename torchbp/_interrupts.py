"""Signals that end a command: SIGTERM as an exception, and blocks that no signal cuts short."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

__all__ = ["Terminated", "terminable", "uninterrupted"]


class Terminated(KeyboardInterrupt):
    """SIGTERM within :func:`terminable`."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` at SIGTERM, which otherwise ends the process at once."""
    with _handling({signal.SIGTERM: _terminate}):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block."""
    received: list[int] = []
    try:
        with _handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda number, _: received.append(number))):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])


@contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Set handlers for the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler that was not installed from Python is None here. It stays: Python could not install it again.
    own = {number: handler for number, handler in handlers.items() if signal.getsignal(number) is not None}
    usual = {number: signal.signal(number, handler) for number, handler in own.items()}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _terminate(*_: Any) -> NoReturn:
    raise Terminated
