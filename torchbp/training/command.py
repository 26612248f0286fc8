"""``torchbp fit|validate|test|predict``: a LightningCLI with this project's defaults."""

import argparse
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

import torchbp.data
from torchbp._text import printable
from torchbp.cli import STARTED, console
from torchbp.training._board import BoardLogger, Graph, Histograms, Hyperparameters
from torchbp.training._budget import Budget
from torchbp.training._choices import ShowChoices
from torchbp.training._curves import ActivationCurves
from torchbp.training._defaults import table_options
from torchbp.training._events import naming_events
from torchbp.training._folder import SaveConfig, folder_name, only_if_trained, own_config, run_folder, run_name, run_options
from torchbp.training._fused import refuse_precision
from torchbp.training._jsonargparse import set_help
from torchbp.training._lightning import copies_this_process, instantiator
from torchbp.training._limits import refuse_limits
from torchbp.training._module import BPModule
from torchbp.training._pictures import Pictures
from torchbp.training._progress import PlainProgress, ProgressBar, Unprofiled
from torchbp.training._report import refuse_report, write_report
from torchbp.training._results import Results
from torchbp.training._saving import Best, Last, WaitingCheckpointIO
from torchbp.training._schedule import refuse_failing
from torchbp.training._signals import Signals
from torchbp.training._summary import Summary, announced, show
from torchbp.training._threshold import DEFAULT
from torchbp.training.arguments import (
    STAND_IN,
    ConfigurationParser,
    asked,
    configured,
    given,
    import_named_activations,
    refuse_file_as_class,
    stand_ins,
    table_by_default,
    table_help,
)
from torchbp.training.checkpoint import (
    DATA,
    HELD_OUT,
    LOGS,
    SETTLED,
    WHOLE,
    another_file,
    load_checkpoint,
    model_arguments,
    newest_checkpoint,
    refuse_other,
    refuse_other_data,
    refuse_untrainable,
    restore,
    saved_data,
)
from torchbp.training.prediction import PredictionWriter, output_names, table_file

THIN = 25
FREE = {"threshold"}  # what may be another than in training
NETWORK = ("hidden_sizes", "cost", "output", "activation", "activation_per_unit")  # what makes it, and what it is measured by
# The budget of what is not done every epoch: its share of the run's time, ..., as Budget takes them.
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
CKPT_PATH = "A run's checkpoint: a path, or best or last for those of the newest run that is meant."


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


