"""Silences messages of Lightning, TensorBoard and Polars."""

import logging
import sys
import threading
import warnings

from torchbp._text import printable


def be_quiet() -> None:
    """Silence Lightning's messages that do not help the user of this command; print warnings in one line."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"torchbp: warning: {printable(str(message), keep=chr(10))}\n"
    # Rows in memory load faster without workers, and everything is logged per epoch.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
    warnings.filterwarnings("ignore", message="Total length of `RowLoader`")  # nothing was held out to validate on
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # the checkpoint was moved
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")  # the run ended before validation
    warnings.filterwarnings("ignore", message="GPU available but not used")  # on a Mac, or as asked
    # Test and predict do not need a checkpoint's callbacks.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")
    # TensorBoard raises an error of its writer thread again at the next use of the writer.
    threading.excepthook = lambda failed: None if failed.exc_type is OSError else threading.__excepthook__(failed)
    # Polars raises KeyboardInterrupt besides Python; the second one may reach objects that the first is closing.
    sys.unraisablehook = lambda failed: None if failed.exc_type is KeyboardInterrupt else sys.__unraisablehook__(failed)
