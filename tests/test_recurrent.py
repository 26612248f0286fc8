"""Recurrent layers, compared with torch.nn.RNN and step-by-step references, also where torch.nn.RNN fails on a CPU."""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, stack_module_state, vmap
from torch.nn import functional as TF
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from torchbp import functional as F
from torchbp import nn
from torchbp.activations import ACTIVATIONS, Activation

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own warning, whenever torch.compile traces an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

each_device = pytest.mark.parametrize("device", DEVICES)
each_activation = pytest.mark.parametrize("g", ACTIVATIONS.values(), ids=ACTIVATIONS)
LENGTHS = torch.tensor([3, 5, 1, 2])


def double(*shape: int, **options: Any) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, **options)


def by_steps(x: Tensor, layer: nn.RNN) -> Tensor:
    """The states of a layer: 5.1 in PyTorch's own operations."""
    h, states = x.new_zeros(x.shape[1], layer.hidden_size), []
    theta = [getattr(layer, f"{name}_l0") for name in layer.activation.parameters]
    for step in x:
        z = TF.linear(step, layer.weight_ih_l0, layer.bias_ih_l0) + TF.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)
        h = layer.activation.reference(z, *theta).reshape(z.shape)
        states.append(h)
    return torch.stack(states)


@each_device
@pytest.mark.parametrize("per_unit", [False, True])
@each_activation
def test_every_activation(g: Activation, per_unit: bool, device: str) -> None:
    """Values and every gradient; θ are the layer's own parameters, with their names and start values."""
    layer = nn.RNN(3, 4, nonlinearity=g, per_unit=per_unit, device=device, dtype=torch.float64)
    assert [*layer.state_dict()][4:] == [f"{name}_l0" for name in g.parameters]
    start = copy.deepcopy(layer.state_dict())
    for name, parameter in g.parameters.items():
        theta = layer.get_parameter(f"{name}_l0")
        assert_close(theta, parameter.start(4 if per_unit else 1, device=device, dtype=torch.float64))
        theta.data.mul_(1 + torch.rand_like(theta))
    x = double(5, 2, 3, device=device, requires_grad=True)
    output, expected = layer(x)[0], by_steps(x, layer)
    assert_close(output, expected)
    leaves, upstream = [x, *layer.parameters()], torch.randn_like(expected)
    assert_close(torch.autograd.grad(output, leaves, upstream), torch.autograd.grad(expected, leaves, upstream))
    layer.reset_parameters()
    assert all(torch.equal(start[f"{name}_l0"], layer.get_parameter(f"{name}_l0")) for name in g.parameters)
    assert not torch.equal(start["weight_hh_l0"], layer.weight_hh_l0)


def both(device: str = "cpu", dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.RNN, torch.nn.RNN]:
    """Our layer and PyTorch's with the same parameters."""
    its = torch.nn.RNN(3, 4, device=device, dtype=dtype, **options)
    mine = nn.RNN(3, 4, device=device, dtype=dtype, **options)
    assert [*mine.state_dict()] == [*its.state_dict()]
    mine.load_state_dict(its.state_dict())
    return mine, its


def gradients_equal(mine: Any, of_mine: Any, its: Any, of_its: Any, **tolerance: float) -> None:
    upstream = [torch.randn_like(t) for t in its]
    assert_close(mine, its, **tolerance)
    assert_close(torch.autograd.grad(mine, of_mine, upstream), torch.autograd.grad(its, of_its, upstream), **tolerance)


OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"nonlinearity": "relu", "bias": False, "num_layers": 2},
    {"bidirectional": True},
]


