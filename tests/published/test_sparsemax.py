"""sparsemax 0.1.9: for a matrix, dim=0 means the last dimension."""

import torch
from published import normal, published

sparsemax = published("sparsemax", "0.1.9", "sparsemax")


def test_dimension_of_a_matrix() -> None:
    x = normal(3, 4)
    columns = sparsemax.Sparsemax(dim=0)(x)
    assert not torch.allclose(columns.sum(0), torch.ones_like(x[0]))
    assert torch.equal(columns, sparsemax.Sparsemax(dim=1)(x))
    assert torch.allclose(sparsemax.Sparsemax(dim=0)(x.unsqueeze(-1)).sum(0), torch.ones_like(x[0]).unsqueeze(-1))
