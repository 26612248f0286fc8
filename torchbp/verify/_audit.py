"""The audit: every check, one row each."""

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd import Function

from torchbp.verify import _backward, _double, _forward, _precision, _settings, _transforms
from torchbp.verify._result import Comparison, Failed, Outcome, Result, Row, row_of
from torchbp.verify._subject import Subject, one_line, subject_of

Check = Callable[[Subject], Iterable[Comparison]]

CHECKS: list[Check] = [
    *_backward.CHECKS,
    *_double.CHECKS,
    *_forward.CHECKS,
    *_transforms.CHECKS,
    *_settings.CHECKS,
    *_precision.CHECKS,
]


def audit(
    function: type[Function] | Callable[..., Any],
    inputs: Sequence[Any],
    *,
    devices: str | Sequence[str] = "cpu",
    reference: Callable[..., Any] | None = None,
    name: str | None = None,
    only: Collection[str] | None = None,
) -> Result:
    """Try everything that PyTorch may ask of a custom derivative, and measure each answer against an independent one.

    First derivatives are measured against central finite differences of the function's own forward, second derivatives against
    those of its first; every other way through PyTorch (other strides, vmap, torch.compile, autocast ...) against the plain
    one. The audited function has to be deterministic. ``torch.compile``'s caches are emptied on the way.

    Args:
        function: an ``autograd.Function`` class, or any callable over tensors. Of a callable, the Functions behind it are
            found in its graph; it may return a tensor or a tuple. One that works in place is audited through a callable that
            hands it a copy.
        inputs: its arguments. float64 tensors that require grad are differentiated; keep them small (some ten entries, a batch
            of two or more) and away from kinks, for each entry is moved by 1e-6.
        devices: where it is audited.
        reference: a callable of the same arguments that PyTorch differentiates by itself, for outputs and gradients to be
            compared with, and for the dtypes under autocast.
        name: what the result is called; the function's own name by default.
        only: the names of the checks to try, such as ``{"backward", "torch compile"}``; all by default.

    Raises:
        ValueError: inputs that the function cannot be called with, where it is not finite, of which none can be differentiated
            or which have more than ten thousand entries; a function that gives other outputs each time; a device that is not
            there; a check that is none.

    >>> from torchbp import functional as F
    >>> prediction, target = (torch.rand(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    >>> audit(F.mse_loss, (prediction, target), reference=torch.nn.functional.mse_loss).passed
    True
    """
    devices = [devices] if isinstance(devices, str) else devices
    names = {_name(check) for check in CHECKS}
    if only is not None and not names.issuperset(only):
        raise ValueError(f"only has {', '.join(sorted(set(only) - names))}; the checks are {', '.join(sorted(names))}")
    checks = [check for check in CHECKS if only is None or _name(check) in only]
    rows = []
    for device in devices:
        check_device(device)
        subject = subject_of(function, inputs, reference, device)
        rows += [_row(check, subject, device) for check in checks]
    return Result(str(name or getattr(function, "__name__", type(function).__name__)), rows)


def check_device(device: str) -> None:
    """ValueError where PyTorch has no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, which is not there: {one_line(error)}") from None


def _row(check: Check, subject: Subject, device: str) -> Row:
    comparisons: list[Comparison] = []
    outcome: Outcome | None = None
    # PyTorch warns of much that is no fault of the audited function, such as slow batching rules.
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            comparisons.extend(check(subject))
        except Outcome as raised:
            outcome = raised
        except Exception as error:  # whatever the audited function raises is the row's finding
            outcome = Failed(f"{type(error).__name__}: {one_line(error)}")
    dtype = check.keywords["dtype"] if isinstance(check, partial) else torch.float64
    return row_of(_name(check), device, str(dtype).removeprefix("torch."), comparisons, outcome)


def _name(check: Check) -> str:
    function: Any = check.func if isinstance(check, partial) else check
    return function.__name__.replace("_", " ")
