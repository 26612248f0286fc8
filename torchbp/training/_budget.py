"""When to observe a run: at its first and its last epoch, and in between for a share of its time."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class Budget:
    """Time for what need not be done after every epoch, be it of milliseconds.

    Args:
        share: of the run's time so far that it may have taken for it to be done again.
        at_most: so many seconds after it was done it is done again, whatever it takes.
        thin: after that many epochs it is done at most once while the number of epochs grows by one part in so many, so that
            what a long run writes stays small; None for as often as there is time.
        begun: when the run began, in seconds of ``time.monotonic``; None for now.
    """

    def __init__(
        self, share: float, at_most: float = float("inf"), thin: int | None = None, begun: float | None = None
    ) -> None:
        self.share, self.at_most, self.thin = share, at_most, thin
        self.begun = monotonic() if begun is None else begun
        self.spent = 0.0
        self.done_at = -float("inf")  # never
        self._epoch = self._next_epoch = 0

    def due(self, trainer: Trainer, left: float = 0) -> bool:
        """Whether to do it in this epoch, of which so many steps are left; all processes are told the same."""
        now, self._epoch = monotonic(), trainer.current_epoch
        due = (
            self.done_at == -float("inf")
            or is_last_epoch(trainer, left)
            or (self.spent <= self.share * (now - self.begun) and self._epoch >= self._next_epoch)
            or now - self.done_at >= self.at_most
        )
        return trainer.strategy.broadcast(due) if trainer.world_size > 1 else due

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the block's time."""
        start = monotonic()
        try:
            yield
        finally:
            self.done_at = monotonic()
            self.spent += self.done_at - start
            self._next_epoch = self._epoch + max(self._epoch // self.thin, 1) if self.thin else 0


def is_last_epoch(trainer: Trainer, left: float) -> bool:
    """Whether the run ends with this epoch, of which so many steps are left, as far as that is known."""
    by_epochs = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return by_epochs or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step + left


def sees_costs_alone(trainer: Trainer) -> bool:
    """Whether none but callbacks of this package's and of Lightning's look at the run, and these at no metric but a cost."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    known = all(type(callback).__module__.startswith(("torchbp.", "lightning.pytorch.")) for callback in callbacks)
    # A ModelCheckpoint of the user's may have any metric in its files' names.
    known &= not any(type(callback) is ModelCheckpoint for callback in callbacks)
    monitors = [getattr(callback, "monitor", None) for callback in callbacks]
    monitors += [config.monitor for config in trainer.lr_scheduler_configs]
    return known and all(monitor is None or monitor.startswith("cost/") for monitor in monitors)
