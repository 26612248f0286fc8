"""The folder of a run in ``logs/``."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import TensorBoardLogger

from torchbp.training._checkpoint import LOGS


def run_name(config: Namespace) -> str:
    """What the run's folder in logs/ is called: the data set's name, or its file's."""
    arguments = config.data.get("init_args", {})
    return arguments.get("name") or Path(arguments.get("path") or "run").stem


def run_folder(config: Namespace) -> tuple[Path, str, str | None]:
    """Where the run is written: (logs, name, version); a resumed run goes on in the folder of its checkpoint."""
    run = Path(config["ckpt_path"] or "").absolute().parent.parent
    if run.parent.parent == LOGS.absolute():
        return LOGS, run.parent.name, run.name
    return LOGS, run_name(config), None


@contextmanager
def only_if_trained(trainer: Trainer) -> Iterator[None]:
    """At the block's end, remove the folder that the run made, where it has not begun to train."""
    new, batches = [], []
    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        folder = Path(trainer.logger.log_dir)
        new = [path for path in (folder, *folder.parents) if not path.exists()]
    # Of a module's hooks on_train_start is the last that refuses. An epoch that is gone on with is not started again.
    trainer.callbacks.append(LambdaCallback(on_train_batch_start=lambda *_: batches.append(1)))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if new and not batches:
            shutil.rmtree(new[0], ignore_errors=True)
            with suppress(OSError):  # another run may be in it
                for path in new[1:]:
                    path.rmdir()
