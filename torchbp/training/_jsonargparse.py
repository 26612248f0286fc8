"""The private parts of jsonargparse that this package uses, each with its reason; a test calls each."""

import argparse
from collections.abc import Callable

from jsonargparse import ArgumentParser


def set_help(parser: ArgumentParser, option: str, text: str) -> None:
    """Change the help of an option that Lightning has added."""
    next(action for action in parser._actions if action.dest == option).help = text


def hide(parser: ArgumentParser, hidden: Callable[[str], bool]) -> None:
    """Hide from the help all options for which ``hidden`` is true: jsonargparse adds all options of a class at once."""
    for action in parser._actions:
        if hidden(action.dest):
            action.help = argparse.SUPPRESS
