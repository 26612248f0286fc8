"""Every mix of forward and reverse mode up to the third order, compared with PyTorch's own functions."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_opinfo import CASES
from torch import Tensor
from torch.func import jacfwd, jacrev
from torch.testing import make_tensor

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
)

ORDERS = [mix for order in (1, 2, 3) for mix in itertools.product((jacfwd, jacrev), repeat=order)]


def double(shape: Any, low: float = -2.0, high: float = 2.0) -> Tensor:
    return make_tensor(shape, device="cpu", dtype=torch.float64, low=low, high=high)


@pytest.mark.parametrize("name", CASES)
def test_every_mix(name: str) -> None:
    """Along two directions of all tensors at once, for a cost with a different weight for every output."""
    function, reference, samples = CASES[name]
    *_, (tensors, options) = (sample for sample in samples(double) if sample[0][0].dim() == 2 and sample[0][0].numel())
    directions = [torch.randn(2, *t.shape).to(t.dtype) if t.is_floating_point() else None for t in tensors]
    weights = torch.randn_like(function(*tensors, **options))

    def along(call: Callable[..., Tensor], s: Tensor) -> Tensor:
        moved = (t if d is None else t + torch.tensordot(s, d, 1) for t, d in zip(tensors, directions, strict=True))
        return (weights * call(*moved, **options)).sum().sin()

    at = torch.zeros(2, dtype=torch.float64)
    expected = {order: nested((jacrev,) * order, partial(along, reference))(at) for order in (1, 2, 3)}
    for mix in ORDERS:
        right, found = expected[len(mix)], nested(mix, partial(along, function))(at)
        atol = 1e-10 * right.abs().max().item()
        torch.testing.assert_close(found, right, rtol=1e-9, atol=atol, msg=lambda text, mix=mix: f"{mix}: {text}")


def nested(mix: tuple[Any, ...], function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    for derivative in reversed(mix):
        function = derivative(function)
    return function
