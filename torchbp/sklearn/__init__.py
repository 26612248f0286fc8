"""Estimators for scikit-learn. Lightning is not imported."""

from torchbp.sklearn._cross_validation import cross_validate
from torchbp.sklearn._estimators import BPClassifier, BPRegressor
from torchbp.sklearn._search import BPSearchCV

__all__ = ["BPClassifier", "BPRegressor", "BPSearchCV", "cross_validate"]
