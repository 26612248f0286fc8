"""deepinv 0.5.0: the MMSE denoiser's backward treats its posterior weights as constants."""

import torch
from published import (
    RIGHT,
    WRONG,
    declare_torchvision_operators,
    error,
    finite_differences,
    gradient,
    normal,
    penalty_error,
    published,
)

declare_torchvision_operators()
mmse = published("deepinv", "0.5.0", "deepinv.models.mmse")


def test_second_derivatives() -> None:
    data, sigma, weights = normal(5, 4), torch.full((2, 1), 0.7, dtype=torch.float64), normal(2, 4)

    def value(x):
        return (mmse.MMSEFunction.apply(x, sigma, data, "cpu", torch.float64, False) * weights).sum()

    x = normal(2, 4)
    assert error(gradient(value, x), finite_differences(value, x)) < RIGHT
    assert penalty_error(value, x) > WRONG
