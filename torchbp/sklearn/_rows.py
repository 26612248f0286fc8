"""Converts scikit-learn's rows for training."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


class Rows:
    """Rows of a matrix with targets and weights: a :class:`torchbp.fitting.Table`.

    Args:
        X: (N, n0), an array or a sparse matrix in CSR form, which is made dense batch by batch.
        y: (N, nL).
        weight: (N); None for equal weights.
        scaling: mean and scale of X, (n0) each, float64; None to take X as it is.
        device: the device for the rows.
        clip: scaled values are clamped to ±clip; None for no limit.
    """

    def __init__(
        self,
        X: Any,
        y: np.ndarray,
        weight: np.ndarray | None,
        scaling: Any,
        device: torch.device,
        clip: float | None = None,
    ) -> None:
        self.device = device
        dtype = X.dtype
        self.y = torch.from_numpy(np.ascontiguousarray(y, dtype=dtype)).to(device)
        self.weight = None if weight is None else torch.from_numpy(weight.astype(dtype)).to(device)
        self._sparse, self._scaling, self._clip = sp.issparse(X), scaling, clip
        self._X: Any = X if self._sparse else torch.from_numpy(scaled(X, scaling, clip)).to(device)

    def x(self, rows: Tensor) -> Tensor:
        """The x of the rows with indices (*), (*, n0)."""
        if self._sparse:
            dense = scaled(self._X[rows.reshape(-1).cpu().numpy()].toarray(), self._scaling, self._clip)
            return torch.from_numpy(dense).to(self.device).view(*rows.shape, -1)
        if rows.dim() == 1:
            return self._X.index_select(0, rows)
        return self._X.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)


def scaled(X: np.ndarray, scaling: Any, clip: float | None = None) -> np.ndarray:
    """(X - mean) / scale, clamped to ±clip; writable, with X's dtype."""
    if scaling is None:
        return X if X.flags.writeable and X.flags.c_contiguous else np.array(X, order="C")
    mean, scale = scaling
    result = np.divide(np.subtract(X, mean), scale)
    if clip is not None:
        result.clip(-clip, clip, out=result)
    return np.ascontiguousarray(result, dtype=X.dtype)


def scaling_of(X: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each column, float64; the scale of a constant column is 1."""
    w = np.full(X.shape[0], 1 / X.shape[0]) if weight is None else weight / weight.sum()
    if sp.issparse(X):
        mean = np.asarray(X.T @ w, dtype=np.float64).ravel()
        variance = np.asarray(X.multiply(X).T @ w, dtype=np.float64).ravel() - mean * mean
    else:
        mean = w @ X.astype(np.float64, copy=False)
        variance = w @ np.square(X - mean)
    scale = np.sqrt(np.maximum(variance, 0))
    return mean, np.where(scale > 1e-7 * np.abs(mean) if sp.issparse(X) else scale > 1e-12 * np.abs(mean), scale, 1.0)
