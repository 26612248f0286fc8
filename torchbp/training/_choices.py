"""Tells the user what a run has chosen: engine, learning rate, and the defaults for tables."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class ShowChoices(Callback):
    """Prints the engine and the learning rate that a run has chosen, and why."""

    _shown = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shown or not trainer.is_global_zero:
            return
        self._shown = True
        module: Any = pl_module
        if module.hparams["engine"] == "auto":
            print(f"engine {module.engine}" + (f", because {module.obstacle}" if module.obstacle else ""), flush=True)
        if module.lr_was_found:
            share = "" if module.lr_factor == 1 else f"{module.lr_factor:g} times that "
            print(f"lr {module.lr:.3g}, {share}from the curvature of the cost (to change it: --model.lr)", flush=True)


def defaults_in_words(settings: Mapping[str, Any], epochs: int | None, patience: int | None) -> str:
    """The defaults for tables in one line, with the options that change them.

    Args:
        settings: the module's hyperparameters.
        epochs: ``max_epochs``.
        patience: epochs without improvement after which the run stops; None for no limit.
    """
    parts = [f"hidden_sizes {settings['hidden_sizes']} of {settings['activation']}"]
    parts += [f"inputs clipped at {settings['clip']:g} deviations"] if settings["clip"] else []
    parts += [f"at most {epochs} epochs", *([f"patience {patience}"] if patience else [])]
    options = "to change them: --model.hidden_sizes, --model.activation, --model.clip, --trainer.max_epochs, --patience"
    return f"{', '.join(parts)} ({options})"
