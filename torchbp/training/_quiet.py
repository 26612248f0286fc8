"""Silences messages of Lightning, TensorBoard and Polars."""

import logging
import sys
import threading
import warnings

from torchbp._text import printable


def be_quiet() -> None:
    """Have Lightning keep to itself what is no news to whoever called this command."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"torchbp: warning: {printable(str(message), keep=chr(10))}\n"
    # Rows in memory are handed out faster without workers, and everything is logged by the epoch.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
    warnings.filterwarnings("ignore", message="Total length of `RowLoader`")  # nothing was held out to validate on
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # the checkpoint was moved
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")  # a run that ended before it was validated
    # To test or predict, a checkpoint's callbacks are of no use.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")
    # What TensorBoard's thread cannot write is raised again where its writer is next used.
    threading.excepthook = lambda failed: None if failed.exc_type is OSError else threading.__excepthook__(failed)
    # Polars raises an interrupt beside Python, whose own may then meet what the first one closes.
    sys.unraisablehook = lambda failed: None if failed.exc_type is KeyboardInterrupt else sys.__unraisablehook__(failed)
