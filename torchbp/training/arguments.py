"""Reads the checkpoint and data options before the full parse; has the parser, with errors in one line."""

import argparse
import contextlib
import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from torchbp.activations import import_activation
from torchbp.cli import CLASSES, OneLine, OneLineParser, in_short
from torchbp.data import ArrayDataModule, BuiltinDataModule, RowsDataModule, SequenceDataModule, TabularDataModule
from torchbp.data.suffixes import ARRAYS, SEQUENCES, TABLES
from torchbp.training.checkpoint import required_arguments

PLACEHOLDER = "\0"  # a value that no command line can contain

DATA_SUFFIXES = {*ARRAYS, *TABLES, *SEQUENCES, ".txt", ".xlsx"}
# For a kind of data, the extensions of its files, and what a network trained on it needs.
FILES: dict[type[RowsDataModule], tuple[tuple[str, ...], str]] = {
    ArrayDataModule: (ARRAYS, "arrays; set --data.path to an .npz file, or to the .npy file of x"),
    BuiltinDataModule: ((), "a data set of torchbp's own; leave --data.path out"),
    TabularDataModule: (TABLES, "a table; set --data.path to a .csv, .tsv or .parquet file"),
}
# The options that only sequences have.
SEQUENCE_OPTIONS = {*inspect.signature(SequenceDataModule).parameters} - {
    *inspect.signature(TabularDataModule).parameters,
    *inspect.signature(ArrayDataModule).parameters,
}


class ConfigurationParser(OneLine, LightningArgumentParser):
    """Lightning's parser, but an error is one line that names the configuration file."""

    more_help = ""
    _reading: Any = None

    def format_help(self, *args: Any) -> str:
        return super().format_help(*args) + self.more_help

    def parse_args(self, args: Sequence[str], **kwargs: Any) -> Namespace:  # type: ignore[override]
        """As jsonargparse's, but ``--data.null_values+`` adds to the default too, and takes its value as it is written."""
        others, added = null_values_added(args)
        if not added:
            return super().parse_args(args, **kwargs)
        config = super().parse_args([arg for arg in others if not arg.startswith("--print_config")], **kwargs)
        data = (config[config.subcommand] if "subcommand" in config else config).get("data") or Namespace()
        known = data.get("init_args", Namespace()).get("null_values") or []
        return super().parse_args([*others, "--data.null_values", json.dumps([*dict.fromkeys([*known, *added])])], **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self._reading is not None:
            message = f"the configuration {self._reading}: {in_short(message)}"
        super().error(message, ex)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        self._reading = path
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            self.error(f"it is not text: {error}")
        finally:
            self._reading = None


def early_options(args: Sequence[str]) -> argparse.Namespace:
    """The options that name the configuration, the checkpoint and the data."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", nargs="?")
    parser.add_argument("--ckpt_path", nargs="?")
    parser.add_argument("--data", nargs="?")
    parser.add_argument("--help", "-h", "--data.help", "--print_config", dest="help", nargs="?", const=True)
    parser.add_argument("--data.path", "--data.init_args.path", dest="path", nargs="?")
    return parser.parse_known_args(args)[0]


def null_values_added(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without the options ``--data.null_values+``, and the values of these: each a text, or a list of texts."""
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data.null_values+", "--data.init_args.null_values+", dest="added", action="append", default=[])
    said, others = parser.parse_known_args(args)
    added: list[str] = []
    for text in said.added:
        listed = None
        with contextlib.suppress(yaml.YAMLError):
            listed = yaml.load(text, yaml.BaseLoader)  # it reads every value as text
        added += listed if isinstance(listed, list) else [text]
    return others, added


def import_named_activations(args: Sequence[str]) -> None:
    """Import the activations that ``--model.activation`` and ``--config`` name by import path.

    This happens before a checkpoint is read: a name in a checkpoint is never imported.

    Raises:
        ValueError: an activation cannot be imported.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    parser.add_argument("--model.activation", dest="named", action="append", default=[])
    options = parser.parse_known_args(args)[0]
    named: list[Any] = []
    for text in options.named:
        with contextlib.suppress(yaml.YAMLError):
            named.append(yaml.safe_load(text))
    for path in options.config:
        with contextlib.suppress(OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):  # the parser reports them
            named.append(yaml.safe_load(Path(path).read_text(encoding="utf-8"))["model"]["activation"])
    for name in itertools.chain.from_iterable(names if isinstance(names, list) else [names] for names in named):
        if isinstance(name, str) and ":" in name:
            import_activation(name)


def config_options(args: Sequence[str], section: str) -> set[str]:
    """The names of the options of a section, ``data`` or ``model``, that the ``--config`` files set."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    names: set[str] = set()
    for path in parser.parse_known_args(args)[0].config:
        with contextlib.suppress(OSError, yaml.YAMLError, UnicodeDecodeError):  # the parser reports them
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            of_section = content.get(section) if isinstance(content, dict) else None
            if isinstance(of_section, dict):
                names |= {*of_section.get("init_args", of_section)}
    return names


def refuse_file_as_class(parser: ArgumentParser, data: str | None) -> None:
    """Refuse a data file as the value of ``--data``: jsonargparse would read it as a configuration."""
    if data is not None and Path(data).suffix.lower() in DATA_SUFFIXES:
        parser.error(f"data is {data}; it must be {CLASSES['data']}; for a file of rows set --data.path {data}")


def refuse_other_file(path: str, kind: type[RowsDataModule], checkpoint: str) -> None:
    """Refuse a file of another kind than the data that the checkpoint was trained on.

    Raises:
        ValueError: it is such a file.
    """
    suffixes, needed = FILES.get(kind, (None, ""))
    if suffixes is not None and Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"{path} does not fit {checkpoint}, which was trained on {needed}")


