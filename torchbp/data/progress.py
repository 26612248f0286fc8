"""A progress bar for long tasks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from torchbp._text import printable


@contextmanager
def progress(description: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error, if that is a terminal; yield an ``update(done)`` callback, up to ``total``."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda done: bar.update(task, completed=done)
