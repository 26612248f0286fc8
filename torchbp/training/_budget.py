"""Decides when to observe a run: in its first and last epoch, and in between within a share of its time."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class Budget:
    """Limits the time of a task that need not run after every epoch, such as writing histograms.

    Args:
        share: the task runs again while its total time is at most this share of the run's time so far.
        at_most: the longest wait between two runs of the task, in seconds; overrides ``share`` and ``thin``.
        thin: from epoch ``thin`` on, the task waits epoch / ``thin`` epochs before it runs again, so that a long run writes
            little; None for no such wait.
        begun: when the run began, in seconds of ``time.monotonic``; None for now.
    """

    def __init__(
        self, share: float, at_most: float = float("inf"), thin: int | None = None, begun: float | None = None
    ) -> None:
        self.share, self.at_most, self.thin = share, at_most, thin
        self.begun = monotonic() if begun is None else begun
        self.spent = 0.0
        self.done_at = -float("inf")  # never
        self._waiting = self.begun
        self._epoch = self._next_epoch = 0

    def due(self, trainer: Trainer, left: float = 0) -> bool:
        """Whether to run the task in this epoch, which has ``left`` steps to go; the same answer in every process."""
        now, self._epoch = monotonic(), trainer.current_epoch
        due = (
            self.done_at == -float("inf")
            or is_last_epoch(trainer, left)
            or (self.spent <= self.share * (now - self.begun) and self._epoch >= self._next_epoch)
            or now - self.done_at >= self.at_most
        )
        return trainer.strategy.broadcast(due) if trainer.world_size > 1 else due

    def wait(self) -> None:
        """Count the longest wait from now on: nothing was to be done before."""
        self._waiting = monotonic()

    def overdue(self) -> bool:
        """Whether the longest wait is over, in this process."""
        return monotonic() - max(self.done_at, self._waiting) >= self.at_most

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Add the block's time to what was spent."""
        start = monotonic()
        try:
            yield
        finally:
            self.done_at = monotonic()
            self.spent += self.done_at - start
            self._next_epoch = self._epoch + max(self._epoch // self.thin, 1) if self.thin else 0


def is_last_epoch(trainer: Trainer, left: float) -> bool:
    """Whether the run ends with this epoch, which has ``left`` steps to go, as far as is known."""
    by_epochs = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return by_epochs or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step + left


def sees_costs_alone(trainer: Trainer) -> bool:
    """Whether all callbacks are from this package or Lightning, and callbacks and schedulers monitor nothing but a cost."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    known = all(type(callback).__module__.startswith(("torchbp.", "lightning.pytorch.")) for callback in callbacks)
    # A user's ModelCheckpoint may have any metric in its file names.
    known &= not any(type(callback) is ModelCheckpoint for callback in callbacks)
    monitors = [getattr(callback, "monitor", None) for callback in callbacks]
    monitors += [config.monitor for config in trainer.lr_scheduler_configs]
    return known and all(monitor is None or monitor.startswith("cost/") for monitor in monitors)