class BPCLI(LightningCLI):
    """Trains a :class:`BPModule` on any data module; sizes and task of the network are read off the data."""

    def __init__(self, args: list[str], **kwargs: Any) -> None:
        # Whatever is named where any value is allowed stays as it is said, and nothing is opened by its import path.
        set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_allowlist=[])
        self.command, self.arguments = args[0], args
        self.checkpoint: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.says_defaults = False
        self.another_file: str | None = None  # not that which was trained on
        self.run: tuple[Path, str, str | None] | None = None  # where it is written
        self.trained_data: type[LightningDataModule] | None = None  # of the checkpoint
        self.trained_arguments: dict[str, Any] = {}  # of it, where nothing else is asked for
        self.best: ModelCheckpoint | None = None
        self.summary = Summary()
        super().__init__(args=args, **kwargs)
        for note in self.notes:  # now that all has gone well: what is wrong is said in one line
            rank_zero_only(print)(f"torchbp: {printable(note)}", file=sys.stderr)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for attribute in ("num_features", "num_outputs", "task"):
            parser.link_arguments(f"data.{attribute}", f"model.{attribute}", apply_on="instantiate")
        parser.set_defaults({"model.engine": "auto"})

    def _add_instantiators(self) -> None:
        instantiate = instantiator(self, "data")

        # With a checkpoint nothing is fitted again: what the network is told of the data is what it was told in training.
        def restored(
            class_type: type[LightningDataModule], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
        ) -> LightningDataModule:
            if class_type is self.trained_data:
                data = class_type(**{**kwargs, **self.trained_arguments})
            else:
                data = instantiate(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
            restore(data, self.checkpoint or {})
            return data

        def trained(class_type: type[BPModule], applied_instantiation_links: dict[str, Any], **kwargs: Any) -> BPModule:
            saved = model_arguments(self.checkpoint) if self.checkpoint else {}
            refuse_other_data(kwargs, saved)
            threshold = self._threshold(kwargs.get("threshold"), saved.get("threshold"))
            return class_type(**{**kwargs, **saved, "threshold": threshold})

        self.parser.add_instantiator(restored, LightningDataModule, subclasses=True)
        self.parser.add_instantiator(trained, BPModule, subclasses=False)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command that is run, alone: to make the parsers of all four takes longer than to train on a small table."""
        # Nothing is ever unpickled but tensors and plain values, and predictions are written as they come.
        return {self.command: LightningCLI.subcommands()[self.command] | {"weights_only", "return_predictions"}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # A run's own config.yaml, which has it, can be given to the other commands.
        help = "Stop early, when cost/val has not fallen for this many epochs."
        parser.add_argument("--patience", type=PositiveInt | None, help=help if subcommand == "fit" else argparse.SUPPRESS)
        help = "Metrics besides the cost, histograms and checkpoints of every epoch, however long that takes, not by time."
        parser.add_argument("--every_epoch", type=bool, default=False, help=help if subcommand == "fit" else argparse.SUPPRESS)
        if subcommand == "test":
            help = "A file to write: metrics, classes, curves and the columns' importance, as .html, .md or .json."
            parser.add_argument("--report", type=str | None, help=help)
        if subcommand == "predict":
            help = "The file to write: .csv, .tsv or .parquet; - is CSV on standard output."
            parser.add_argument("--output", type=str, default="-", help=help)
            help = "Put ' before a text in CSV that a spreadsheet would run as a formula: one that begins with =, +, - or @."
            parser.add_argument("--quote_formulas", type=bool, default=False, help=help)
        set_help(parser, "ckpt_path", CKPT_PATH)
        if {"-h", "--help"} & {*self.arguments}:
            parser.more_help = table_help()  # type: ignore[attr-defined]
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """What the arguments do not say of the data is as the checkpoint has it; without one, a file is a table."""
        import_named_activations(args)
        said = given(args)
        refuse_file_as_class(parser, said.data)
        untrained = f"{args[0]} needs a trained network; say --ckpt_path PATH, or best or last for a run's in {LOGS}"
        if args[0] == "fit" and not (said.path or said.data or said.ckpt_path or said.config or said.help):
            parser.error("fit needs data; say --data.path FILE --data.target COLUMN, or --config FILE")
        if not (args[0] == "fit" or said.ckpt_path or said.config or said.help):
            parser.error(untrained)
        if said.ckpt_path in ("best", "last"):
            name = None
            if said.config or said.data:
                config = parser.parse_args(args)
                name = run_name(config[config.subcommand])
            elif args[0] == "fit" and said.path:  # a run goes on with its own network, not with another table's
                name = folder_name(said.path)
            said.ckpt_path = newest_checkpoint(name, said.ckpt_path)
            if name is None:
                self.notes.append(f"the newest run's checkpoint is {said.ckpt_path}")
        if not said.ckpt_path:
            defaults = table_by_default(args)
            if defaults and args[0] == "fit" and not said.config:
                defaults += table_options()
                self.says_defaults = True
            self.config = parser.parse_args([args[0], *defaults, *args[1:]])
            if path := self.config[self.config.subcommand].get("ckpt_path"):  # a configuration has it
                self.parse_arguments(parser, [*args, "--ckpt_path", path])
            elif args[0] != "fit":
                parser.error(untrained)
            return
        self.checkpoint = load_checkpoint(said.ckpt_path)
        args = [*args, "--ckpt_path", said.ckpt_path]  # at the end: it may stand for best or last
        kind, saved = saved_data(self.checkpoint)
        defaults = stand_ins(kind, saved) if kind else table_by_default(args)
        own = None if said.config else own_config(said.ckpt_path)
        begun = run_options(own, args[0]) if own else defaults
        if own:
            self.notes.append(f"the {'settings' if args[0] == 'fit' else 'data settings'} are those of {own}")
        elif not (defaults or said.data or said.config or said.help):
            parser.error(f"{said.ckpt_path} does not say what data it was trained on; say --data.path FILE, or --data")
        self.config = parser.parse_args([args[0], *begun, *args[1:]])
        if kind and not said.help:
            self._take_from_checkpoint(parser.parse_args([args[0], *defaults, *args[1:]], defaults=False)[args[0]].data)
        arguments = self.config[self.command].data.get("init_args", Namespace())
        if any(value == STAND_IN and name not in self.trained_arguments for name, value in arguments.items()):
            parser.error(f"{said.ckpt_path} does not say where its data are; say --data.path FILE")
        self.another_file = another_file(self.checkpoint, arguments.get("path"))
        if self.another_file and args[0] != "predict" and not WHOLE.keys() & asked(self.arguments, "data"):
            self._mind_another_file(arguments)

    def _take_from_checkpoint(self, said: Namespace) -> None:
        """Of the checkpoint's kind of data, have its arguments be as they were in training where nothing else is said.

        Args:
            said: what the command line and the user's own configurations say of the data, without any default.
        """
        assert self.checkpoint is not None
        kind, saved = saved_data(self.checkpoint)
        if DATA.get(self.config[self.command].data.class_path) is kind:
            given = {name for name, value in said.get("init_args", Namespace()).items() if value != STAND_IN}
            given |= {name.replace("_path", "_size") for name in given & {"val_path", "test_path"}}  # a file has no such size
            self.trained_data = kind
            self.trained_arguments = {name: value for name, value in saved.items() if name not in given}

    def _mind_another_file(self, arguments: Namespace) -> None:
        """Of a file that was not trained on, all rows are validated or tested; to train on, they are split."""
        if self.command == "fit":
            self.notes.append(f"{self.another_file} is not the file that was trained on; its rows are split anew")
            return
        for name in WHOLE.keys() & arguments.keys():
            arguments[name] = WHOLE[name]
            self.trained_arguments.pop(name, None)
        done = {"validate": "validated", "test": "tested"}[self.command]
        self.notes.append(f"{self.another_file} is not the file that was trained on; all of its rows are {done}")

    def _refuse_settled(self) -> None:
        """Refuse options of the data that are as they were in training, and are asked for otherwise."""
        saved = (self.checkpoint or {}).get("datamodule_hyper_parameters") or {}
        for name in asked(self.arguments, "data") & saved.keys():
            arguments = self.config[self.command].data.init_args
            settled = name in SETTLED or (name in HELD_OUT and not self.another_file)
            if settled:
                refuse_other(name, arguments.get(name), saved[name])

    def _threshold(self, said: float | str | None, saved: float | str | None) -> float | str | None:
        """That which is said, in place of the checkpoint's; a rule to choose one by is for fit alone."""
        if self.command == "fit" or not isinstance(said, str):
            return saved if said is None else said
        if "threshold" in asked(self.arguments, "model"):
            raise ValueError(f"threshold is {said}; it is chosen in fit, to {self.command} it must be a number")
        return saved

    def _say_what_is_not_taken(self, checkpoint: dict[str, Any]) -> None:
        """Take the checkpoint's settings where a configuration beside it has others, and say so."""
        config, other = self.config[self.command], []
        if self.trained_data:
            _, saved = saved_data(checkpoint)
            settled = SETTLED | (set() if self.another_file else HELD_OUT)
            for name in sorted(configured(self.arguments, "data") & settled & saved.keys() - asked(self.arguments, "data")):
                self.trained_arguments[name] = saved[name]
                value, config.data.init_args[name] = config.data.init_args.get(name), saved[name]
                if value not in (None, saved[name]):
                    other.append(f"{name} {value} (the checkpoint's is {saved[name]})")
        trained = model_arguments(checkpoint)
        for name in sorted(configured(self.arguments, "model") & trained.keys() - asked(self.arguments, "model") - FREE):
            # How it was trained is of no account where it is not.
            value = config.model.get(name)
            if value not in (None, trained[name]) and (self.command == "fit" or name in NETWORK):
                other.append(f"{name} {value} (the checkpoint's is {trained[name]})")
        if other:
            self.notes.append(f"of the configuration, these are not taken: {printable(', '.join(other))}")

    def _parse_ckpt_path(self) -> None:
        # Not as Lightning does, which parses what the checkpoint says. Its network stands before a configuration's, but options
        # that differ are refused.
        if self.checkpoint is None or "subcommand" not in self.config:
            return
        self._refuse_settled()
        self._say_what_is_not_taken(self.checkpoint)
        saved = model_arguments(self.checkpoint)
        for name in asked(self.arguments, "model") & saved.keys() - FREE:
            refuse_other(name, self.config[self.command].model.get(name), saved[name])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, trainer = self.config[self.subcommand], self.config_init[self.subcommand]["trainer"]
        fit = self.subcommand == "fit"
        refuse_limits(trainer, self.command)
        if self.model.engine in ("fused", "compiled"):  # before Lightning warns of what it makes of it
            refuse_precision(trainer["precision"], self.model.engine)
        shown = sys.stderr if config.get("output") == "-" else sys.stdout
        callbacks: list[Callback] = []
        if trainer["logger"] is None:
            self.run = run_folder(config) if fit else None
            trainer["logger"] = BoardLogger(*self.run, default_hp_metric=False) if self.run else False
        elif not trainer["logger"]:
            self.save_config_callback = None  # without a run's folder it would take the place of a config.yaml right here
        if fit:
            validated = getattr(self.datamodule, "has_validation", True) and trainer["limit_val_batches"] != 0
            monitor = "cost/val" if validated else "cost/train"
            each = config["every_epoch"]
            budgets = {name: None if each else Budget(*limits, STARTED) for name, limits in LIMITS.items()}
            self.model.budget = budgets["metrics"]
            callbacks += [ShowChoices(), Graph(), Histograms(budget=budgets["histograms"]), Hyperparameters()]
            callbacks.append(Signals(budgets["signals"]))
            if any(g.parameters for g in self.model.network.activations):
                callbacks.append(ActivationCurves(budget=budgets["curves"]))
            if self.model.hparams["num_features"] == 2 or getattr(self.datamodule, "image_shape", None):
                callbacks.append(Pictures(budgets["pictures"]))
            if trainer["enable_checkpointing"] is not False and not trainer["fast_dev_run"]:
                self.best = Best(monitor)
                callbacks += [self.best, Last(budgets["checkpoints"])]
            self.summary = Summary(self.best)
            callbacks.append(self.summary)
            if config["patience"]:
                callbacks.append(EarlyStopping(monitor, patience=int(config["patience"])))  # no type of jsonargparse's
        trainer["profiler"] = trainer["profiler"] or Unprofiled()
        if trainer["enable_model_summary"] is None:  # what there is to be said of the network stands in the summary of the run
            trainer["enable_model_summary"] = False
        if trainer["enable_progress_bar"] is not False and shown.isatty():
            callbacks.append(ProgressBar(console_kwargs={"stderr": shown is sys.stderr}))
        elif trainer["enable_progress_bar"] is not False:
            trainer["enable_progress_bar"] = False
            callbacks.append(PlainProgress())
        plugins = trainer["plugins"] or []
        trainer["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WaitingCheckpointIO("best")]
        of_model = model_arguments(self.checkpoint) if self.checkpoint else {}
        if self.model.threshold_rule:  # a run that goes on chooses again
            of_model.pop("threshold", None)
        trained = {"model": of_model, "data": self.trained_arguments}
        self.save_config_kwargs = {"trained": trained}
        made = self._instantiate_trainer({**trainer, **kwargs}, callbacks)
        if copies_this_process(made):
            raise ValueError(f"strategy is {trainer['strategy']}; several processes are trained in with ddp")
        return made

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def predict(self, **kwargs: Any) -> None:
        """Write each batch's predictions as they come, to a file that takes its name when all are there."""
        if (n := self.trainer.world_size) > 1:
            raise ValueError(f"predictions are written by one process, not {n}; say --trainer.devices 1 --trainer.num_nodes 1")
        output, data = self.config["predict"]["output"], self.datamodule
        for path in (getattr(data, "path", None), *getattr(data, "other_paths", {}).values()):
            if path and os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
                raise ValueError(f"output is {output}; it must be another file than the data's, which would be lost")
        with table_file(output, self.config["predict"]["quote_formulas"]) as write:
            self.trainer.callbacks.append(PredictionWriter(write))  # type: ignore[attr-defined]
            self.trainer.predict(**kwargs, return_predictions=False)

    def before_validate(self) -> None:
        if isinstance(self.datamodule, torchbp.data.RowsDataModule) and not len(self.datamodule.split_rows("val")):
            raise ValueError("no row is held out to validate on; there must be some, or another file to validate")
        self._say_what_was_trained_on("val")
        self._say_threshold()

    def before_test(self) -> None:
        self._say_what_was_trained_on("test")
        self._say_threshold()

    def before_predict(self) -> None:
        self._say_threshold()

    def _say_threshold(self) -> None:
        module: Any = self.model
        if module.task != "binary" or module.threshold == DEFAULT:
            return
        name = output_names("binary", 1, self.datamodule)[1]
        whose = "as told" if "threshold" in asked(self.arguments, "model") else "the checkpoint's"
        self.notes.append(f"class {name} is predicted above a probability of {module.threshold:g}, {whose}")

    def before_fit(self) -> None:
        # What is wrong is to be said before the run has a folder, of the rows to test not after hours of training.
        if self.checkpoint:
            refuse_untrainable(self.checkpoint, self.model.lr_scheduler)
        if self.model.lr_scheduler is not None:  # before other processes are started, which would say it again
            refuse_failing(self.model.lr_scheduler, 0.1 if self.model.lr == "auto" else self.model.lr)
        if isinstance(self.datamodule, torchbp.data.RowsDataModule):
            for part in ("train", "val", "test"):
                self.datamodule.split_rows(part)
        self._say_what_was_trained_on("val", "test")
        if self.trainer.is_global_zero and isinstance(self.datamodule, torchbp.data.TabularDataModule):
            Console().print(self.datamodule.schema_table())
            if self.says_defaults:
                sizes, activation = self.model.hparams["hidden_sizes"], self.model.hparams["activation"]
                epochs, patience = self.trainer.max_epochs, self.config["fit"]["patience"]
                print(
                    f"hidden_sizes {sizes} of {activation}, inputs within {self.model.hparams['clip']:g} deviations, at most "
                    f"{epochs} epochs, patience {patience} (--model.hidden_sizes, --model.activation, --model.clip, "
                    "--trainer.max_epochs and --patience set others)"
                    if self.model.hparams["clip"]
                    else f"hidden_sizes {sizes} of {activation}, at most {epochs} epochs, patience {patience}"
                )
        if self.trainer.is_global_zero and isinstance(self.datamodule, torchbp.data.RowsDataModule):
            show(announced(self.model, self.datamodule), console())

    def fit(self, **kwargs: Any) -> None:
        """Train; of a run that has not begun to train, nothing is left."""
        with only_if_trained(self.trainer, self.run, AT_START), naming_events(self.trainer):
            try:
                self.trainer.fit(**kwargs)
            except SystemExit:  # as Lightning ends an interrupted run
                show(self.summary.parts, console())
                raise

    def test(self, **kwargs: Any) -> None:
        """Show the metrics of the rows tested, beside the baseline, and each class or target."""
        self._evaluate("test", self.trainer.test, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Likewise of the rows to validate on."""
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

    def _say_what_was_trained_on(self, *parts: str) -> None:
        """Say how many rows of another file than that trained on were rows of it nevertheless."""
        if not self.another_file or not isinstance(self.datamodule, torchbp.data.TabularDataModule):
            return
        for part in parts:
            seen = self.datamodule.seen_in_training(part)  # type: ignore[arg-type]
            if seen and seen[0]:
                of = f"{seen[1]:,} rows" + (" looked at" if seen[1] < len(self.datamodule.split_rows(part)) else "")  # type: ignore[arg-type]
                self.notes.append(
                    f"{seen[0]:,} of its {of} to {HELD_FOR[part]} are equal to rows trained on, in every column that is used; "
                    "scores of these say nothing of new rows"
                )

    def after_test(self) -> None:
        self._say_undefined("test")

    def after_validate(self) -> None:
        self._say_undefined("val")

    def _say_undefined(self, split: str) -> None:
        """Say which metrics the rows do not define, and why."""
        module: BPModule = self.model
        metrics = module.split_metrics(split)
        if metrics.undefined or metrics.absent:
            classes = output_names(module.task, module.hparams["num_outputs"], self.datamodule)
            rank_zero_only(print)(printable(metrics.why_undefined(classes)), flush=True)

    def after_fit(self) -> None:
        if not self.trainer.is_global_zero:
            return
        if self.trainer.global_step == (self.checkpoint or {}).get("global_step", 0):
            print("nothing was left to train")
            return
        show(self.summary.parts, console())
        logger = self.trainer.logger
        if self.best and os.path.exists(self.best.best_model_path):
            print(f"best checkpoint: {printable(os.path.relpath(self.best.best_model_path))}")
        elif self.best and not self.best.best_model_path:
            print(f"no best checkpoint: {self.best.monitor} was not measured")
        if isinstance(logger, TensorBoardLogger):
            print(f"to look at the run: tensorboard --logdir {printable(os.path.relpath(logger.root_dir))}")
