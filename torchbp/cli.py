"""The ``torchbp`` command: reads arguments, runs a command, reports errors in one line."""

import gc
import os
import re
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from itertools import takewhile
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from torchbp._deferred import deferred
from torchbp._interrupts import Terminated
from torchbp._text import printable, without_passwords

if TYPE_CHECKING:
    from rich.console import Console

STARTED = monotonic()  # the command's start, without the interpreter's

HELP = """usage: torchbp COMMAND [options]

backpropagation written out by hand, in PyTorch

training (options by --name value, or from a file by --config FILE.yaml):
  fit        train a network:   torchbp fit --config configs/breast_cancer.yaml --model.lr 0.2
  validate   cost and metrics of the validation split
  test       cost and metrics of the test split:   torchbp test --ckpt_path best --report report.html
  predict    predictions as CSV or Parquet:   torchbp predict --ckpt_path best --data.path new.csv --output predictions.csv
  search     try networks side by side, and keep the best:   torchbp search --data.path X.csv --data.target T --trials 64
  cross-validate  a network for each fold, all side by side:   torchbp cross-validate --data.path X.csv --data.target T
  export     a program that runs without torchbp:   torchbp export --ckpt_path best --output model.onnx, or model.pt2

proof:
  gradcheck  audit every derivative, or that of a Function of your own:   torchbp gradcheck --help
  trace      one iteration, equation by equation, beside autograd:   torchbp trace --x 0,1 --y 1

speed:
  benchmark  side by side with PyTorch, Lightning and scikit-learn:   torchbp benchmark --plot steps.png

torchbp COMMAND --help lists a command's options; TORCHBP_TRACEBACK=1 shows the traceback of an error."""

WHITESPACE = "\n\r\t"
TRAINING = ("fit", "validate", "test", "predict")
# The module of each command, and the first words of its options, such as model in --model.lr.
MODULES = {
    **dict.fromkeys(TRAINING, "torchbp.training.command"),
    "cross-validate": "torchbp.training.cross_validation",
    "search": "torchbp.training.search",
    "export": "torchbp.export",
    "gradcheck": "torchbp.verify.command",
    "trace": "torchbp.trace.command",
    "benchmark": "torchbp.benchmark.command",
}
OPTIONS = {
    **dict.fromkeys(
        TRAINING,
        "config print_config seed_everything trainer model data patience every_epoch ckpt_path output quote_formulas"
        " report verbose help",
    ),
    "cross-validate": "config print_config seed_everything model data trainer patience folds repeats groups order output help",
    "search": "config print_config seed_everything model data trainer patience trials side_by_side space storage study sampler"
    " pruner output help",
    "export": "ckpt_path output model help",
    "gradcheck": "device function inputs reference surrogate tolerance only module jobs fail-on baseline verbose json junit"
    " markdown explain scan help",
    "trace": "config print_config seed_everything trainer data model samples sequences"
    " x y hidden_sizes activation weights cost output init lr seed markdown html lang json help",
    "benchmark": "threads only rounds quick json plot help",
}

# jsonargparse's messages about a wrong class, and the allowed classes.
NO_CLASS = (
    "Expected a dot import path|Import path does not"
    "|Problem with given class_path .*(No module|no attrib|not allowed)|Type typing"
)
CLASSES = {
    "data": "ArrayDataModule, BuiltinDataModule, SequenceDataModule, TabularDataModule or another LightningDataModule as "
    "package.module.Class",
    "model.lr_scheduler": "a scheduler of torch.optim.lr_scheduler, or another as package.module.Class",
}
OWN_WORDS = {
    "^the following arguments are required: target$": "target is null, or is not there; set --data.target COLUMN",
    "^Unexpected config:.*": "it must hold options by name, such as model: {lr: 0.5}",
    '^Problems parsing config: (.*?)( in "<unicode string>")?(, line|$)': r"it is no YAML: \1\3",
    '^Parser key "(.*?)": ': r"\1: ",
    "^(.*?): Not of type PositiveInt: (.*) does not conform to.*": r"\1 is \2; it must be a whole number above 0",
    "^(.*?): Not of type NonNegativeInt: (.*) does not conform to.*": r"\1 is \2; it must be a whole number of 0 or more",
}
TYPES = {
    **dict.fromkeys(("Sequence", "list"), "a list, such as [A, B]"),
    "dict": "names and values, such as {A: B}",
    "PositiveInt": "a whole number above 0",
}


