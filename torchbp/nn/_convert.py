"""Linear layers and activations of any model, replaced by this package's in place, and put back."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchbp.activations import ACTIVATIONS, Activation
from torchbp.nn._activate import Activate
from torchbp.nn._linear import Linear

REPLACED = "_replaced"  # the attribute in which a module keeps the class that it had


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` or :func:`revert` did.

    Attributes:
        replaced: for each module that was replaced, by name, what it was and what it is now.
        left: for each layer or activation that was not, by name, why.
    """

    replaced: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name or 'the model'}: {what}" for name, what in self.replaced.items()]
        lines += [f"{name or 'the model'}: left, {why}" for name, why in self.left.items()]
        return "\n".join([*lines, f"replaced {len(self.replaced)}, left {len(self.left)}"])


def convert(model: nn.Module) -> Conversion:
    """Replace each Linear layer and each activation of the table by this package's, in place.

    The modules stay the same objects with another class: parameters, hooks, buffers, the keys of the state_dict and whatever
    else refers to them stay as they are. Outputs and gradients are equal to rounding; softplus is exact beyond 20, where
    PyTorch's is z. What the model calls as a function (``torch.relu(z)``) is no module, and stays PyTorch's.

    Args:
        model: any module; the model itself may be a layer.

    Returns:
        What was replaced, and what was left and why.

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
                left[name] = f"{module} writes over its input; set its inplace to False where nothing relies on that"
            else:
                _change(module, Activate)
                module.activation = g
                replaced[name] = f"{kind.__name__} -> torchbp.nn.Activate, {g.name}"
    return Conversion(replaced, left)


def revert(model: nn.Module) -> Conversion:
    """Put back what :func:`convert` replaced; modules that were this package's before stay so.

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
    """The activation that gives the module's values, over a range that shows every constant."""
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
            values = type(module).forward(module, z.clone())  # without the hooks of the user
    except (RuntimeError, TypeError, ValueError, IndexError):  # one of several inputs, or of another shape
        return None
    return values if isinstance(values, Tensor) and values.shape == z.shape else None
