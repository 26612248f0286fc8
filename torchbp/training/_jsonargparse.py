"""What this package uses of jsonargparse without a public name, with its reason; a test calls it."""

from jsonargparse import ArgumentParser


def set_help(parser: ArgumentParser, option: str, text: str) -> None:
    """Change the help of an option that is there already: Lightning has added it."""
    next(action for action in parser._actions if action.dest == option).help = text
