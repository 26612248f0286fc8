"""Training with Lightning: the module, what it writes for TensorBoard, and what it prints."""

from torchbp.training._callbacks import Graph, Histograms, Hyperparameters, PlainProgress
from torchbp.training._curves import ActivationCurves
from torchbp.training._module import BPModule

__all__ = ["ActivationCurves", "BPModule", "Graph", "Histograms", "Hyperparameters", "PlainProgress"]
