"""torchdiffeq 0.2.5: the adjoint's gradients have no graph, silently even with create_graph=True."""

import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, published

torchdiffeq = published("torchdiffeq", "0.2.5", "torchdiffeq")


class Field(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(2, dtype=torch.float64) / 2)

    def forward(self, t, y):
        return torch.sin(y @ self.weight)


def test_gradient_penalty() -> None:
    field, times = Field(), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def penalty(solve):
        def of_weight(w):
            y = torch.tensor([[0.3, 0.7]], dtype=torch.float64, requires_grad=True)
            loss = solve(field, y * w, times, rtol=1e-9, atol=1e-9)[1].square().sum()
            (g,) = torch.autograd.grad(loss, y, create_graph=True)
            return (g * g).sum()

        return of_weight

    w = torch.tensor(1.5, dtype=torch.float64)
    true = gradient(penalty(torchdiffeq.odeint), w)
    assert error(true, finite_differences(penalty(torchdiffeq.odeint), w, 1e-4)) < RIGHT
    assert error(gradient(penalty(torchdiffeq.odeint_adjoint), w), true) > WRONG
    # The derivative by the field's own weight is lost completely.
    (by_field,) = torch.autograd.grad(penalty(torchdiffeq.odeint)(w), field.weight)
    assert by_field.norm() > 100
    lost = torch.autograd.grad(penalty(torchdiffeq.odeint_adjoint)(w.requires_grad_()), field.weight, allow_unused=True)
    assert lost == (None,)
