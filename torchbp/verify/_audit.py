"""The audit: runs every check and makes a row of each."""

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
from torchbp.verify._explain import refuse_unknown
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
# Checks that have no meaning if the check that they build on has found a fault.
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
    """Check everything that PyTorch may ask of a custom derivative, each against an independent result.

    First derivatives are compared with central finite differences of the function, second and third derivatives with finite
    differences of its first derivative, and every other setting (other strides, vmap, torch.compile, autocast ...) with a plain
    call. The function must be deterministic. The audit empties ``torch.compile``'s caches.

    Args:
        function: an ``autograd.Function`` class, an ``nn.Module``, or any callable that takes tensors and returns a tensor or a
            tuple. A callable's Functions are found in its graph. A module's parameters and buffers are inputs too. For a
            Function that works in place, give a callable that passes it a copy.
        inputs: its arguments. The audit differentiates by the float64 tensors that require grad. Keep them small (about ten
            entries, a batch of two or more) and away from kinks: finite differences move each entry by 1e-6.
        devices: where to audit it.
        reference: a callable with the same arguments that PyTorch differentiates itself. The audit compares outputs, gradients
            and the dtypes under autocast with it.
        surrogate: for a derivative that is not meant to be forward's, as in a straight-through estimator: a callable with the
            same arguments and the meant derivative. ``"consistency"`` if there is none: the audit then only checks that every
            setting gives the same derivative.
        tolerance: the largest absolute and relative error allowed, for a function that is less exact than float64, such as an
            iterative one. By default 1e-9 to 1e-3, depending on what the check compares with.
        name: the name of the result; the function's own name by default.
        only: the names of the checks to run, such as ``{"backward", "torch compile"}``; all by default.

    Raises:
        ValueError: the function cannot be called with the inputs, or is not finite there; no input requires grad, or those that
            do have more than ten thousand entries; an output is not a dense tensor; a device is not there; there is no such
            check.

    >>> from torchbp import functional as F
    >>> prediction, target = (torch.rand(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    >>> audit(F.mse_loss, (prediction, target), reference=torch.nn.functional.mse_loss, only={"backward"}).passed
    True
    """
    devices = [devices] if isinstance(devices, str) else devices
    if not (surrogate is None or surrogate == CONSISTENCY or callable(surrogate)):
        raise ValueError(f"surrogate is {surrogate!r}; it must be a callable or {CONSISTENCY!r}")
    names = dict.fromkeys(map(name_of, CHECKS))
    refuse_unknown("only", only or (), names)
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
    """Raise ValueError if PyTorch has no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, which is not there: {one_line(error)}") from None


def name_of(check: Check) -> str:
    """The name of a check in a row."""
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
    """Silence warnings and logs: many are not the function's fault (slow batching rules), and errors repeat the logs."""
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
        except Exception as error:  # anything that the audited function raises is a finding
            raised = error
    return row_of(name_of(check), device, dtype, comparisons, raised)
