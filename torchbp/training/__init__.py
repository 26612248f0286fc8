"""Training with Lightning: the module, what it writes for TensorBoard, and what it prints."""

from torchbp.training._board import BoardLogger, Graph, Histograms, Hyperparameters
from torchbp.training._budget import Budget
from torchbp.training._curves import ActivationCurves
from torchbp.training._module import BPModule
from torchbp.training._pictures import Pictures
from torchbp.training._progress import PlainProgress
from torchbp.training._signals import Signals

__all__ = [
    "ActivationCurves",
    "BPModule",
    "BoardLogger",
    "Budget",
    "Graph",
    "Histograms",
    "Hyperparameters",
    "Pictures",
    "PlainProgress",
    "Signals",
]
