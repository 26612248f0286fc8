"""``torchbp fit|validate|test|predict``: a LightningCLI with this project's defaults."""

import os
import sys
from collections.abc import Callable
from math import inf
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

import torchbp.data
from torchbp._text import printable
from torchbp.cli import STARTED, console
from torchbp.training._board import Band, BoardLogger, Graph, Histograms, Hyperparameters
from torchbp.training._budget import Budget
from torchbp.training._choices import ShowChoices, defaults_in_words
from torchbp.training._command_line import CommandLine
from torchbp.training._curves import ActivationCurves
from torchbp.training._engines import refuse_precision
from torchbp.training._events import naming_events
from torchbp.training._folder import SaveConfig, only_if_trained, run_folder
from torchbp.training._lightning import copies_this_process
from torchbp.training._limits import refuse_limits
from torchbp.training._module import BPModule
from torchbp.training._pictures import Pictures
from torchbp.training._progress import PlainProgress, ProgressBar, Unprofiled
from torchbp.training._quiet import be_quiet
from torchbp.training._report import refuse_report, write_report
from torchbp.training._results import Results
from torchbp.training._saving import Best, Last, WaitingCheckpointIO
from torchbp.training._schedule import refuse_failing
from torchbp.training._signals import Signals
from torchbp.training._summary import Summary, announced, show
from torchbp.training._threshold import DEFAULT
from torchbp.training.arguments import (
    ConfigurationParser,
    section_options,
)
from torchbp.training.checkpoint import (
    model_arguments,
    refuse_untrainable,
)
from torchbp.training.prediction import PredictionWriter, output_names, refuse_own_file, table_file

THIN = 25
# For each task that does not run in every epoch, the arguments of its Budget: share, at_most, thin.
LIMITS: dict[str, tuple[float, float, int | None]] = {
    "histograms": (0.01, inf, THIN),
    "signals": (0.01, inf, THIN),
    "curves": (0.005, inf, THIN),
    "pictures": (0.005, inf, THIN),
    "metrics": (0.01, inf, None),
    "checkpoints": (0.01, 10.0, None),
}
AT_START = (ShowChoices, Graph, Hyperparameters, SaveConfig)
HELD_FOR = {"val": "validate", "test": "test"}


def run(args: list[str]) -> int:
    """Run one subcommand from its command line; returns the exit status."""
    be_quiet()
    BPCLI(
        args,
        model_class=BPModule,
        datamodule_class=LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfig if args[0] == "fit" else None,
        trainer_defaults={"num_sanity_val_steps": 0, "max_epochs": 100},
        parser_class=ConfigurationParser,
    )
    return 0


