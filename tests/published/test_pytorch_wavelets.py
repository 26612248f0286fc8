"""pytorch_wavelets 1.3.0: the backward of the padded modes leaves out the padding."""

import pytest
import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error, published

wavelets = published("pytorch_wavelets", "1.3.0", "pytorch_wavelets")

PADDED = pytest.mark.parametrize("mode", ["symmetric", "reflect", "periodic"])


def weighted(outputs):
    return sum((o * torch.linspace(1, 2, o.numel()).view_as(o)).sum() for o in outputs)


@PADDED
def test_afb1d(mode: str) -> None:
    transform = wavelets.DWT1DForward(J=1, wave="db2", mode=mode).double()

    def function(x):
        low, (high,) = transform(x)
        return weighted([low, high])

    x = normal(1, 1, 8)
    assert error(gradient(function, x), finite_differences(function, x)) > WRONG


@PADDED
def test_afb2d(mode: str) -> None:
    transform = wavelets.DWTForward(J=1, wave="db2", mode=mode).double()

    def function(x):
        low, (high,) = transform(x)
        return weighted([low, high])

    x = normal(1, 1, 8, 8)
    assert error(gradient(function, x), finite_differences(function, x)) > WRONG


@PADDED
def test_sfb2d(mode: str) -> None:
    low, high = wavelets.DWTForward(J=1, wave="db2", mode=mode).double()(normal(1, 1, 8, 8))
    inverse = wavelets.DWTInverse(wave="db2", mode=mode).double()

    def function(x):
        return weighted([inverse((x, high))])

    assert error(gradient(function, low), finite_differences(function, low)) > WRONG


@pytest.mark.parametrize("mode", ["zero", "periodization"])
def test_the_other_modes_are_right(mode: str) -> None:
    transform = wavelets.DWT1DForward(J=1, wave="db2", mode=mode).double()

    def function(x):
        low, (high,) = transform(x)
        return weighted([low, high])

    x = normal(1, 1, 8)
    assert error(gradient(function, x), finite_differences(function, x)) < RIGHT


def test_smooth_magnitude_loses_second_derivatives() -> None:
    from pytorch_wavelets.scatternet.lowlevel import SmoothMagFn

    y = normal(4)
    assert penalty_error(lambda x: SmoothMagFn.apply(x, y, 0.1).sum(), normal(4)) > WRONG
    healthy = penalty_error(lambda x: ((x * x + y * y + 0.01).sqrt() - 0.1).sum(), normal(4))
    assert healthy < RIGHT
