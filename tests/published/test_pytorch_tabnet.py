"""pytorch_tabnet 4.1.0: its sparsemax overwrites its input, and removes more dimensions than meant."""

import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, published

sparsemax = published("pytorch_tabnet", "4.1.0", "pytorch_tabnet.sparsemax")


def test_input_is_overwritten() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])
    sparsemax.sparsemax(x, -1)
    assert x.tolist() == [[-2.0, -1.0, 0.0]]


def test_gradient_of_a_batch_with_a_dimension_of_one() -> None:
    def weighted(x):
        return (sparsemax.sparsemax(x.clone(), -1) * weights).sum()

    x, weights = normal(3, 4), normal(3, 4)
    assert error(gradient(weighted, x), finite_differences(weighted, x)) < RIGHT
    x, weights = x.unsqueeze(1), weights.unsqueeze(1)
    assert error(gradient(weighted, x), finite_differences(weighted, x)) > WRONG


def test_entmax15_second_derivative_is_nan() -> None:
    x = torch.tensor([[3.0, 0.0, -3.0]], dtype=torch.float64, requires_grad=True)
    y = sparsemax.entmax15(x, -1)
    assert y.tolist() == [[1.0, 0.0, 0.0]]  # constant around x, so that all its derivatives are 0
    (g,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    assert g.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.autograd.grad((g * g).sum(), x)[0].isnan().all()
