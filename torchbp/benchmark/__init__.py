"""Side by side with PyTorch, Lightning and scikit-learn: times, memory, and how they compare, measured where this runs."""

from torchbp.benchmark._rows import Row

__all__ = ["Row"]
