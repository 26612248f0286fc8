"""e3nn 0.6.0: soft_unit_step's gradient is NaN where x is so small that its square underflows."""

import pytest
import torch
from published import gradient, published

math = published("e3nn", "0.6.0", "e3nn.math")


@pytest.mark.parametrize(("dtype", "x"), [(torch.float16, 1e-4), (torch.float32, 1e-23)])
def test_small_inputs(dtype: torch.dtype, x: float) -> None:
    at = torch.tensor(x, dtype=dtype)
    assert math.soft_unit_step(at).item() == 0
    assert gradient(math.soft_unit_step, at).isnan()
    assert gradient(math.soft_unit_step, at.double()).item() == 0
