"""Names, makes and cleans up the folder of a run in ``logs/``."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from torchbp._files import replacing
from torchbp.training._saving import Best, Last
from torchbp.training.checkpoint import FAILED, LOGS


def run_name(config: Namespace) -> str:
    """The name of the run's folder in logs/: that of the data set or of its file."""
    arguments = config.data.get("init_args", {})
    return folder_name(arguments.get("name") or arguments.get("path") or "")


def folder_name(path: str) -> str:
    """The name of the folder for a file's or a data set's runs, directly in logs/ for any path."""
    stem = Path(path).stem
    return "run" if stem in ("", ".", "..") else stem


def claimed(root: Path) -> str:
    """Make the next free folder version_N in ``root``; runs that start at the same moment get different ones."""
    root.mkdir(parents=True, exist_ok=True)
    found = [re.fullmatch(r"version_(\d+)", path.name) for path in root.iterdir()]
    for number in itertools.count(max((int(version[1]) + 1 for version in found if version), default=0)):
        with suppress(FileExistsError):
            (root / f"version_{number}").mkdir()
            break
    return f"version_{number}"


def own_run(path: str | None) -> Path | None:
    """The run in logs/ that a checkpoint belongs to; None for a checkpoint elsewhere."""
    run = Path(path or "").resolve().parent.parent
    return LOGS / run.parent.name / run.name if run.parent.parent == LOGS.resolve() else None


def own_config(path: str) -> Path | None:
    """The config.yaml of the run in logs/ that a checkpoint belongs to, if there is one.

    Raises:
        ValueError: the file is empty or damaged.
    """
    run = own_run(path)
    if run is None or not (config := run / "config.yaml").is_file() or config.is_symlink():
        return None
    try:
        if {"data", "model", "trainer"} <= yaml.safe_load(config.read_text(encoding="utf-8")).keys():
            return config
    except (AttributeError, UnicodeDecodeError, yaml.YAMLError):
        pass
    raise ValueError(f"{config} is empty or damaged; remove it, and give the run's options again or a --config FILE")


def run_options(config: Path, command: str) -> list[str]:
    """The options that restore a run's settings from its config.yaml; for commands other than fit, its data settings."""
    if command == "fit":
        return ["--config", str(config)]
    return ["--data", json.dumps(yaml.safe_load(config.read_text(encoding="utf-8"))["data"], default=str)]


def run_folder(config: Namespace) -> tuple[Path, str, str | None]:
    """Where the run is written: (logs, name, version); a resumed run uses the folder of its checkpoint."""
    run = own_run(config["ckpt_path"])
    return (LOGS, run.parent.name, run.name) if run else (LOGS, run_name(config), None)


class SaveConfig(SaveConfigCallback):
    """Writes the run's config.yaml atomically.

    Args:
        trained: by section, settings of the checkpoint that replace the configuration's.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, trained: dict[str, dict[str, Any]]) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.trained = trained

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = trainer.log_dir  # it broadcasts: every process must call it
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for section, trained in ((config["model"], "model"), (config["data"].get("init_args", {}), "data")):
            section.update({name: value for name, value in self.trained[trained].items() if name in section})
        assert self.folder is not None
        path = Path(self.folder) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


class _TrainingBegun(Callback):
    """Notes that training has begun, and removes callbacks that are then finished: calling each takes a microsecond per hook.

    Args:
        done: the classes of those callbacks.
    """

    training = False

    def __init__(self, done: tuple[type[Callback], ...]) -> None:
        self.done = *done, type(self)

    # Not on_train_start: the module's own may still refuse. Not on_train_epoch_start: a resumed epoch does not call it.
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.training = True
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [one for one in callbacks if type(one) not in self.done]  # type: ignore[attr-defined]


def _own_checkpoints(trainer: Trainer, resumed: str | None) -> list[Path]:
    """Give ``best`` and ``last`` of a run without a logger a folder of their own; returns the folders that are new.

    It is ``checkpoints/version_N``, or that of the checkpoint from which the run is resumed.
    """
    root = Path(trainer.default_root_dir, "checkpoints")
    own = [one for one in trainer.checkpoint_callbacks if isinstance(one, Best | Last)]
    if not own:
        return []
    before, new = Path(resumed or "").resolve().parent, [path for path in (root, *root.parents) if not path.exists()]
    goes_on = before.parent == root.resolve()
    folder = root / (before.name if goes_on else claimed(root))
    for callback in own:
        callback.dirpath = str(folder)
    return [] if goes_on else [folder, *new]


@contextmanager
def only_if_trained(
    trainer: Trainer,
    run: tuple[Path, str, str | None] | None,
    at_start: tuple[type[Callback], ...] = (),
    resumed: str | None = None,
) -> Iterator[None]:
    """Make the run's folder; at the block's end, remove it if training never began.

    If training began and ended with an error, write the error to a file in the folder.

    Args:
        run: the folder of torchbp's own logger, (logs, name, version); version is None for a new run.
        at_start: the classes of callbacks that do nothing after training has begun.
        resumed: the checkpoint from which the run is resumed.
    """
    new: list[Path] = []
    failed: Path | None = None
    begun = _TrainingBegun(at_start)
    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        folder = Path(trainer.logger.log_dir)
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        if run and run[2] is None:
            trainer.logger = type(trainer.logger)(*run[:2], claimed(folder.parent), default_hp_metric=False)
            new[:1] = [Path(trainer.logger.log_dir)]
        failed = Path(trainer.logger.log_dir) / FAILED
    elif trainer.is_global_zero and not trainer.loggers:
        new = _own_checkpoints(trainer, resumed)
    trainer.callbacks.append(begun)  # type: ignore[attr-defined]
    try:
        yield
        if failed and begun.training:  # a resumed run that has now ended well
            failed.unlink(missing_ok=True)
    except Exception as error:
        with suppress(OSError):  # the error may be that nothing can be written
            if failed and begun.training:
                failed.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
        raise
    finally:
        if new and not begun.training:
            shutil.rmtree(new[0], ignore_errors=True)
            with suppress(OSError):  # another run may be in it
                for path in new[1:]:
                    path.rmdir()
