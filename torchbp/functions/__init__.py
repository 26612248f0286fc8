"""The ``torch.autograd.Function`` subclasses; :mod:`torchbp.functional` holds the forms to call."""

from torchbp.functions._base import BPFunction, as_rows, call_of
from torchbp.functions._costs import (
    CrossEntropy,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    positives_weighted,
    reduce,
)
from torchbp.functions._linear import Linear, SigmoidLinear
from torchbp.functions._network import ENDS, NetworkCost, network_forward

__all__ = [
    "ENDS",
    "BPFunction",
    "CrossEntropy",
    "Linear",
    "NetworkCost",
    "SigmoidCrossEntropy",
    "SigmoidLinear",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "as_rows",
    "call_of",
    "network_forward",
    "positives_weighted",
    "reduce",
]
