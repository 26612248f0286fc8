"""The audit in a test suite: :func:`audited` makes one test of each check."""

from collections.abc import Callable, Collection
from typing import Any

import pytest
from torch import Tensor

from torchbp.verify._audit import CHECKS, audit, name_of
from torchbp.verify._explain import refuse_unknown
from torchbp.verify._outcome import Status
from torchbp.verify._own import inputs_of


def audited(
    *inputs: Any, fail_on: Status = "error", only: Collection[str] | None = None, **options: Any
) -> Callable[[Callable[[], Any]], Callable[[str], None]]:
    """A decorator for a test that returns the Function to audit: it becomes one test for each check.

    A test fails if its check's status is ``fail_on`` or worse; otherwise a ``skipped`` or ``unsupported`` check skips it.

    Args:
        inputs: the Function's arguments: float64 tensors that require grad, and any others. A string such as ``"4,3"`` is the
            shape of a tensor drawn from N(0, 1).
        fail_on: ``"wrong"``, ``"error"``, ``"unsupported"`` or ``"wasteful"``.
        only: the names of the checks; all by default.
        options: further arguments of :func:`torchbp.verify.audit`, such as ``reference`` or ``tolerance``.

    For example::

        @audited("4,3", "2,3", "2", fail_on="unsupported")
        def test_layer():
            return MyLayer
    """
    checks = dict.fromkeys(map(name_of, CHECKS))
    refuse_unknown("only", only or (), checks)
    names = [name for name in checks if only is None or name in only]
    given = [drawn for value in inputs for drawn in (inputs_of(value) if isinstance(value, str) else (value,))]

    def decorate(function: Callable[[], Any]) -> Callable[[str], None]:
        @pytest.mark.parametrize("check", names)
        def test(check: str) -> None:
            arguments = [v.detach().clone().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v for v in given]
            result = audit(function(), arguments, only={check}, **options)
            if failed := result.at_least(fail_on):
                pytest.fail("\n".join(f"{row.status}: {row.check}: {row.detail}" for row in failed), pytrace=False)
            for row in result.rows:
                if row.status in ("skipped", "unsupported"):
                    pytest.skip(f"{row.status}: {row.detail}")

        test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
        return test

    return decorate
