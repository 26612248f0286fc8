"""The measures find no error in PyTorch's own derivatives, and find a lost gradient."""

import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error
from torch import Tensor


def test_healthy_function() -> None:
    x = normal(3, 2)

    def function(v: Tensor) -> Tensor:
        return (v.sin() * v).sum()

    assert error(gradient(function, x), finite_differences(function, x)) < RIGHT
    assert penalty_error(function, x) < RIGHT


def test_lost_second_derivative() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.slope = 2 * x.detach()
            return x * x

        @staticmethod
        def backward(ctx, upstream):
            return upstream * ctx.slope

    def function(v: Tensor) -> Tensor:
        return Square.apply(v).sum()

    x = normal(3)
    assert error(gradient(function, x), finite_differences(function, x)) < RIGHT
    assert penalty_error(function, x) > WRONG
