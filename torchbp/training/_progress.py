"""Shows a run's progress: a bar in a terminal, lines elsewhere; and a profiler that does nothing."""

from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from rich.progress import ProgressColumn, Task
from rich.text import Text

from torchbp._text import digits

NOTHING = nullcontext()


class ProgressBar(RichProgressBar):
    """Rich's bar with the run's speed instead of the epoch's: an epoch may end before the bar is drawn."""

    def __init__(self, **options: Any) -> None:
        # The default draws 100 times a second, which takes as much of the processor as a small network.
        super().__init__(refresh_rate=4, **options)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The epoch's costs, and the latest value of the validation split's leading metric."""
        metrics: dict[str, Any] = {name: digits(value) for name, value in trainer.progress_bar_metrics.items()}
        for name in ("accuracy/val", "r2/val"):
            if (value := trainer.callback_metrics.get(name)) is not None:
                metrics[name] = digits(float(value))
        return metrics

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        *columns, _ = super().configure_columns(trainer)
        return [*columns, StepsPerSecond(trainer)] if trainer.training else columns


class StepsPerSecond(ProgressColumn):
    """Gradient-descent steps per second, over at least a second."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer, self.since, self.text = trainer, (monotonic(), trainer.global_step), Text()

    def render(self, task: Task) -> Text:
        now, steps = monotonic(), self.trainer.global_step
        before, steps_before = self.since
        if now - before >= 1:
            self.since, self.text = (now, steps), Text(f"{(steps - steps_before) / (now - before):.0f} steps/s")
        return self.text


class PlainProgress(Callback):
    """Prints a line with the epoch's cost and metrics, about ten times per run, for output that is not a terminal."""

    _shown = -1  # how many tenths of the run were complete at the last line

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        tenths = epoch // max(epochs // 10, 1)
        # An epoch that is not observed has no metrics of its own.
        if trainer.is_global_zero and tenths > self._shown and getattr(pl_module, "observed", True):
            self._shown = tenths
            values = {k: v for k, v in trainer.callback_metrics.items() if k.startswith(("cost", "accuracy", "r2"))}
            print(
                f"epoch {epoch}/{epochs}", *(f"{k} {digits(float(v))}" for k, v in sorted(values.items())), sep="  ", flush=True
            )


class Unprofiled(PassThroughProfiler):
    """Does nothing, like Lightning's own, but makes no generator for each of the fifty hooks per step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING
