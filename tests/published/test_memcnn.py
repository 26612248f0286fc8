"""memcnn 1.5.2: the additive coupling loses second derivatives in two of its three implementations."""

import pytest
import torch
from published import RIGHT, WRONG, normal, penalty_error, published

additive = published("memcnn", "1.5.2", "memcnn.models.additive")


@pytest.mark.parametrize(("implementation", "right"), [(-1, True), (0, False), (1, False)])
def test_second_derivatives(implementation: int, right: bool) -> None:
    def layer():
        return torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1), torch.nn.Tanh()).double()

    coupling = additive.AdditiveCoupling(layer(), layer(), implementation_fwd=implementation, implementation_bwd=implementation)
    off = penalty_error(lambda x: coupling(x).square().sum(), normal(1, 2, 3))
    assert off < RIGHT if right else off > WRONG
