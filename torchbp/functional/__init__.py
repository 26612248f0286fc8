"""Functions like those of ``torch.nn.functional``: the same names, shapes, and order and meaning of arguments."""

from torchbp.functional._costs import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torchbp.functional._layers import activate, activated_linear, linear, sigmoid_linear
from torchbp.functional._network import cost_of as cost_of
from torchbp.functional._network import network_cost
from torchbp.functional._recurrent import elman
from torchbp.functional._sequences import cost_in_time as cost_in_time
from torchbp.functional._sequences import states_of as states_of

__all__ = [
    "activate",
    "activated_linear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "elman",
    "linear",
    "mse_loss",
    "network_cost",
    "sigmoid_linear",
]