@each_device
@pytest.mark.parametrize("initial", [False, True], ids=["from zero", "initial state"])
@pytest.mark.parametrize("kind", ["batch", "one", "lengths", "packed", "packed, sorted"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_module_is_that_of_pytorch(options: dict[str, Any], kind: str, initial: bool, device: str) -> None:
    mine, its = both(device, **options)
    layers = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    batch_first = options.get("batch_first", False)
    x = double(*((5, 3) if kind == "one" else (4, 5, 3) if batch_first else (5, 4, 3)), device=device)
    h = double(layers, *(() if kind == "one" else (4,)), 4, device=device) if initial else None
    given = [t.clone().requires_grad_() for t in (x, h) if t is not None]
    twins = [t.clone().requires_grad_() for t in (x, h) if t is not None]
    lengths = LENGTHS.sort(descending=True).values if kind == "packed, sorted" else LENGTHS
    packing: dict[str, Any] = {"batch_first": batch_first, "enforce_sorted": kind == "packed, sorted"}
    if kind in ("batch", "one"):
        found, expected = mine(*given), its(*twins)
    else:
        packed, last = its(pack_padded_sequence(twins[0], lengths, **packing), *twins[1:])
        expected = pad_packed_sequence(packed, batch_first=batch_first)[0], last
        if kind == "lengths":
            found = mine(*given, lengths=lengths)
        else:
            own, last = mine(pack_padded_sequence(given[0], lengths, **packing), *given[1:])
            assert_close(own, packed)
            found = pad_packed_sequence(own, batch_first=batch_first)[0], last
    gradients_equal(found, [*given, *mine.parameters()], expected, [*twins, *its.parameters()])


@each_device
def test_state_dict_goes_both_ways_and_starts_as_pytorchs(device: str) -> None:
    torch.manual_seed(3)
    mine = nn.RNN(3, 4, 2, bidirectional=True, device=device)
    torch.manual_seed(3)
    its = torch.nn.RNN(3, 4, 2, bidirectional=True, device=device)
    assert_close(mine.state_dict(), its.state_dict(), rtol=0, atol=0)
    mine.reset_parameters()
    its.load_state_dict(mine.state_dict())
    x = torch.randn(5, 2, 3, device=device)
    assert_close(mine(x), its(x))


def test_dropout_between_layers_in_training_alone() -> None:
    mine, its = both(num_layers=3, dropout=0.5)
    x = double(5, 2, 3)
    for training in (True, False):
        found = []
        for module in (mine, its):
            torch.manual_seed(1)
            found.append(module.train(training)(x))
        assert_close(*found)


@each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precisions(dtype: torch.dtype, device: str) -> None:
    layer = nn.RNN(3, 4, device=device, dtype=dtype)
    exact = copy.deepcopy(layer).double()
    x = torch.randn(5, 2, 3, device=device, dtype=dtype)
    output, expected = layer(x)[0], exact(x.double())[0]
    assert output.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps
    assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(output.sum(), list(layer.parameters()))
    for g, right in zip(found, torch.autograd.grad(expected.sum(), list(exact.parameters())), strict=True):
        assert_close(g.double(), right, rtol=tolerance, atol=tolerance * right.abs().max().item())


@each_device
def test_autocast(device: str) -> None:
    """Products are in the lower precision, gradients in that of the parameters."""
    layer, x = nn.RNN(3, 4, nonlinearity="swish", device=device), torch.randn(5, 2, 3, device=device)
    expected = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
    with torch.autocast(device, torch.bfloat16):
        output = layer(x)[0]
    assert output.dtype == torch.bfloat16
    for g, right in zip(torch.autograd.grad(output.sum(), list(layer.parameters())), expected, strict=True):
        assert g.dtype == torch.float32
        assert_close(g, right, rtol=0.1, atol=0.1 * right.abs().max().item())


@each_device
def test_padding_may_hold_anything(device: str) -> None:
    mine, _ = both(device, bidirectional=True)
    x, lengths = double(5, 4, 3, device=device), LENGTHS.to(device)
    ended = (torch.arange(5, device=device).unsqueeze(-1) >= lengths).unsqueeze(-1)
    found = []
    for filler in (0.0, float("nan"), float("inf"), 1e200):
        padded = x.masked_fill(ended, filler).requires_grad_()
        output, last = mine(padded, lengths=lengths)
        assert not output[ended.expand_as(output)].any()
        gradient, *others = torch.autograd.grad([output.sum() + last.sum()], [padded, *mine.parameters()])
        assert not gradient[ended.expand_as(gradient)].any()
        found.append([output, last, gradient, *others])
    for others in found[1:]:
        assert_close(others, found[0], rtol=0, atol=0)


@each_device
def test_any_memory_layout_and_arguments_are_not_changed(device: str) -> None:
    mine, its = both(device)

    def strided(t: Tensor) -> Tensor:
        return torch.stack([t, t], -1)[..., 0]

    def transposed(t: Tensor) -> Tensor:
        return t.transpose(0, 1).contiguous().transpose(0, 1)

    def expanded(t: Tensor) -> Tensor:
        return t[:1, :1].expand_as(t)

    for of_input, of_upstream in itertools.product((strided, transposed, expanded), repeat=2):
        x, upstream = of_input(double(5, 2, 3, device=device)), of_upstream(double(5, 2, 4, device=device))
        kept = x.clone(), upstream.clone()
        found = [
            torch.autograd.grad(module(leaf)[0], [leaf, *module.parameters()], upstream)
            for module in (mine, its)
            for leaf in [x.detach().requires_grad_()]
        ]
        assert_close(*found)
        assert_close((x, upstream), kept, rtol=0, atol=0)


@each_device
def test_gradients_only_where_they_are_asked_for(device: str) -> None:
    """Each gradient alone equals that among all; a retained graph gives them twice."""
    g = ACTIVATIONS["swish"]
    tensors = [double(*s, device=device) for s in ((5, 2, 3), (2, 4), (4, 3), (4, 4), (4,), (4,), (1, 1))]
    leaves = [t.clone().requires_grad_() for t in tensors]
    output = F.elman(*leaves[:6], g, *leaves[6:])[0]
    every = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    assert_close(torch.autograd.grad(output.sum(), leaves), every, rtol=0, atol=0)
    for number, expected in enumerate(every):
        one = [t.clone().requires_grad_(number == i) for i, t in enumerate(tensors)]
        output = F.elman(*one[:6], g, *one[6:])[0]
        # A Function's node in the graph is its backward's ctx.
        with torch.no_grad():
            found = type(output.grad_fn)._forward_cls.backward(output.grad_fn, torch.ones_like(output))
        assert [i for i, each in enumerate(t for t in (*found[:6], *found[7:])) if each is not None] == [number]
        assert_close([t for t in found if t is not None], [expected])


# Features that torch.nn.RNN lacks on a CPU.


@each_device
def test_ensembles_and_per_sample_gradients(device: str) -> None:
    """vmap over parameters, over samples, and over both, compared with a loop over torch.nn.RNN."""
    pairs = [both(device, num_layers=2, bidirectional=True) for _ in range(3)]
    x = double(5, 2, 3, device=device)
    parameters, buffers = stack_module_state([mine for mine, _ in pairs])
    base = pairs[0][0]

    def L(parameters: Any, buffers: Any, x: Tensor) -> Tensor:
        return functional_call(base, (parameters, buffers), (x,))[0].square().sum()

    def of_pytorch(its: torch.nn.RNN, x: Tensor) -> dict[str, Tensor]:
        cost = its(x)[0].square().sum()
        return dict(zip(dict(its.named_parameters()), torch.autograd.grad(cost, list(its.parameters())), strict=True))

    def stacked(gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([each[name] for each in gradients]) for name in gradients[0]}

    of_each = vmap(grad(L), in_dims=(0, 0, None))(parameters, buffers, x)
    assert_close(of_each, stacked([of_pytorch(its, x) for _, its in pairs]))
    own = {name: p.detach() for name, p in base.named_parameters()}
    of_samples = vmap(grad(L), in_dims=(None, None, 1))(own, {}, x)
    assert_close(of_samples, stacked([of_pytorch(pairs[0][1], x[:, b]) for b in range(2)]))


@each_device
@pytest.mark.parametrize("lengths", [None, LENGTHS[:2]], ids=["one length", "lengths"])
def test_compiles_as_one_graph(lengths: Any, device: str) -> None:
    torch.compiler.reset()
    mine, its = both(device, num_layers=2)
    lengths = None if lengths is None else lengths.to(device)
    x = double(5, 2, 3, device=device)
    compiled = torch.compile(mine, backend="aot_eager", fullgraph=True)
    output, expected = compiled(x, lengths=lengths)[0], mine(x, lengths=lengths)[0]
    if lengths is None:
        assert_close(expected, its(x)[0])
    gradients_equal((output,), list(mine.parameters()), (expected,), list(mine.parameters()))


@each_device
def test_forward_mode_in_forward_mode(device: str) -> None:
    mine, its = both(device)
    x = double(3, 2, 3, device=device)

    def of(module: Any) -> Any:
        return lambda s: module(x * s)[0].sum()

    s = torch.tensor(0.7, dtype=torch.float64, device=device)
    expected = jacrev(jacrev(of(lambda x: (by_steps(x, mine),))))(s)
    assert_close(jacfwd(jacfwd(of(mine)))(s), expected)
    assert_close(jacfwd(jacrev(of(mine)))(s), expected)
    assert_close(mine(x), its(x))


# Copying, printing, and bad input.


def test_copies_and_repr() -> None:
    layer = nn.RNN(3, 4, 2, nonlinearity="swish", batch_first=True)
    x = torch.randn(2, 5, 3)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(twin(x), layer(x), rtol=0, atol=0)
    assert repr(layer) == "RNN(3, 4, num_layers=2, nonlinearity=swish, batch_first=True)"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"input": torch.zeros(5, 2, 4)},
            ValueError,
            "input has shape (5, 2, 4), weight_ih (4, 3) and weight_hh (4, 4); they must be",
        ),
        ({"input": torch.zeros(0, 2, 3)}, ValueError, "input has shape (0, 2, 3); it must have at least one step"),
        ({"hx": torch.zeros(3, 4)}, ValueError, "hx has shape (3, 4); here it must be (2, 4)"),
        ({"bias_hh": torch.zeros(3)}, ValueError, "bias_hh has shape (3,); here it must be (4,)"),
        ({"lengths": [1, 6]}, ValueError, "lengths are from 1 to 6; they must be from 1 to 5, the steps of input"),
        ({"lengths": [0, 5]}, ValueError, "lengths are from 0 to 5; they must be"),
        ({"lengths": [5]}, ValueError, "lengths have shape (1,); for this input they must be (2,)"),
        ({"lengths": [1.0, 2.0]}, TypeError, "lengths are torch.float32; they must be integers"),
        ({"weight_hh": torch.zeros(4, 4, dtype=torch.int64)}, TypeError, "weight_hh is torch.int64; it must be of a real"),
        ({"activation": "step"}, ValueError, "activation is 'step'; it must be one of"),
        ({"activation": "swish"}, ValueError, "there are 0 parameters; swish has 1"),
    ],
)
def test_bad_input_of_the_functional(options: dict[str, Any], error: Any, message: str) -> None:
    given = {
        "input": torch.zeros(5, 2, 3),
        "hx": None,
        "weight_ih": torch.zeros(4, 3),
        "weight_hh": torch.zeros(4, 4),
        **options,
    }
    with pytest.raises(error) as caught:
        F.elman(**given)
    assert message in str(caught.value)


