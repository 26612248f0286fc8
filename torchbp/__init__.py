"""Backpropagation written out by hand, in PyTorch.

``torchbp.equations`` has the formulas, ``torchbp.functions`` the autograd Functions, ``torchbp.functional`` and ``torchbp.nn``
the functions and modules to use. ``torchbp.training`` and ``torchbp.data`` need Lightning; import them by name.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not typing's: imports here run before the command can report an interrupt
if TYPE_CHECKING:
    from typing import Any

    from torchbp import equations, functional, functions, nn
    from torchbp.nn import convert, revert

__version__ = "0.2.0"

FUNCTIONS = ("convert", "revert")  # of torchbp.nn
__all__ = ["convert", "equations", "functional", "functions", "nn", "revert"]


def __getattr__(name: str) -> Any:
    """Import a name on first use: PyTorch takes a second, and the command's help and version do not need it."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("torchbp.nn"), name) if name in FUNCTIONS else import_module(f"torchbp.{name}")
    raise AttributeError(f"module 'torchbp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
