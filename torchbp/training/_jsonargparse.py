"""What this package uses of jsonargparse without a public name, each with its reason; a test calls each."""

import argparse
from collections.abc import Callable

from jsonargparse import ArgumentParser


def set_help(parser: ArgumentParser, option: str, text: str) -> None:
    """Change the help of an option that is there already: Lightning has added it."""
    next(action for action in parser._actions if action.dest == option).help = text


def hide(parser: ArgumentParser, hidden: Callable[[str], bool]) -> None:
    """Leave out of the help the options of which ``hidden`` is true: a class's are all added at once."""
    for action in parser._actions:
        if hidden(action.dest):
            action.help = argparse.SUPPRESS
