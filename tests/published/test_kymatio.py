"""kymatio 0.3.0: the modulus that is stable at 0 has NaN for its second derivative there."""

import torch
from published import published

backend = published("kymatio", "0.3.0", "kymatio.backend.torch_backend")


def test_second_derivative_at_zero() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(backend.ModulusStable.apply(x).square().sum(), x, create_graph=True)
    assert torch.allclose(g, 2 * x)
    (h,) = torch.autograd.grad((g * g).sum(), x)
    assert torch.allclose(h[1], 8 * x[1])
    assert h[0].isnan().all()
