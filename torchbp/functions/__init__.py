"""The ``torch.autograd.Function`` subclasses; :mod:`torchbp.functional` has the functions to call."""

from torchbp.functions._activation import activation_function
from torchbp.functions._base import BPFunction, as_rows, call_of
from torchbp.functions._costs import check_broadcast, cost_function, positives_weighted, reduce
from torchbp.functions._linear import Linear
from torchbp.functions._network import NetworkCost, network_forward
from torchbp.functions._recurrent import from_input, recurrent_function

__all__ = [
    "BPFunction",
    "Linear",
    "NetworkCost",
    "activation_function",
    "as_rows",
    "call_of",
    "check_broadcast",
    "cost_function",
    "from_input",
    "network_forward",
    "positives_weighted",
    "recurrent_function",
    "reduce",
]
