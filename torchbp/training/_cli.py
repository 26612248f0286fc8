"""``torchbp fit|validate|test|predict``: a LightningCLI with this project's defaults."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

import torchbp.data
from torchbp.cli import refuse
from torchbp.training._callbacks import Graph, Histograms, Hyperparameters, PlainProgress
from torchbp.training._module import BPModule
from torchbp.training._prediction import PredictionWriter

LOGS = Path("logs")


def run(args: list[str]) -> None:
    """Run one subcommand from its command line."""
    be_quiet()
    BPCLI(
        BPModule,
        LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},  # a resumed run goes on in its folder
        save_config_callback=SaveConfigCallback if args[0] == "fit" else None,
        trainer_defaults={"num_sanity_val_steps": 0, "max_epochs": 100},
        parser_class=OneLineParser,
        args=args,
    )


def be_quiet() -> None:
    """Have Lightning keep to itself what is no news to whoever called this command."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Rows in memory are handed out faster without workers, and everything is logged by the epoch.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # To test or predict, a checkpoint's callbacks are of no use.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")


class OneLineParser(LightningArgumentParser):
    """A parser that refuses in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.exit(refuse(message, 2))


class BPCLI(LightningCLI):
    """Trains a :class:`BPModule` on any data module; sizes and task of the network are read off the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for attribute in ("num_features", "num_outputs", "task"):
            parser.link_arguments(f"data.{attribute}", f"model.{attribute}", apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--patience",
                type=PositiveInt | None,
                default=None,
                help="Stop early, when cost/val has not fallen for this many epochs.",
            )
        if subcommand == "predict":
            parser.add_argument("--output", type=str, default="-", help="The CSV file to write; - is standard output.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        config = self.config[self.config.subcommand]
        if config.get("ckpt_path") in ("best", "last"):
            config["ckpt_path"] = newest_checkpoint(_run_name(config), config["ckpt_path"])
        if config.get("ckpt_path"):
            check_checkpoint(config["ckpt_path"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, trainer = self.config[self.subcommand], self.config_init[self.subcommand]["trainer"]
        fit, terminal = self.subcommand == "fit", sys.stdout.isatty()
        callbacks: list[Callback] = []
        if trainer["logger"] is None:
            board = TensorBoardLogger(*_run_folder(config), default_hp_metric=False)
            trainer["logger"] = board if fit else False
        if fit:
            monitor = "cost/val" if getattr(self.datamodule, "has_validation", True) else "cost/train"
            callbacks += [Graph(), Histograms(), Hyperparameters()]
            if trainer["enable_checkpointing"] is not False:
                callbacks.append(ModelCheckpoint(monitor=monitor, filename="best", save_last=True))
            if config["patience"]:
                callbacks.append(EarlyStopping(monitor, patience=int(config["patience"])))  # no type of jsonargparse's
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter(config["output"]))
        if trainer["enable_progress_bar"] is not False and terminal:
            callbacks.append(RichProgressBar())
        elif trainer["enable_progress_bar"] is not False:
            trainer["enable_progress_bar"] = trainer["enable_model_summary"] = False
            callbacks.append(PlainProgress())
        return self._instantiate_trainer({**trainer, **kwargs}, callbacks)

    def before_fit(self) -> None:
        if self.trainer.is_global_zero and isinstance(self.datamodule, torchbp.data.TabularDataModule):
            Console().print(self.datamodule.schema_table())

    def after_fit(self) -> None:
        checkpoint, logger = self.trainer.checkpoint_callback, self.trainer.logger
        if self.trainer.is_global_zero and isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            print(f"best checkpoint: {_shown(checkpoint.best_model_path)}")
        if self.trainer.is_global_zero and isinstance(logger, TensorBoardLogger):
            print(f"to look at the run: tensorboard --logdir {_shown(logger.root_dir)}")


def newest_checkpoint(name: str, kind: str) -> str:
    """The newest ``best`` or ``last`` checkpoint of the runs in ``logs/name``.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted((LOGS / name).glob(f"version_*/checkpoints/{kind}.ckpt"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(f"{LOGS / name} holds no {kind} checkpoint; train first with torchbp fit, or give a path")
    return str(paths[-1])


def check_checkpoint(path: str) -> None:
    """Refuse a file that is no checkpoint of a :class:`BPModule`; nothing but tensors and plain values is unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: any other file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is damaged or no checkpoint of torchbp ({type(error).__name__})") from None
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(checkpoint, dict) or any(part not in checkpoint for part in parts):
        raise ValueError(f"{path} is no checkpoint of torchbp; one has {' and '.join(parts)}")


def _run_name(config: Namespace) -> str:
    """What the run's folder in logs/ is called: the data set's name, or its file's."""
    arguments = config.data.get("init_args", {})
    return arguments.get("name") or Path(arguments.get("path") or "run").stem


def _run_folder(config: Namespace) -> tuple[Path, str, str | None]:
    """Where the run is written: (logs, name, version); a resumed run goes on in the folder of its checkpoint."""
    run = Path(config["ckpt_path"] or "").absolute().parent.parent
    if run.parent.parent == LOGS.absolute():
        return LOGS, run.parent.name, run.name
    return LOGS, _run_name(config), None


def _shown(path: str) -> str:
    return os.path.relpath(path)
