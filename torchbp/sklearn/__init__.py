"""Estimators for scikit-learn. Lightning is not imported."""

from torchbp.sklearn._estimators import BPClassifier, BPRegressor

__all__ = ["BPClassifier", "BPRegressor"]