def default_data_option(args: Sequence[str]) -> list[str]:
    """The ``--data`` option for a file given without one: sequences if there is an option that only they have, else a table.

    Raises:
        ValueError: a file of arrays, which may hold rows, pictures or sequences.
    """
    options = early_options(args)
    if not options.path or options.data:
        return []
    suffix = Path(options.path).suffix.lower()
    sequences = suffix == ".ts" or section_options(args, "data") & SEQUENCE_OPTIONS
    if suffix in ARRAYS and not sequences:
        raise ValueError(
            f"{options.path} holds arrays; set --data ArrayDataModule for rows or pictures, "
            "--data SequenceDataModule for sequences"
        )
    return ["--data", f"torchbp.data.{(SequenceDataModule if sequences else TabularDataModule).__name__}"]


def placeholder_options(kind: type[RowsDataModule], saved: Mapping[str, Any]) -> list[str]:
    """Options that make a parser accept a checkpoint's data module, without passing values of the checkpoint to it."""
    options = ["--data", f"torchbp.data.{kind.__name__}"]
    for name in required_arguments(kind):
        choices = get_args(get_type_hints(kind.__init__)[name])
        known = [one for one in choices if isinstance(one, str) and one == saved.get(name)]  # a choice of a Literal is safe
        options += [f"--data.{name}", known[0] if known else PLACEHOLDER]
    return options


def section_options(args: Sequence[str], section: str) -> set[str]:
    """The names of the options of a section, ``data`` or ``model``, that are among the arguments."""
    option = re.compile(rf"--{section}\.(?:init_args\.)?(\w+)")
    return {found[1] for argument in args if (found := option.match(argument))}


def data_help(with_sequences: bool = True) -> str:
    """The help of a file's options, which a parser has only after it knows the kind of file."""
    of_table, sections = {*inspect.signature(TabularDataModule).parameters}, []
    for kind, known in ((TabularDataModule, set()), (SequenceDataModule, of_table)):
        parser = ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
        parser.add_class_arguments(kind, "data", skip=known)
        _, option, options = parser.format_help().partition("  --data.")
        sections.append(option + options)
    table, sequences = sections
    if not with_sequences:
        return f"\nFor a table, unless --data is another class:\n{table}"
    others = ", ".join(sorted(of_table & {*inspect.signature(SequenceDataModule).parameters}))
    return (
        f"\nFor a table, unless --data is another class:\n{table}\nFor sequences and forecasts of a series (with a .ts file, "
        f"one of these options, or --data SequenceDataModule):\n{sequences}(also these options of a table: {others})\n"
    )
