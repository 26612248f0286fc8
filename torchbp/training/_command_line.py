"""Combines the settings of the command line, the configurations and the checkpoint."""

import argparse
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from torchbp._text import printable
from torchbp.training._defaults import table_options
from torchbp.training._folder import folder_name, own_config, run_name, run_options
from torchbp.training._jsonargparse import set_help
from torchbp.training._lightning import instantiator
from torchbp.training._module import BPModule
from torchbp.training.arguments import (
    PLACEHOLDER,
    config_options,
    data_help,
    default_data_option,
    early_options,
    import_named_activations,
    placeholder_options,
    refuse_file_as_class,
    refuse_other_file,
    section_options,
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
    restore,
    saved_data,
)

FREE = {"threshold"}  # settings that may differ from those in training
NETWORK = (
    "hidden_sizes",
    "cost",
    "output",
    "activation",
    "activation_per_unit",
    "pooling",
    "bidirectional",
)  # settings of the network and its cost, as opposed to its training
DESCRIPTIONS = {
    "fit": "Train a network, and keep its best and its last checkpoint.",
    "validate": "Show the cost and the metrics of the validation rows.",
    "test": "Show the cost and the metrics of the test rows.",
    "predict": "Write the predictions for each row.",
}
CKPT_PATH = "A checkpoint: a path; or best or last of the newest run (with --config or --data: of the newest with that data)."