class BPCLI(CommandLine):
    """Trains a :class:`BPModule` on any data module; validates and tests it, and predicts with it."""

    def __init__(self, args: list[str], **kwargs: Any) -> None:
        self.best: ModelCheckpoint | None = None
        self.summary = Summary()
        super().__init__(args, **kwargs)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, trainer = self.config[self.subcommand], self.config_init[self.subcommand]["trainer"]
        fit = self.subcommand == "fit"
        refuse_limits(trainer, self.command)
        if self.model.engine in ("fused", "compiled"):  # before Lightning warns about the precision
            refuse_precision(trainer["precision"], self.model.engine)
        shown = sys.stderr if config.get("output") == "-" else sys.stdout
        callbacks = self._callbacks_of_fit(config, trainer) if fit else []
        if trainer["logger"] is None:
            self.run = run_folder(config) if fit else None
            trainer["logger"] = BoardLogger(*self.run, default_hp_metric=False) if self.run else False
        elif not trainer["logger"]:
            self.save_config_callback = None  # without a run's folder it would overwrite ./config.yaml
        trainer["profiler"] = trainer["profiler"] or Unprofiled()
        if trainer["accelerator"] == "auto":  # Lightning's own choice on a Mac is mps, which has no float64
            trainer["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
        if trainer["enable_model_summary"] is None:  # the run's own summary replaces it
            trainer["enable_model_summary"] = False
        if trainer["enable_progress_bar"] is not False and shown.isatty():
            callbacks.append(ProgressBar(console_kwargs={"stderr": shown is sys.stderr}))
        elif trainer["enable_progress_bar"] is not False:
            trainer["enable_progress_bar"] = False
            callbacks.append(PlainProgress())
        plugins = trainer["plugins"] or []
        trainer["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WaitingCheckpointIO("best")]
        of_model = model_arguments(self.checkpoint) if self.checkpoint else {}
        if self.model.threshold_rule:  # a resumed run chooses it again
            of_model.pop("threshold", None)
        trained = {"model": of_model, "data": self.trained_arguments}
        self.save_config_kwargs = {"trained": trained}
        made = self._instantiate_trainer({**trainer, **kwargs}, callbacks)
        if copies_this_process(made):
            raise ValueError(f"strategy is {trainer['strategy']}; for several processes use ddp")
        return made

    def _callbacks_of_fit(self, config: Namespace, trainer: dict[str, Any]) -> list[Callback]:
        """The callbacks that observe a run, save it and stop it."""
        validated = getattr(self.datamodule, "has_validation", True) and trainer["limit_val_batches"] != 0
        monitor = "cost/val" if validated else "cost/train"
        each = config["every_epoch"]
        budgets = {name: None if each else Budget(*limits, STARTED) for name, limits in LIMITS.items()}
        self.model.budget = budgets["metrics"]
        callbacks: list[Callback] = [ShowChoices(), Graph(), Histograms(budget=budgets["histograms"]), Hyperparameters()]
        several = self.model.hparams["networks"] is not None
        if several:
            callbacks.append(Band())
        else:  # signals are those of a single network
            callbacks.append(Signals(budgets["signals"]))
        if not several and any(g.parameters for g in self.model.network.activations):
            callbacks.append(ActivationCurves(budget=budgets["curves"]))
        if several:
            pass
        elif self.model.hparams["num_features"] == 2 or getattr(self.datamodule, "image_shape", None):
            callbacks.append(Pictures(budgets["pictures"]))
        if trainer["enable_checkpointing"] is not False and not trainer["fast_dev_run"]:
            self.best = Best(monitor)
            callbacks += [self.best, Last(budgets["checkpoints"])]
        self.summary = Summary(self.best)
        callbacks.append(self.summary)
        if config["patience"]:
            patience = int(config["patience"])  # not jsonargparse's PositiveInt
            # Check where the cost is measured: if max_steps ends a run within its first epoch, there is no cost/val. The module
            # itself raises an error for a cost that is not finite.
            at = not validated
            callbacks.append(EarlyStopping(monitor, patience=patience, check_finite=False, check_on_train_epoch_end=at))
        return callbacks

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def predict(self, **kwargs: Any) -> None:
        """Write each batch's predictions as they come, to a file that gets its name when it is complete."""
        if (n := self.trainer.world_size) > 1:
            raise ValueError(f"predictions are written by one process, not {n}; set --trainer.devices 1 --trainer.num_nodes 1")
        output, data = self.config["predict"]["output"], self.datamodule
        refuse_own_file(output, data)
        with table_file(output, self.config["predict"]["quote_formulas"]) as write:
            self.trainer.callbacks.append(PredictionWriter(write))  # type: ignore[attr-defined]
            self.trainer.predict(**kwargs, return_predictions=False)

    def before_validate(self) -> None:
        if isinstance(self.datamodule, torchbp.data.RowsDataModule) and not len(self.datamodule.split_rows("val")):
            raise ValueError("no row is held out for validation; train with --data.val_size above 0, or validate another file")
        self._note_rows_seen_in_training("val")
        self._note_threshold()

    def before_test(self) -> None:
        self._note_rows_seen_in_training("test")
        self._note_threshold()

    def before_predict(self) -> None:
        self._note_threshold()

    def _note_threshold(self) -> None:
        module: Any = self.model
        if module.task != "binary" or module.threshold == DEFAULT:
            return
        name = output_names("binary", 1, self.datamodule)[1]
        whose = "as given" if "threshold" in section_options(self.arguments, "model") else "the checkpoint's threshold"
        self.notes.append(f"class {name} is predicted above a probability of {module.threshold:g}, {whose}")

    def before_fit(self) -> None:
        # Report errors before the run has a folder; those of the test rows not after hours of training.
        if self.checkpoint:
            refuse_untrainable(self.checkpoint, self.model.lr_scheduler)
        if self.model.lr_scheduler is not None:  # before other processes start, which would repeat the error
            refuse_failing(self.model.lr_scheduler, 0.1 if self.model.lr == "auto" else self.model.lr)
        if isinstance(self.datamodule, torchbp.data.RowsDataModule):
            for part in ("train", "val", "test"):
                self.datamodule.split_rows(part)
        self._note_rows_seen_in_training("val", "test")
        if self.trainer.is_global_zero and isinstance(self.datamodule, torchbp.data.TabularDataModule):
            Console().print(self.datamodule.schema_table())
            if self.uses_table_defaults:
                print(defaults_in_words(self.model.hparams, self.trainer.max_epochs, self.config["fit"]["patience"]))
        if self.trainer.is_global_zero and isinstance(self.datamodule, torchbp.data.SequenceDataModule):
            print(printable(self.datamodule.in_words()))
        if self.trainer.is_global_zero and isinstance(self.datamodule, torchbp.data.RowsDataModule):
            show(announced(self.model, self.datamodule), console())

    def fit(self, **kwargs: Any) -> None:
        """Train; remove the run's folder if training never began."""
        with only_if_trained(self.trainer, self.run, AT_START, kwargs.get("ckpt_path")), naming_events(self.trainer):
            try:
                self.trainer.fit(**kwargs)
            except SystemExit:  # Lightning ends an interrupted run with it
                self._show_outcome()
                raise

    def test(self, **kwargs: Any) -> None:
        """Show the metrics of the test rows, beside the baseline's, and each class or target."""
        self._evaluate("test", self.trainer.test, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Show the same for the validation rows."""
        self._evaluate("val", self.trainer.validate, **kwargs)

    def _evaluate(self, split: str, run: Callable[..., Any], verbose: bool = True, **kwargs: Any) -> None:
        report = self.config["test"]["report"] if self.command == "test" else None
        if report:
            refuse_report(report)
        results = Results(split, report is not None)
        self.trainer.callbacks.append(results)  # type: ignore[attr-defined]
        run(**kwargs, verbose=False)
        if not self.trainer.is_global_zero:
            return
        if verbose:
            show(results.parts, console())
        if report:
            write_report(report, results)
            print(f"report: {printable(report)}", flush=True)

    def _note_rows_seen_in_training(self, *parts: str) -> None:
        """If the data are another file, say how many of its rows are equal to rows that were trained on."""
        if not self.another_file or not isinstance(self.datamodule, torchbp.data.TabularDataModule):
            return
        for part in parts:
            seen = self.datamodule.seen_in_training(part)  # type: ignore[arg-type]
            if seen and seen[0]:
                of = f"{seen[1]:,} rows" + (" looked at" if seen[1] < len(self.datamodule.split_rows(part)) else "")  # type: ignore[arg-type]
                self.notes.append(
                    f"{seen[0]:,} of its {of} to {HELD_FOR[part]} are equal to rows trained on, in every column that is used; "
                    "scores on these say nothing about new rows"
                )

    def after_test(self) -> None:
        self._show_undefined("test")

    def after_validate(self) -> None:
        self._show_undefined("val")

    def _show_undefined(self, split: str) -> None:
        """Say which metrics are undefined for the rows, and why."""
        module: BPModule = self.model
        metrics = module.metrics[split]
        if metrics.undefined or metrics.absent:
            classes = output_names(module.task, module.hparams["num_outputs"], self.datamodule)
            rank_zero_only(print)(printable(metrics.why_undefined(classes)), flush=True)

    def after_fit(self) -> None:
        if not self.trainer.is_global_zero:
            return
        if self.trainer.global_step == (self.checkpoint or {}).get("global_step", 0):
            print("nothing was left to train")
            return
        self._show_outcome()

    def _show_outcome(self) -> None:
        """Show the run's summary and where its files are."""
        show(self.summary.parts, console())
        logger = self.trainer.logger
        if self.best and os.path.exists(self.best.best_model_path):
            print(f"best checkpoint: {printable(os.path.relpath(self.best.best_model_path))}")
        elif self.best and not self.best.best_model_path:
            print(f"no best checkpoint: {self.best.monitor} was not measured")
        if isinstance(logger, TensorBoardLogger):
            print(f"to look at the run: tensorboard --logdir {printable(os.path.relpath(logger.root_dir))}")
