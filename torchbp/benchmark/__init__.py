"""Compares torchbp with PyTorch, Lightning and scikit-learn on this machine: times, memory, and their ratios."""

from torchbp.benchmark._rows import Row

__all__ = ["Row"]
