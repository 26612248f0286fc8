"""How far back in time an error reaches, compared with autograd on torch.nn.RNN."""

import pytest
import torch
from test_recurrent_network import Reference, sequences

from torchbp.nn import RecurrentNetwork
from torchbp.training._reach import errors_back, reach, reach_image
from torchbp.training._signals import signals_of


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("pooling", ["last", "each"])
def test_the_norms_are_those_of_autograd(pooling: str, both: bool) -> None:
    """For one sequence, ∂L/∂A_t is the gradient by the state from which the rest of the sequence continues."""
    torch.manual_seed(0)
    network = RecurrentNetwork([3, 4, 2], "linear", pooling=pooling, bidirectional=both, dtype=torch.float64)
    x = sequences()
    y = torch.randn(6, *([7] if pooling == "each" else []), 2, dtype=torch.float64)
    y = y.masked_fill(x.isnan().all(-1, keepdim=True), float("nan")) if pooling == "each" else y
    rnn, last = (getattr(Reference(network, 1), name) for name in ("rnn", "last"))
    Wi, Wh, bi, bh = rnn.all_weights[0]
    squares, counts = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for one, target in zip(x, y, strict=True):
        one = one[~one.isnan().all(-1)]
        a, states = torch.zeros(4, dtype=torch.float64), []
        for step in one:
            a = torch.tanh(Wi @ step + bi + Wh @ a + bh)
            states.append(a)
        end = states[-1]
        if both:  # the backward direction's state at the predicted step
            back = rnn(one.unsqueeze(0))[0][0, 0 if pooling == "last" else -1, 4:]
            end = torch.cat([end, back.detach()])
        z = last(end)
        target = target[len(one) - 1] if pooling == "each" else target
        cost = (z - target).square().sum()
        for lag, gradient in enumerate(torch.autograd.grad(cost, states[::-1])):
            squares[lag] += gradient.square().sum()
            counts[lag] += 1
    [norms] = errors_back(network, x, y)
    torch.testing.assert_close(norms, (squares / counts).sqrt())


def test_reach_counts_until_a_hundredth() -> None:
    assert reach(torch.tensor([1.0, 0.5, 0.011, 0.009, 1.0])) == 3
    assert reach(torch.zeros(4)) == 0
    image = reach_image(torch.tensor([1.0, 1e-4, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
    assert image.shape == (3, 240, 320)
    rows = (image == torch.tensor([31, 119, 180])[:, None, None].numpy()).all(0)
    assert rows[:, -1].argmax() < rows[:, 160].argmax() < rows[:, 0].argmax()  # it falls towards the start of the sequence


def test_a_sigmoid_forgets_what_an_orthogonal_tanh_remembers() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 40, 1), torch.randn(8, 1)
    felt = {}
    for name, init in (("sigmoid", "glorot"), ("tanh", "orthogonal")):
        network = RecurrentNetwork([1, 16, 1], "linear", init, name)
        with torch.no_grad():
            network.layers[0].weight_ih_l0.mul_(0.1)  # with small inputs, tanh's slope is 1
            felt[name] = reach(errors_back(network, x, y)[0])
    assert felt["sigmoid"] < 10 < 30 < felt["tanh"]


@pytest.mark.parametrize("pooling", ["last", "each"])
def test_signals_of_a_recurrent_layer_equal_autograds(pooling: str) -> None:
    torch.manual_seed(0)
    network = RecurrentNetwork([3, 4, 2], "linear", pooling=pooling, bidirectional=True, dtype=torch.float64)
    x = sequences()
    y = torch.randn(6, *([7] if pooling == "each" else []), 2, dtype=torch.float64)
    y = y.masked_fill(x.isnan().all(-1, keepdim=True), float("nan")) if pooling == "each" else y
    value, signals = signals_of(network, x, y, 0.5)
    cost, _ = network.cost(x, y)
    cost.backward()
    layer = network.layers[0]
    weights = [parameter for name, parameter in layer.named_parameters() if name.startswith("weight")]
    gradients, sizes = (torch.cat([t.flatten() for t in of]).norm() for of in ([w.grad for w in weights], weights))
    assert value == pytest.approx(cost.item())
    assert signals[0].update == pytest.approx((0.5 * gradients / sizes).item())
    there = ~x.isnan().all(-1)
    a = layer(x, lengths=there.sum(1))[0][there]
    assert signals[0].saturated == pytest.approx((1 - a.square() <= 0.05).double().mean().item())
