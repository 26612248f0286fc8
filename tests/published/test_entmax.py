"""entmax 1.3: losses without second derivatives, NaN where a probability is 0, and an alpha that is not saved."""

import pytest
import torch
from published import WRONG, error, normal, penalty_error, published

entmax = published("entmax", "1.3", "entmax")


@pytest.mark.parametrize("name", ["sparsemax_loss", "entmax15_loss", "entmax_bisect_loss"])
def test_losses(name: str) -> None:
    x, target = torch.tensor([[0.1, 0.2, -0.3], [0.5, -0.1, 0.2]], dtype=torch.float64), torch.tensor([0, 2])
    assert penalty_error(lambda v: getattr(entmax, name)(v, target).sum(), x) > WRONG


@pytest.mark.parametrize("name", ["entmax15", "entmax_bisect"])  # alpha is 1.5 for both
def test_second_derivative_is_nan(name: str) -> None:
    x = torch.tensor([[3.0, 0.0, -3.0]], dtype=torch.float64, requires_grad=True)
    y = getattr(entmax, name)(x)
    assert y.tolist() == [[1.0, 0.0, 0.0]]  # constant around x, so that all its derivatives are 0
    (g,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    assert g.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.autograd.grad((g * g).sum(), x)[0].isnan().all()


def test_alpha_that_changes_before_backward() -> None:
    """PyTorch raises an error if a saved tensor has changed; this one is an attribute of ctx."""
    x, upstream = normal(2, 3).requires_grad_(), normal(2, 3)

    def slope(factor):
        alpha = torch.tensor([[1.3], [1.6]], dtype=torch.float64, requires_grad=True)
        y = entmax.entmax_bisect(x, alpha)
        with torch.no_grad():
            alpha.mul_(factor)
        return torch.autograd.grad(y, x, upstream)[0]

    assert error(slope(0.5), slope(1.0)) > WRONG
