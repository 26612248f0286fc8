"""Imports what a command line names as ``package.module:name``, also from the working directory."""

import importlib
import os
import sys
from difflib import get_close_matches
from types import ModuleType
from typing import Any


def imported_module(path: str) -> ModuleType:
    """Import the module of this name, also from the working directory.

    Raises:
        ValueError: it cannot be imported.
    """
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(path)
    except Exception as error:  # anything that the module raises
        kind = "" if isinstance(error, ImportError | ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path!r} cannot be imported: {kind}{error}") from error
    finally:
        sys.path.pop(0)


def imported(path: str) -> Any:
    """Import the object that ``package.module:name`` names.

    Raises:
        ValueError: it cannot be imported, or there is no such name.
    """
    module, _, name = path.partition(":")
    found: Any = imported_module(module)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        near = get_close_matches(part, dir(found))
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"{path!r} cannot be imported: {error}{meant}") from None
    return found
