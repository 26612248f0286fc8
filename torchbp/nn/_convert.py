"""Replaces Linear layers and activations of any model by this package's, in place, and puts them back."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchbp.activations import ACTIVATIONS, Activation
from torchbp.nn._activate import Activate
from torchbp.nn._linear import Linear

REPLACED = "_replaced"  # a module's attribute with its original class


@dataclass(frozen=True)
class Conversion:
    """The report of :func:`convert` or :func:`revert`.

    Attributes:
        replaced: for each replaced module, by name, its old and new class.
        left: for each layer or activation that was not replaced, by name, the reason.
    """

    replaced: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name or 'the model'}: {what}" for name, what in self.replaced.items()]
        lines += [f"{name or 'the model'}: left, {why}" for name, why in self.left.items()]
        return "\n".join([*lines, f"replaced {len(self.replaced)}, left {len(self.left)}"])


def convert(model: nn.Module) -> Conversion:
    """Replace each Linear layer, and each activation that :mod:`torchbp.activations` has, by this package's, in place.

    The modules stay the same objects and only change their class: parameters, buffers, hooks, the keys of the state_dict and
    references to them stay. Outputs and gradients are equal up to rounding; softplus is exact above 20, where PyTorch's is z. A
    function that the model calls (``torch.relu(z)``) is not a module, and stays PyTorch's.

    Args:
        model: any module; the model itself may be a layer.

    Returns:
        The replaced modules, and those left with the reason.

    >>> print(convert(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1), nn.Hardswish())))
    0: Linear -> torchbp.nn.Linear
    1: Tanh -> torchbp.nn.Activate, tanh
    2: Linear -> torchbp.nn.Linear
    3: left, Hardswish() is no activation of torchbp.activations
    replaced 3, left 1
    """
    replaced, left = {}, {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind is nn.Linear and module.weight.is_floating_point():
            _change(module, Linear)
            replaced[name] = "Linear -> torchbp.nn.Linear"
        elif isinstance(module, nn.Linear) and not isinstance(module, Linear):
            why = "complex" if kind is nn.Linear else "a class of its own"
            left[name] = f"{kind.__name__} is {why}"
        elif kind.__module__ == nn.ReLU.__module__ and kind is not nn.MultiheadAttention:
            g = _entry(module)
            if [*module.parameters()]:
                left[name] = f"{module} has parameters of its own"
            elif g is None:
                left[name] = f"{module} is no activation of torchbp.activations"
            elif getattr(module, "inplace", False):
                left[name] = f"{module} writes over its input; set its inplace to False if nothing relies on that"
            else:
                _change(module, Activate)
                module.activation = g
                replaced[name] = f"{kind.__name__} -> torchbp.nn.Activate, {g.name}"
    return Conversion(replaced, left)


def revert(model: nn.Module) -> Conversion:
    """Undo :func:`convert`; modules that were this package's before it stay.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())
    >>> _ = convert(model), revert(model)
    >>> model
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): Sigmoid()
    )
    """
    replaced = {}
    for name, module in model.named_modules():
        before = vars(module).pop(REPLACED, None)
        if before is not None:
            replaced[name] = f"torchbp.nn.{type(module).__name__} -> {before.__name__}"
            vars(module).pop("activation", None)
            module.__class__ = before
    return Conversion(replaced, {})


def _change(module: nn.Module, kind: type[nn.Module]) -> None:
    vars(module)[REPLACED] = type(module)
    module.__class__ = kind


@torch.no_grad()
def _entry(module: nn.Module) -> Activation | None:
    """The activation with the same values as the module, over a range wide enough to show every constant."""
    z = torch.linspace(-30, 30, 241, dtype=torch.float64)
    values = _values(module, z)
    for g in ACTIVATIONS.values():
        if not g.parameters and values is not None and torch.allclose(values, g.reference(z), rtol=1e-7, atol=1e-8):
            return g
    return None


def _values(module: nn.Module, z: Tensor) -> Tensor | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a softmax without a dimension
            values = type(module).forward(module, z.clone())  # without the user's hooks
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes several inputs, or another shape
        return None
    return values if isinstance(values, Tensor) and values.shape == z.shape else None
