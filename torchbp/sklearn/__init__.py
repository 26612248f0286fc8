"""Estimators for scikit-learn. Lightning is not imported."""

from torchbp.sklearn._cross_validation import cross_validate
from torchbp.sklearn._estimators import BPClassifier, BPRegressor

__all__ = ["BPClassifier", "BPRegressor", "cross_validate"]
