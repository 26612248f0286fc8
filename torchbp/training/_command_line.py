"""Joins the settings of command line, configurations and checkpoint into those of a run."""

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
    STAND_IN,
    asked,
    configured,
    given,
    import_named_activations,
    kind_by_default,
    refuse_file_as_class,
    stand_ins,
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
    restore,
    saved_data,
)

FREE = {"threshold"}  # what may be another than in training
NETWORK = (
    "hidden_sizes",
    "cost",
    "output",
    "activation",
    "activation_per_unit",
    "pooling",
    "bidirectional",
)  # what makes it, and what it is measured by
CKPT_PATH = "A run's checkpoint: a path, or best or last for those of the newest run that is meant."


class CommandLine(LightningCLI):
    """Settles what is run, on what data; sizes and task of the network are read off the data.

    Attributes:
        command, arguments: the subcommand, and the whole command line.
        checkpoint: that which the command line names.
        notes: what is said on standard error once all has gone well.
        says_defaults: whether the defaults of tables are in use.
        another_file: the file of the data, where that is not what the checkpoint was trained on.
        run: where a new run is written: logs, name and version.
        trained_data, trained_arguments: the checkpoint's kind of data, and its settings where nothing else is asked for.
    """

    def __init__(self, args: list[str], **kwargs: Any) -> None:
        # Whatever is named where any value is allowed stays as it is said, and nothing is opened by its import path.
        set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_allowlist=[])
        self.command, self.arguments = args[0], args
        self.checkpoint: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.says_defaults = False
        self.another_file: str | None = None
        self.run: tuple[Path, str, str | None] | None = None
        self.trained_data: type[LightningDataModule] | None = None
        self.trained_arguments: dict[str, Any] = {}
        super().__init__(args=args, **kwargs)
        for note in self.notes:  # now that all has gone well: what is wrong is said in one line
            rank_zero_only(print)(f"torchbp: {printable(note)}", file=sys.stderr)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for attribute in ("num_features", "num_outputs", "task"):
            parser.link_arguments(f"data.{attribute}", f"model.{attribute}", apply_on="instantiate")
        # A data module of somebody else's need not know of sequences.
        parser.link_arguments("data", "model.sequences", _sequences_of, apply_on="instantiate")
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
            defaults = kind_by_default(args)
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
        defaults = stand_ins(kind, saved) if kind else kind_by_default(args)
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


def _sequences_of(data: Any) -> str | None:
    """Where the sequences of a data module have their target; None of rows."""
    return getattr(data, "sequences", None)
