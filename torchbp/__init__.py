"""Backpropagation written out by hand, in PyTorch.

``torchbp.equations`` holds the formulas, ``torchbp.functions`` the autograd Functions, ``torchbp.functional`` and
``torchbp.nn`` the forms to call. ``torchbp.training`` and ``torchbp.data`` need Lightning and are imported where they are used.
"""

from torchbp import equations, functional, functions, nn

__version__ = "0.1.0"

__all__ = ["equations", "functional", "functions", "nn"]
