"""The ``torch.autograd.Function`` subclasses; :mod:`torchbp.functional` holds the forms to call."""

from torchbp.functions._base import BPFunction, call_of
from torchbp.functions._costs import CrossEntropy, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from torchbp.functions._linear import Linear, SigmoidLinear

__all__ = [
    "BPFunction",
    "CrossEntropy",
    "Linear",
    "SigmoidCrossEntropy",
    "SigmoidLinear",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "call_of",
]
