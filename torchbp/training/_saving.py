"""When a run's checkpoints are written: ``last`` by time, ``best`` from a copy in memory before it."""

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from torchbp._plain import read_plain
from torchbp.training._budget import Budget
from torchbp.training.checkpoint import CheckpointIO


class WaitingCheckpointIO(CheckpointIO):
    """Keeps the checkpoints of some files in memory, until another one is saved or the run ends.

    Args:
        waiting: the names of those files, without folder and extension.
    """

    def __init__(self, *waiting: str) -> None:
        super().__init__()
        self._names = waiting
        self._waiting: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        if path.stem in self._names:
            self._waiting[path] = _copied(checkpoint)
        else:
            self.write()  # first, for the checkpoint knows of them
            super().save_checkpoint(checkpoint, path, storage_options)

    def read(self, path: str | Path) -> dict[str, Any]:
        """A checkpoint of this very run, from memory where it is kept there."""
        waiting = self._waiting.get(Path(path))
        return read_plain(path) if waiting is None else waiting

    def write(self) -> None:
        """Write what is kept."""
        for path in [*self._waiting]:
            super().save_checkpoint(self._waiting.pop(path), path)

    def teardown(self) -> None:
        """Called by Lightning where the run ends, whether well or not."""
        self.write()
        super().teardown()


def _copied(value: Any) -> Any:
    """A deep copy, of what a checkpoint is made of in a fraction of the library's time."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (dict, OrderedDict):
        made = copy.copy(value)  # with what a state_dict has beside its items
        made.update((name, _copied(one)) for name, one in value.items())
        return made
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value if value is None or type(value) in (bool, int, float, str) else copy.deepcopy(value)


class _Checkpoint(ModelCheckpoint):
    """A ModelCheckpoint that saves its state as one, to be checked as one where it is loaded."""

    _key = ""

    @property
    def state_key(self) -> str:
        if not self._key:  # Lightning asks at each hook
            self._key = super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)
        return self._key


class Best(_Checkpoint):
    """``best.ckpt``, the run's checkpoint with the lowest ``monitor``."""

    def __init__(self, monitor: str) -> None:
        # Overwritten at once, also by a run that goes on after it was killed.
        super().__init__(None, "best", monitor, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._may_be_better(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._may_be_better(trainer):
            super().on_validation_end(trainer, pl_module)

    def _may_be_better(self, trainer: Trainer) -> bool:
        """Asked first, for Lightning copies all metrics before it asks."""
        current = trainer.callback_metrics.get(str(self.monitor))
        return not self.best_model_path or current is None or self.check_monitor_top_k(trainer, current)


class Last(_Checkpoint):
    """``last.ckpt``, at the first and the last epoch's end and in between when the budget has it.

    Args:
        budget: None for every epoch.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        # Not by save_last, which saves only where the best was saved too: what came after it would be lost.
        # Without a monitor the mode says nothing but whose state this is: a ModelCheckpoint of the user's has "min".
        super().__init__(None, "last", mode="max", enable_version_counter=False, save_on_train_epoch_end=True)
        self.budget = budget

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.budget is None:
            super().on_train_epoch_end(trainer, pl_module)
        elif self.budget.due(trainer):
            with self.budget.spending():
                super().on_train_epoch_end(trainer, pl_module)
