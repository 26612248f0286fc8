"""Names the file in errors of TensorBoard's writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from lightning.pytorch import Trainer

from torchbp._files import NotWrittenError


@contextmanager
def naming_events(trainer: Trainer) -> Iterator[None]:
    """Name the event file if TensorBoard cannot write it: TensorBoard's own error does not.

    Raises:
        NotWrittenError: TensorBoard cannot write its events.
    """
    try:
        yield
    except OSError as error:
        by = {frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in walk_tb(error.__traceback__)}
        if error.errno and error.filename is None and "tensorboard" in by:
            folder = trainer.logger.log_dir if trainer.logger else "logs"
            raise NotWrittenError(f"{folder}/events.out.tfevents.* cannot be written: {error.strerror}") from None
        raise
