"""Writes a run's checkpoints: ``last`` within a share of the time, ``best`` from a copy in memory before each ``last``."""

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
    """Keeps checkpoints with certain names in memory until another one is saved or the run ends.

    Args:
        waiting: the names of these files, without folder and extension.
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
            self.write()  # first: the checkpoint names these files
            super().save_checkpoint(checkpoint, path, storage_options)

    def read(self, path: str | Path) -> dict[str, Any]:
        """A checkpoint of this run, from memory if it is kept there."""
        waiting = self._waiting.get(Path(path))
        return read_plain(path) if waiting is None else waiting

    def write(self) -> None:
        """Write the checkpoints in memory to their files."""
        for path in [*self._waiting]:
            super().save_checkpoint(self._waiting.pop(path), path)

    def teardown(self) -> None:
        """Write them; Lightning calls this at the end of a run, also after an error."""
        self.write()
        super().teardown()


def _copied(value: Any) -> Any:
    """A deep copy; for the types in a checkpoint, many times faster than copy.deepcopy."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (dict, OrderedDict):
        made = copy.copy(value)  # keeps the attributes of a state_dict
        made.update((name, _copied(one)) for name, one in value.items())
        return made
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value if value is None or type(value) in (bool, int, float, str) else copy.deepcopy(value)


class _Checkpoint(ModelCheckpoint):
    """Saves its state under the name of ModelCheckpoint, so that loading checks it as that."""

    _key = ""

    @property
    def state_key(self) -> str:
        if not self._key:  # cached: Lightning asks at each hook
            self._key = super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)
        return self._key


class Best(_Checkpoint):
    """``best.ckpt``, the run's checkpoint with the lowest ``monitor``."""

    def __init__(self, monitor: str) -> None:
        # Without versions, the file is overwritten, also when a killed run is resumed.
        super().__init__(None, "best", monitor, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._may_be_better(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._may_be_better(trainer):
            super().on_validation_end(trainer, pl_module)

    def _may_be_better(self, trainer: Trainer) -> bool:
        """Whether the epoch may be the best; checked first, because Lightning copies all metrics before it checks."""
        current = trainer.callback_metrics.get(str(self.monitor))
        return not self.best_model_path or current is None or self.check_monitor_top_k(trainer, current)


class Last(_Checkpoint):
    """``last.ckpt``, written after the first and the last epoch, and in between as the budget allows.

    In one process with a loader that has a state, as those of torchbp.data have, it is also written in an epoch that lasts
    longer than the budget's longest wait. A run that is resumed from there ends with the same parameters and costs.

    Args:
        budget: the budget; None to write after every epoch.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        # Not save_last, which saves only when the best is saved: later epochs would be lost.
        # Without a monitor, the mode only makes the state's key differ from that of a user's ModelCheckpoint, which has "min".
        super().__init__(None, "last", mode="max", enable_version_counter=False, save_on_train_epoch_end=True)
        self.budget = budget

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.budget is not None:
            self.budget.wait()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.budget is None or not self.budget.overdue() or trainer.is_last_batch or trainer.world_size > 1:
            return  # several processes would have to agree at every step
        resumes = hasattr(trainer.train_dataloader, "load_state_dict")  # other loaders begin the epoch's rows again
        if resumes and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            with self.budget.spending():
                trainer.save_checkpoint(self.format_checkpoint_name({}))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.budget is None:
            super().on_train_epoch_end(trainer, pl_module)
        elif self.budget.due(trainer):
            with self.budget.spending():
                super().on_train_epoch_end(trainer, pl_module)
