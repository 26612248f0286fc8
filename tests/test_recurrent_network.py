"""A recurrent network, trained by both engines, compared with torch.nn.RNN, a Linear layer and torch.optim.SGD."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as TF

from torchbp.descent import Descent
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.recurrent_descent import RecurrentDescent

LENGTHS = (7, 3, 5, 1, 7, 2)
LR = 0.05  # small: a step that overshoots would amplify rounding differences


def sequences(lengths=LENGTHS, n=3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(lengths), max(lengths), n, dtype=torch.float64, generator=generator)
    for one, length in zip(x, lengths, strict=True):
        one[length:] = float("nan")
    return x


class Reference(nn.Module):
    """A RecurrentNetwork of equal layers, built from torch.nn; takes each sequence alone, without padding."""

    def __init__(self, network: RecurrentNetwork, layers: int) -> None:
        super().__init__()
        first, last = network.layers[0], network.layers[-1]
        self.pooling, self.both = network.pooling, network.bidirectional
        sizes = first.input_size, first.hidden_size, layers
        self.rnn = nn.RNN(*sizes, first.activation.name, batch_first=True, bidirectional=self.both, dtype=torch.float64)
        self.last = nn.Linear(last.in_features, last.out_features).double()
        own = {
            name.replace("_l0", f"_l{number}"): value
            for number, layer in enumerate(network.layers[:-1])
            for name, value in layer.state_dict().items()
        }
        self.rnn.load_state_dict(own)
        self.last.load_state_dict(last.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x:
            one = one[~one.isnan().all(-1)]
            a, h = self.rnn(one.unsqueeze(0))
            if self.pooling == "last":
                rows.append(self.last(h[-1 - self.both :, 0].flatten()))
            elif self.pooling == "mean":
                rows.append(self.last(a[0].mean(0)))
            else:
                rows.append(self.last(TF.pad(a[0], (0, 0, 0, x.shape[1] - len(one)))))
        return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["last", "mean", "each"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("engine", ["autograd", "fused"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_hundred_steps_are_those_of_torch(pooling, both, engine, padded):
    torch.manual_seed(0)
    network = RecurrentNetwork([3, 4, 4, 2], "linear", pooling=pooling, bidirectional=both, dtype=torch.float64)
    reference = Reference(network, 2)
    x = sequences() if padded else sequences((7,) * 6)
    y = torch.randn(6, *([7] if pooling == "each" else []), 2, dtype=torch.float64)
    if pooling == "each":
        y = y.masked_fill(x.isnan().all(-1, keepdim=True), float("nan"))
    optimizer, its = (torch.optim.SGD(one.parameters(), LR) for one in (network, reference))
    descent = RecurrentDescent(network, lr=LR)
    for _ in range(100):
        if engine == "fused":
            cost = descent.steps(x, y, 6)[0]
        else:
            optimizer.zero_grad()
            cost, _ = network.cost(x, y)
            cost.backward()
            optimizer.step()
        its.zero_grad()
        expected = (reference(x) - y)[~y.isnan()].square().mean()
        expected.backward()
        its.step()
        torch.testing.assert_close(cost, expected, rtol=1e-10, atol=1e-12)
    assert expected < 0.95 * y[~y.isnan()].square().mean()  # the cost has fallen
    now = Reference(network, 2).state_dict()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(now[name], value, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("activation", "pooling"), [("tanh", "last"), ("gelu", "mean"), ("swish", "each"), ("unknown", "last")]
)
def test_gradients_of_any_activation(activation, pooling):
    torch.manual_seed(0)
    how = {"activation": activation, "pooling": pooling, "bidirectional": True, "per_unit": True, "dtype": torch.float64}
    network = RecurrentNetwork([3, 3, 2, 2], "sigmoid", **how)
    x = sequences((4, 2, 1))
    y = torch.rand(3, *([4] if pooling == "each" else []), 2, dtype=torch.float64)
    y = y.masked_fill(x.isnan().all(-1, keepdim=True), float("nan")) if pooling == "each" else y
    names = [name for name, _ in network.named_parameters()]

    def cost(x: Tensor, *parameters: Tensor) -> Tensor:
        parts = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(network, parts, (x, y), tie_weights=False)

    network.forward = lambda x, y: RecurrentNetwork.cost(network, x, y)[0]
    arguments = [x.nan_to_num(0).requires_grad_(), *(p.detach().requires_grad_() for p in network.parameters())]

    def padded(given: Tensor, *parameters: Tensor) -> Tensor:
        return cost(given.masked_fill(x.isnan(), float("nan")), *parameters)

    assert torch.autograd.gradcheck(padded, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(padded, arguments, fast_mode=True)
    # By single layers, as under torch.func, and by the whole network's Function.
    gradients = torch.func.grad(padded, tuple(range(len(arguments))))(*arguments)
    for own, expected in zip(gradients, torch.autograd.grad(padded(*arguments), arguments), strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "swish"])
@pytest.mark.parametrize("pooling", ["last", "mean", "each"])
def test_batch_after_batch_in_place_is_autograd(activation, pooling):
    x = sequences((4, 2, 1, 4, 3)).float()
    y = torch.rand(5, *([4] if pooling == "each" else []), 1)
    y = y.masked_fill(x.isnan().all(-1, keepdim=True), float("nan")) if pooling == "each" else y
    weight, pos_weight = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0]), torch.tensor([2.0])
    own, other = networks(2, [3, 4, 3, 1], "sigmoid", activation=activation, pooling=pooling, bidirectional=True)
    descent = RecurrentDescent(own, lr=0.5, pos_weight=pos_weight, clip_norm=0.1)
    optimizer = torch.optim.SGD(other.parameters(), 0.5)
    for _ in range(3):
        costs = descent.steps(x, y, 2, weight=weight)
        for part, cost in zip(range(0, 5, 2), costs, strict=True):
            rows = slice(part, part + 2)
            optimizer.zero_grad()
            expected, prediction = other.cost(x[rows], y[rows], pos_weight=pos_weight, weight=weight[rows])
            expected.backward()
            nn.utils.clip_grad_norm_(other.parameters(), 0.1)
            optimizer.step()
            torch.testing.assert_close(cost, expected)
            torch.testing.assert_close(descent.prediction[rows], prediction, equal_nan=True)
    for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert len(descent.norms) == 9


def networks(count, *args, **options) -> list[RecurrentNetwork]:
    """Networks with equal parameters."""
    made = []
    for _ in range(count):
        torch.manual_seed(0)
        made.append(RecurrentNetwork(*args, **options))
    return made


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_a_state_that_is_carried_over(engine):
    """Two halves, the second starting from the first's last states, equal the whole, but the error is cut between them."""
    x, y = torch.randn(2, 6, 1), torch.randn(2, 6, 1)
    [network] = networks(1, [1, 4, 3, 1], "linear", pooling="each")
    whole = network(x)
    if engine == "fused":
        descent = RecurrentDescent(network, lr=0.0)
        descent.step(x[:, :3], y[:, :3], hx=network.first_states(x))
        descent.step(x[:, 3:], y[:, 3:], hx=descent.states)
        second = descent.prediction
    else:
        cost, _, states = network.cost_from(network.first_states(x), x[:, :3], y[:, :3])
        assert all(not h.requires_grad for h in states)
        cost, second, _ = network.cost_from(states, x[:, 3:], y[:, 3:])
        torch.testing.assert_close(cost, (whole[:, 3:] - y[:, 3:]).square().mean())
    torch.testing.assert_close(second, whole[:, 3:])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_an_orthogonal_start_keeps_the_length_of_an_error(activation):
    [network] = networks(1, [1, 8, 1], "linear", "orthogonal", activation)
    Wh = network.layers[0].weight_hh_l0 / network.layers[0].activation.gain
    torch.testing.assert_close(Wh @ Wh.mT, torch.eye(8))


