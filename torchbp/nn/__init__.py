"""Modules that replace those of the same name in ``torch.nn``, and the text's network."""

from torchbp.nn._activate import Activate
from torchbp.nn._convert import Conversion, convert, revert
from torchbp.nn._linear import ActivatedLinear, Linear, SigmoidLinear
from torchbp.nn._loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from torchbp.nn._network import BPNetwork
from torchbp.nn._recurrent import RNN
from torchbp.nn._recurrent_network import RecurrentNetwork
from torchbp.nn._standardize import Standardize

__all__ = [
    "RNN",
    "Activate",
    "ActivatedLinear",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BPNetwork",
    "Conversion",
    "CrossEntropyLoss",
    "Linear",
    "MSELoss",
    "RecurrentNetwork",
    "SigmoidLinear",
    "Standardize",
    "convert",
    "revert",
]