class CommandLine(LightningCLI):
    """Determines the settings of a run; takes the network's sizes and task from the data.

    Attributes:
        command, arguments: the subcommand, and the whole command line.
        checkpoint: the checkpoint that the command line names.
        notes: lines for standard error, printed after the settings are accepted.
        uses_table_defaults: whether the defaults for tables are in use.
        another_file: the data's file, if the checkpoint was trained on another file.
        run: where a new run is written: logs, name and version.
        trained_data, trained_arguments: the checkpoint's data module, and its settings that the user does not override.
    """

    def __init__(self, args: list[str], **kwargs: Any) -> None:
        # jsonargparse must not make an object from a value of type Any, and may not import a path that it denies by default.
        set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_allowlist=[])
        self.command, self.arguments = args[0], args
        self.checkpoint: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.uses_table_defaults = False
        self.another_file: str | None = None
        self.run: tuple[Path, str, str | None] | None = None
        self.trained_data: type[LightningDataModule] | None = None
        self.trained_arguments: dict[str, Any] = {}
        super().__init__(args=args, **kwargs)
        for note in self.notes:  # only now: an error must be the only line
            rank_zero_only(print)(f"torchbp: {printable(note)}", file=sys.stderr)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for attribute in ("num_features", "num_outputs", "task"):
            parser.link_arguments(f"data.{attribute}", f"model.{attribute}", apply_on="instantiate")
        # A user's data module need not have `sequences`.
        parser.link_arguments("data", "model.sequences", _sequences_of, apply_on="instantiate")
        parser.set_defaults({"model.engine": "auto"})

    def _add_instantiators(self) -> None:
        instantiate = instantiator(self, "data")

        # With a checkpoint nothing is fitted again: the network keeps the data's properties from training.
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
        """The command that runs, alone: making all four parsers takes longer than training on a small table."""
        # Without the options weights_only, which is always true, and return_predictions: predictions are written as they come.
        return {self.command: LightningCLI.subcommands()[self.command] | {"weights_only", "return_predictions"}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        kwargs["description"] = DESCRIPTIONS[subcommand]  # Lightning would cut a Trainer method's docstring in mid-sentence
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # The other commands take it too, hidden: a run's own config.yaml has it.
        help = "Stop early, when cost/val has not fallen for this many epochs."
        parser.add_argument("--patience", type=PositiveInt | None, help=help if subcommand == "fit" else argparse.SUPPRESS)
        help = "Compute metrics, and write histograms and checkpoints, in every epoch, however long that takes."
        parser.add_argument("--every_epoch", type=bool, default=False, help=help if subcommand == "fit" else argparse.SUPPRESS)
        if subcommand == "test":
            help = "Write a report: metrics, classes, curves and the importance of columns, as .html, .md or .json."
            parser.add_argument("--report", type=str | None, help=help)
        if subcommand == "predict":
            help = "The file to write: .csv, .tsv or .parquet; - is CSV on standard output."
            parser.add_argument("--output", type=str, default="-", help=help)
            help = "In CSV, put ' before a text that a spreadsheet would run as a formula: one that begins with =, +, - or @."
            parser.add_argument("--quote_formulas", type=bool, default=False, help=help)
        set_help(parser, "ckpt_path", CKPT_PATH)
        if {"-h", "--help"} & {*self.arguments}:
            parser.more_help = data_help()  # type: ignore[attr-defined]
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; take other data settings from the checkpoint. Without a checkpoint, a file is a table."""
        import_named_activations(args)
        early = early_options(args)
        refuse_file_as_class(parser, early.data)
        untrained = f"{args[0]} needs a trained network; set --ckpt_path PATH, or best or last for a run's in {LOGS}"
        if args[0] == "fit" and not (early.path or early.data or early.ckpt_path or early.config or early.help):
            parser.error("fit needs data; set --data.path FILE --data.target COLUMN, or --config FILE")
        if not (args[0] == "fit" or early.ckpt_path or early.config or early.help):
            parser.error(untrained)
        if early.ckpt_path in ("best", "last"):
            early.ckpt_path = self._newest_checkpoint(parser, args, early)
        if not early.ckpt_path:
            defaults = default_data_option(args)
            if defaults and args[0] == "fit" and not early.config:
                defaults += table_options()
                self.uses_table_defaults = True
            self.config = parser.parse_args([args[0], *defaults, *args[1:]])
            if path := self.config[self.config.subcommand].get("ckpt_path"):  # a configuration has it
                self.parse_arguments(parser, [*args, "--ckpt_path", path])
            elif args[0] != "fit":
                parser.error(untrained)
            return
        self.checkpoint = load_checkpoint(early.ckpt_path)
        args = [*args, "--ckpt_path", early.ckpt_path]  # at the end, where it replaces best or last
        kind, saved = saved_data(self.checkpoint)
        if kind and early.path and not (early.data or early.config):
            refuse_other_file(early.path, kind, early.ckpt_path)
        defaults = placeholder_options(kind, saved) if kind else default_data_option(args)
        own = None if early.config else own_config(early.ckpt_path)
        begun = run_options(own, args[0]) if own else defaults
        if own:
            self.notes.append(f"the {'settings' if args[0] == 'fit' else 'data settings'} are those of {own}")
        elif not (defaults or early.data or early.config or early.help):
            parser.error(f"{early.ckpt_path} does not name the data it was trained on; set --data.path FILE, or --data")
        self.config = parser.parse_args([args[0], *begun, *args[1:]])
        if kind and not early.help:
            self._take_from_checkpoint(parser.parse_args([args[0], *defaults, *args[1:]], defaults=False)[args[0]].data)
        arguments = self.config[self.command].data.get("init_args", Namespace())
        if any(value == PLACEHOLDER and name not in self.trained_arguments for name, value in arguments.items()):
            parser.error(f"{early.ckpt_path} does not hold the path of its data; set --data.path FILE")
        self.another_file = another_file(self.checkpoint, arguments.get("path"))
        if self.another_file and args[0] != "predict" and not WHOLE.keys() & section_options(self.arguments, "data"):
            self._use_whole_file(arguments)

    def _newest_checkpoint(self, parser: LightningArgumentParser, args: Any, early: Any) -> str:
        """The best or last checkpoint of the newest run: of the same data if they are given, else of any."""
        name = None
        if early.config or early.data:
            config = parser.parse_args(args)
            name = run_name(config[config.subcommand])
        elif args[0] == "fit" and early.path:  # continue a run of this table, not of another
            name = folder_name(early.path)
        path = newest_checkpoint(name, early.ckpt_path)
        if name is None:
            self.notes.append(f"the newest run's checkpoint is {path}")
        return path

    def _take_from_checkpoint(self, given: Namespace) -> None:
        """If the data module is the checkpoint's, take its arguments from training where the user gives no others.

        Args:
            given: the data settings of the command line and the user's configurations, without defaults.
        """
        assert self.checkpoint is not None
        kind, saved = saved_data(self.checkpoint)
        if DATA.get(self.config[self.command].data.class_path) is kind:
            names = {name for name, value in given.get("init_args", Namespace()).items() if value != PLACEHOLDER}
            names |= {name.replace("_path", "_size") for name in names & {"val_path", "test_path"}}  # a file replaces the size
            self.trained_data = kind
            self.trained_arguments = {name: value for name, value in saved.items() if name not in names}

    def _use_whole_file(self, arguments: Namespace) -> None:
        """Validate or test all rows of a file that was not trained on; for ``fit``, split them anew."""
        if self.command == "fit":
            self.notes.append(f"{self.another_file} is not the file that was trained on; its rows are split anew")
            return
        for name in WHOLE.keys() & arguments.keys():
            arguments[name] = WHOLE[name]
            self.trained_arguments.pop(name, None)
        done = {"validate": "validated", "test": "tested"}[self.command]
        self.notes.append(f"{self.another_file} is not the file that was trained on; all of its rows are {done}")

    def _refuse_settled(self) -> None:
        """Refuse data options that were fixed in training and differ on the command line."""
        saved = (self.checkpoint or {}).get("datamodule_hyper_parameters") or {}
        for name in section_options(self.arguments, "data") & saved.keys():
            arguments = self.config[self.command].data.init_args
            settled = name in SETTLED or (name in HELD_OUT and not self.another_file)
            if settled:
                refuse_other(name, arguments.get(name), saved[name])

    def _threshold(self, given: float | str | None, saved: float | str | None) -> float | str | None:
        """The given threshold, else the checkpoint's; a rule that chooses one is allowed in ``fit`` only."""
        if self.command == "fit" or not isinstance(given, str):
            return saved if given is None else given
        if "threshold" in section_options(self.arguments, "model"):
            raise ValueError(f"threshold is {given}; a rule is for fit only, for {self.command} it must be a number")
        return saved

    def _note_settings_not_used(self, checkpoint: dict[str, Any]) -> None:
        """Where a configuration differs from the checkpoint, take the checkpoint's settings, and say so."""
        config, other = self.config[self.command], []
        if self.trained_data:
            _, saved = saved_data(checkpoint)
            settled = SETTLED | (set() if self.another_file else HELD_OUT)
            in_config = config_options(self.arguments, "data") - section_options(self.arguments, "data")
            for name in sorted(in_config & settled & saved.keys()):
                self.trained_arguments[name] = saved[name]
                value, config.data.init_args[name] = config.data.init_args.get(name), saved[name]
                if value not in (None, saved[name]):
                    other.append(f"{name} {value} (the checkpoint's is {saved[name]})")
        trained = model_arguments(checkpoint)
        in_config = config_options(self.arguments, "model") - section_options(self.arguments, "model")
        for name in sorted(in_config & trained.keys() - FREE):
            # Settings of training matter only to fit.
            value = config.model.get(name)
            if value not in (None, trained[name]) and (self.command == "fit" or name in NETWORK):
                other.append(f"{name} {value} (the checkpoint's is {trained[name]})")
        if other:
            self.notes.append(f"of the configuration, these are not used: {printable(', '.join(other))}")

    def _parse_ckpt_path(self) -> None:
        # Lightning would parse the checkpoint's hyperparameters. Here the checkpoint's settings override a configuration's, and
        # command-line options that differ are errors.
        if self.checkpoint is None or "subcommand" not in self.config:
            return
        self._refuse_settled()
        self._note_settings_not_used(self.checkpoint)
        saved = model_arguments(self.checkpoint)
        for name in section_options(self.arguments, "model") & saved.keys() - FREE:
            refuse_other(name, self.config[self.command].model.get(name), saved[name])


def _sequences_of(data: Any) -> str | None:
    """A data module's ``sequences``: ``last``, ``each``, or None for rows."""
    return getattr(data, "sequences", None)