def test_bad_input_of_the_module() -> None:
    layer, x = nn.RNN(3, 4), torch.zeros(5, 2, 3)
    with pytest.raises(ValueError, match=r"hx has shape \(2, 4\); it must be \(1, B, 4\)"):
        layer(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="a PackedSequence, which has its own"):
        layer(pack_padded_sequence(x, torch.tensor([5, 3])), lengths=[5, 3])
    wrong = {"nonlinearity": "activation is 'step'", "hidden_size": "hidden_size is 0; it", "dropout": "dropout is 1.5; it"}
    for (name, message), value in zip(wrong.items(), ("step", 0, 1.5), strict=True):
        with pytest.raises(ValueError, match=message):
            nn.RNN(**{"input_size": 3, "hidden_size": 4, name: value})


def test_parameters_of_another_precision() -> None:
    """θ is converted to the precision of the states, in place and under a transform; its gradient has θ's own precision."""
    x, Wi, Wh = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((5, 2, 3), (4, 3), (4, 4)))
    beta = torch.ones(1, 1, requires_grad=True)

    def call(x: Tensor) -> Tensor:
        return F.elman(x, None, Wi, Wh, None, None, "swish", beta)[0]

    for output in (call(x), vmap(call, 1, 1)(x.unsqueeze(2)).squeeze(2)):
        assert output.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(output.float().sum(), beta)
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
