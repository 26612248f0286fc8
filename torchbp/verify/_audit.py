"""The audit: every check, one row each."""

import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.autograd import Function

from torchbp.verify import (
    _bypass,
    _calls,
    _forward,
    _gradients,
    _layouts,
    _memory,
    _orders,
    _precision,
    _sizes,
    _transforms,
    _values,
)
from torchbp.verify._outcome import Comparison, Skipped
from torchbp.verify._result import Result, Row, one_line, row_of
from torchbp.verify._subject import CONSISTENCY, Subject, Surrogate, subject_of

Check = Callable[[Subject], Iterable[Comparison]]

CHECKS: list[Check] = [
    *_gradients.FIRST,
    *_gradients.CHECKS,
    *_layouts.CHECKS,
    *_sizes.CHECKS,
    *_values.CHECKS,
    *_calls.CHECKS,
    *_memory.CHECKS,
    *_forward.CHECKS,
    *_orders.CHECKS,
    *_transforms.CHECKS,
    *_bypass.CHECKS,
    *_precision.CHECKS,
]
# What has no meaning where the check that it builds on has found a fault.
BUILDS_ON = {
    **dict.fromkeys(("other values", "batch sizes", "ranks", "broadcast inputs", "large inputs", "zero inputs"), "backward"),
    "reverse to order 3": "double backward",
    "mixes to order 3": "double backward",
    "precision of double backward": "double backward",
    "precision of forward mode": "forward mode",
    "nested vmap": "vmap",
    "chunked vmap": "vmap",
    "precision of vmap": "vmap",
}


def audit(
    function: type[Function] | Callable[..., Any],
    inputs: Sequence[Any],
    *,
    devices: str | Sequence[str] = "cpu",
    reference: Callable[..., Any] | None = None,
    surrogate: Surrogate = None,
    tolerance: float = 0.0,
    name: str | None = None,
    only: Collection[str] | None = None,
) -> Result:
    """Try everything that PyTorch may ask of a custom derivative, and measure each answer against an independent one.

    First derivatives are measured against central finite differences of the function's own forward, second and third ones
    against those of its first; every other way through PyTorch (other strides, vmap, torch.compile, autocast ...) against the
    plain one. The audited function has to be deterministic. ``torch.compile``'s caches are emptied on the way.

    Args:
        function: an ``autograd.Function`` class, an ``nn.Module``, or any callable over tensors. Of a callable, the Functions
            behind it are found in its graph; it may return a tensor or a tuple. A module's parameters and buffers are inputs
            like the others. One that works in place is audited through a callable that hands it a copy.
        inputs: its arguments. float64 tensors that require grad are differentiated; keep them small (some ten entries, a batch
            of two or more) and away from kinks, for each entry is moved by 1e-6.
        devices: where it is audited.
        reference: a callable of the same arguments that PyTorch differentiates by itself, for outputs and gradients to be
            compared with, and for the dtypes under autocast.
        surrogate: for a derivative that is meant to be another than forward's, as of a straight-through estimator: a callable
            of the same arguments whose derivative is meant, or ``"consistency"`` where there is none: then only whether every
            way through PyTorch gives the same derivative is audited.
        tolerance: how far off any number may be, absolutely and relatively, where the function is less exact than float64, as
            one that iterates. 1e-9 to 1e-3 by default, by what the check measures against.
        name: what the result is called; the function's own name by default.
        only: the names of the checks to try, such as ``{"backward", "torch compile"}``; all by default.

    Raises:
        ValueError: inputs that the function cannot be called with, where it is not finite, of which none can be differentiated
            or which have more than ten thousand entries; outputs that are no dense tensors; a device that is not there; a check
            that is none.

    >>> from torchbp import functional as F
    >>> prediction, target = (torch.rand(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    >>> audit(F.mse_loss, (prediction, target), reference=torch.nn.functional.mse_loss, only={"backward"}).passed
    True
    """
    devices = [devices] if isinstance(devices, str) else devices
    if not (surrogate is None or surrogate == CONSISTENCY or callable(surrogate)):
        raise ValueError(f"surrogate is {surrogate!r}; it must be a callable or {CONSISTENCY!r}")
    names = dict.fromkeys(map(name_of, CHECKS))
    if only is not None and not set(only) <= set(names):
        raise ValueError(f"only has {', '.join(sorted(set(only) - set(names)))}; the checks are {', '.join(sorted(names))}")
    rows = []
    for device in devices:
        check_device(device)
        subject = subject_of(function, inputs, reference, device, surrogate, tolerance)
        first = [_row(check, subject, device) for check in _gradients.FIRST]
        rows += [row for row in first if row.status != "passed" or only is None or row.check in only]
        if all(row.status == "passed" for row in first):
            rows += _rows(subject, device, only)
    return Result(str(name or getattr(function, "__name__", type(function).__name__)), rows)


def check_device(device: str) -> None:
    """ValueError where PyTorch has no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, which is not there: {one_line(error)}") from None


def name_of(check: Check) -> str:
    """What a check is called in a row."""
    function: Any = check.func if isinstance(check, partial) else check
    return function.__name__.replace("_", " ")


def _rows(subject: Subject, device: str, only: Collection[str] | None) -> list[Row]:
    rows: dict[str, Row] = {}
    every = []
    for check in CHECKS[len(_gradients.FIRST) :]:
        name = name_of(check)
        if only is None or name in only:
            basis = rows.get(BUILDS_ON.get(name, ""))
            rows[name] = _row(check, subject, device, basis)
            every.append(rows[name])
    return every


@contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile nothing is warned of or logged: much of it is no fault of the audited function, such as slow batching rules,
    and what a compiler logs of an error is in the error."""
    logged = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logged)


def _row(check: Check, subject: Subject, device: str, basis: Row | None = None) -> Row:
    dtype = str(check.keywords["dtype"] if isinstance(check, partial) else torch.float64).removeprefix("torch.")
    if basis is not None and basis.status == "unsupported":
        return replace(basis, check=name_of(check), dtype=dtype)
    comparisons: list[Comparison] = []
    raised: Exception | None = None
    with _quiet(), torch.enable_grad():
        try:
            if basis is not None and basis.status in ("wrong", "error"):
                raise Skipped(f"it builds on {basis.check}, which is {basis.status}")
            comparisons.extend(check(subject))
        except Exception as error:  # whatever the audited function raises is the row's finding
            raised = error
    return row_of(name_of(check), device, dtype, comparisons, raised)
