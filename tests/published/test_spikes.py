"""snntorch 1.0.0 and sinabs 3.1.3: spikes are float32 for a membrane potential of any dtype."""

import pytest
import torch
from published import normal, published


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_snntorch(dtype: torch.dtype) -> None:
    surrogate = published("snntorch", "1.0.0", "snntorch.surrogate")
    assert surrogate.fast_sigmoid()(normal(3).to(dtype).requires_grad_()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_sinabs(dtype: torch.dtype) -> None:
    activation = published("sinabs", "3.1.3", "sinabs.activation")
    spikes = activation.SingleSpike.apply(normal(3).to(dtype).requires_grad_(), 1.0, activation.SingleExponential())
    assert spikes.dtype == torch.float32