class OneLine:
    """Makes a parser of argparse or jsonargparse report an error in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.exit(print_error(message, 2))


class OneLineParser(OneLine, ArgumentParser):
    """argparse's parser, with errors in one line."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command, by default that of this process's arguments.

    Returns:
        The exit status: 0, 1 for a failed run, 2 for wrong arguments, 130 after SIGINT, 143 after SIGTERM.
    """
    alone = args is None
    args = list(sys.argv[1:] if args is None else args)
    if sys.stdout is None:
        return print_error("standard output is closed", 1)
    try:
        return _run(args, alone)
    except Terminated:
        return print_error("terminated", 143)
    except KeyboardInterrupt:
        return print_error("interrupted", 130)
    except BrokenPipeError:  # the reader of the output has ended
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)
        return print_error("standard output was closed, which has ended the run", 1) if args[:1] == ["fit"] else 0
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # this is how Lightning ends an interrupted run
            return print_error("interrupted", 130)
        if type(stop).__name__ == "SIGTERMException":  # Lightning's
            return print_error("terminated", 143)
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if os.environ.get("TORCHBP_TRACEBACK"):
            raise
        return print_error(one_line(error), 1)


def _run(args: list[str], alone: bool) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, flush=True)
        return 0 if args else 2
    command = args[0]
    if command == "--version":
        from torchbp import __version__

        print(f"torchbp {__version__}", flush=True)
        return 0
    if command not in MODULES:
        return print_error(f"{command!r} is no command; the commands are {', '.join(MODULES)}", 2)
    if unknown := _unknown_option(args):
        return print_error(f"unrecognized arguments: {unknown}; torchbp {command} --help lists the options", 2)
    with _importing(alone), deferred() if command in TRAINING else nullcontext():
        run = import_module(MODULES[command]).run
    return run(args if command in TRAINING else args[1:])


def _unknown_option(args: list[str]) -> str | None:
    """An unknown option with its value: found without the command's parser, which takes a second to import."""
    for position, arg in enumerate(args):
        if arg in ("--help", "-h", "--"):
            break
        name = re.match(r"--([\w-]+)", arg)
        if name and not any(option.startswith(name[1]) for option in OPTIONS[args[0]].split()):
            return " ".join([arg, *takewhile(lambda value: not value.startswith("-"), args[position + 1 :])])
    return None


@contextmanager
def _importing(alone: bool) -> Iterator[None]:
    """While modules are imported, an interrupt ends the process at once: some modules would hide it or raise another error.

    Args:
        alone: whether this process did nothing else before. Then garbage collection skips the imported objects.
    """
    usual = signal.default_int_handler
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is usual
    if mine:
        signal.signal(signal.SIGINT, lambda *_: os._exit(print_error("interrupted", 130)))
    if alone:
        gc.disable()
    try:
        yield
    finally:
        if alone:
            gc.freeze()
            gc.enable()
        if mine:
            signal.signal(signal.SIGINT, usual)


def print_error(message: str, status: int) -> int:
    """Print an error in one line on standard error; returns ``status``."""
    print(f"torchbp: error: {without_passwords(in_short(printable(message, keep=WHITESPACE)))}", file=sys.stderr)
    return status


def in_short(message: str) -> str:
    """A message in one line. jsonargparse's messages, which repeat an error for each possible type, are reworded."""
    message = " ".join(message.split())
    several = re.fullmatch(r'(?:Parser key "(.*?)":)?.*? Errors: - (.*) Given value type: .*? Given value: ?(.*)', message)
    found = several or re.fullmatch(r'Parser key "(.*?)": (.*)\. Got value: ?(.*)', message)
    if found is None:
        for said, own in OWN_WORDS.items():
            message = re.sub(said, own, message)
        return message
    name, errors, value = found.groups()
    value = value or "empty"
    of_types = ("Expected a", "Not of type")
    reasons = [error for error in re.split(rf" - (?={'|'.join(of_types)})", errors) if "NoneType" not in error]
    if name in CLASSES and re.match(NO_CLASS, reasons[0]):
        return f"{name} is {value}; it must be {CLASSES[name]}"
    if name is None or not reasons[0].startswith(of_types):
        return reasons[0]
    return f"{name} is {value}; it must be {' or '.join(dict.fromkeys(map(_type, reasons)))}"


def _type(error: str) -> str:
    """The type that an argument must have: a list of its values, or its name."""
    found = re.match(r"Expected a typing\.Literal\[(.*?)\]|.*?<class '(?:[\w.]+\.)?(\w+)'>|Not of type (\w+)", error)
    if found is None:
        return "a class's name"
    values, *names = found.groups()
    name = next(filter(None, names), "")
    return f"one of {values}" if values and "," in values else values or TYPES.get(name, name)


def console() -> "Console":
    """A console on standard output: as wide as the terminal, or 100 columns if it is not one."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 100)


def one_line(error: Exception) -> str:
    """The error's message, with its type unless it was raised on purpose."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file cannot be written'}: {error.strerror}"
    # The message of an error raised on purpose is complete; other errors need their type.
    kinds = ValueError | OSError | FloatingPointError | MemoryError | ModuleNotFoundError
    meant = isinstance(error, kinds) or type(error).__name__ == "MisconfigurationException"
    return text if text and meant else f"{type(error).__name__}: {text}"
