"""What a run was left to choose: its engine and its learning rate."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class ShowChoices(Callback):
    """Prints what a run has chosen, and why."""

    _shown = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shown or not trainer.is_global_zero:
            return
        self._shown = True
        module: Any = pl_module
        if module.hparams["engine"] == "auto":
            print(f"engine {module.engine}" + (f", because {module.obstacle}" if module.obstacle else ""), flush=True)
        if module.lr_was_found:
            print(f"lr {module.lr:.3g}, from the curvature of the cost at the start (--model.lr sets another)", flush=True)