@pytest.mark.parametrize(
    ("shapes", "wrong"),
    [
        (((4, 3), (4, 2)), "(4, 3)"),
        (((4, 5, 2), (4, 2)), "(4, 5, 2)"),
        (((4, 0, 3), (4, 2)), "(4, 0, 3)"),
        (((4, 5, 3), (4, 5, 2)), "(4, 5, 2)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, wrong):
    [network] = networks(1, [3, 4, 2], "linear")
    x, y = map(torch.zeros, shapes)
    for call in (lambda: network.cost(x, y), lambda: RecurrentDescent(network).step(x, y)):
        with pytest.raises(ValueError, match=r"they must be \(B, T, 3\)") as error:
            call()
        assert wrong in str(error.value)


def test_networks_and_engines_of_the_other_kind_are_refused():
    with pytest.raises(ValueError, match=r"use torchbp\.recurrent_descent\.RecurrentDescent"):
        Descent(RecurrentNetwork([3, 4, 2]))
    with pytest.raises(ValueError, match=r"use torchbp\.descent\.Descent"):
        RecurrentDescent(BPNetwork([3, 4, 2]))
    with pytest.raises(ValueError, match="pooling is 'first'"):
        RecurrentNetwork([3, 4, 2], pooling="first")
    with pytest.raises(ValueError, match="three or more"):
        RecurrentNetwork([3, 2])
