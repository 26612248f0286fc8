"""Checks of an estimator's parameters, and of the rows' weights."""

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_consistent_length


def check_parameters(estimator: Any) -> None:
    """Check the parameters, which scikit-learn sets without a check.

    Raises:
        ValueError: one is outside its range, or the device is not there.
    """
    others = {"batch_size": "auto", "n_networks": None}
    for name in ("max_iter", "n_iter_no_change", "batch_size", "n_networks"):
        value = getattr(estimator, name)
        if not is_whole(value, 1) and not (name in others and isinstance(value, str | None) and value == others[name]):
            other = f"{others[name]!r}, or " if name in others else ""
            raise ValueError(f"{name} is {value!r}; it must be {other}a whole number of 1 or more")
    if not isinstance(verbose := estimator.verbose, bool | np.bool_) and not is_whole(verbose, 0):
        raise ValueError(f"verbose is {verbose!r}; it must be True, False, or a whole number of 0 or more")
    for name in ("shuffle", "warm_start", "early_stopping", "standardize", "bootstrap"):
        if not isinstance(value := getattr(estimator, name), bool | np.bool_):
            raise ValueError(f"{name} is {value!r}; it must be True or False")
    lr = estimator.learning_rate_init
    if not (isinstance(lr, str) and lr == "auto") and not (is_real(lr) and 0 < float(lr) < np.inf):
        raise ValueError(f"learning_rate_init is {lr!r}; it must be 'auto', or a finite number above 0")
    if not (is_real(estimator.validation_fraction) and 0 < float(estimator.validation_fraction) < 1):
        raise ValueError(f"validation_fraction is {estimator.validation_fraction!r}; it must be a number above 0 and below 1")
    clip = estimator.clip
    if clip is not None and not (is_real(clip) and 0 < float(clip) < np.inf):
        raise ValueError(f"clip is {clip!r}; it must be a finite number above 0, or None")
    if not (is_real(estimator.tol) and float(estimator.tol) >= 0):
        raise ValueError(f"tol is {estimator.tol!r}; it must be a number of 0 or more")
    if estimator.bootstrap and estimator.n_networks is None:
        raise ValueError("bootstrap is True; it is for several networks: set n_networks, for example 8")
    device_of(estimator.device)
    if estimator.log_dir is not None and not isinstance(estimator.log_dir, str | PathLike):
        raise ValueError(f"log_dir is {estimator.log_dir!r}; it must be a folder's path, or None")
    callbacks = () if estimator.callbacks is None else estimator.callbacks
    if not (isinstance(callbacks, list | tuple) and all(map(callable, callbacks))):
        raise ValueError(f"callbacks is {callbacks!r}; it must be a list or tuple of functions, or None")
    if not all(is_whole(n, 1) for n in estimator._hidden()):
        raise ValueError(f"hidden_layer_sizes is {estimator.hidden_layer_sizes}; it must be of whole numbers of 1 or more")


def is_whole(value: Any, least: int) -> bool:
    """Whether the value is a whole number of ``least`` or more; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_real(value: Any) -> bool:
    """Whether the value is a number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_class_weight(given: Any, labels: bool) -> None:
    """Check ``class_weight``.

    Args:
        given: a dict by class, ``balanced`` or None.
        labels: whether each row has several labels: a list has a dict for each.

    Raises:
        ValueError: it is none of these, or a weight is below 0 or not finite.
    """
    for one in given if labels and isinstance(given, list) else [given]:
        numbers = one.values() if isinstance(one, Mapping) else () if one is None or str(one) == "balanced" else (None,)
        if not all(isinstance(n, Real) and 0 <= float(n) < np.inf for n in numbers):
            raise ValueError(f"class_weight is {given!r}; it must be 'balanced', or a finite number of 0 or more by class")


def device_of(name: Any) -> torch.device:
    """The device of this name; ``auto`` is CUDA if there is one.

    Raises:
        ValueError: there is no such device.
    """
    count = torch.cuda.device_count()
    name = ("cuda" if count else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {name!r}; it must be 'cpu', 'cuda' or 'auto'") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        which = f"the last CUDA device is cuda:{count - 1}" if count else "there is no CUDA device"
        raise ValueError(f"device is {name!r}, and {which}; take 'cpu' or 'auto'")
    return device


def weights_of(sample_weight: Any, X: Any) -> np.ndarray:
    """Each row's weight, (N), float64.

    Raises:
        ValueError: they are not one for each row, or not 0 or more.
    """
    if isinstance(sample_weight, Real):
        sample_weight = np.full(X.shape[0], sample_weight)
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.ndim != 1:
        raise ValueError(f"Sample weights must be 1D array or scalar; sample_weight has shape {weight.shape}")
    check_consistent_length(X, weight)
    if (weight < 0).any():
        raise ValueError(f"sample_weight reaches down to {weight.min():g}; it must be 0 or more")
    return weight
