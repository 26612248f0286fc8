"""Audits autograd Functions: checks everything that PyTorch may ask of a custom derivative.

:func:`audit` takes any ``torch.autograd.Function``; :func:`gradcheck` audits torchbp's own functions, or one named by its
import path.
"""

from torchbp.verify._audit import audit
from torchbp.verify._outcome import STATUSES, Status
from torchbp.verify._own import Sample, available_devices, gradcheck, own_functionals
from torchbp.verify._report import junit, markdown, summary
from torchbp.verify._result import Result, Row

__all__ = [
    "STATUSES",
    "Result",
    "Row",
    "Sample",
    "Status",
    "audit",
    "available_devices",
    "gradcheck",
    "junit",
    "markdown",
    "own_functionals",
    "summary",
]
