"""tslearn 0.10.0: SoftDTWLossPyTorch has no second derivatives, and computes in float32 for any input."""

import torch
from published import WRONG, normal, penalty_error, published

metrics = published("tslearn", "0.10.0", "tslearn.metrics")


def test_gradient_penalty() -> None:
    loss, y = metrics.SoftDTWLossPyTorch(gamma=0.5), normal(1, 4, 2)
    assert penalty_error(lambda x: loss(x, y).sum(), normal(1, 4, 2), 1e-3) > WRONG


def test_float64_is_rounded_to_float32() -> None:
    value = metrics.SoftDTWLossPyTorch(gamma=0.5)(normal(8, 4, 2), normal(8, 4, 2))
    assert value.dtype == torch.float64
    assert torch.equal(value, value.float().double())
