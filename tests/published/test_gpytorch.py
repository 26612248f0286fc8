"""gpytorch 1.15.2: second derivatives by the lengthscale, and log_normal_cdf below -1."""

import pytest
import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, penalty_error, published

gpytorch = published("gpytorch", "1.15.2", "gpytorch")


@pytest.mark.parametrize("name", ["RBFKernel", "MaternKernel"])
def test_second_derivative_by_the_lengthscale(name: str) -> None:
    x = torch.linspace(0, 1, 4, dtype=torch.float64).unsqueeze(-1)

    def slope(raw_lengthscale):
        kernel = getattr(gpytorch.kernels, name)().double()
        with torch.no_grad():
            kernel.raw_lengthscale.copy_(raw_lengthscale)
        value = kernel(x).to_dense().sum()
        return torch.autograd.grad(value, kernel.raw_lengthscale, create_graph=True)[0].sum(), kernel.raw_lengthscale

    raw = torch.zeros(1, 1, dtype=torch.float64)
    got = torch.autograd.grad(*slope(raw))[0]
    true = finite_differences(lambda r: slope(r)[0], raw)
    assert error(got, true) > WRONG
    with gpytorch.settings.trace_mode():  # the same kernel without the Function
        assert error(torch.autograd.grad(*slope(raw))[0], true) < RIGHT


def test_log_normal_cdf() -> None:
    log_normal_cdf = gpytorch.functions.log_normal_cdf
    z = torch.tensor([-1.01], dtype=torch.float64)
    assert abs(log_normal_cdf(z) - torch.special.log_ndtr(z)) > 1e-3
    assert abs(log_normal_cdf(z + 0.1) - torch.special.log_ndtr(z + 0.1)) < 1e-9
    # backward returns neither the derivative of that value nor the true one.
    got = gradient(lambda v: log_normal_cdf(v).sum(), z)
    assert error(got, finite_differences(lambda v: log_normal_cdf(v).sum(), z)) > 0.005
    assert error(got, gradient(lambda v: torch.special.log_ndtr(v).sum(), z)) > 0.001
    # Below -1 the first derivative is a constant to autograd: the second is 0, and the true one -0.8.
    assert penalty_error(lambda v: log_normal_cdf(v).sum(), z) > WRONG
    assert penalty_error(lambda v: torch.special.log_ndtr(v).sum(), z) < RIGHT
