"""Whose backward runs: in each setting torchbp's own is made wrong, which has to show; and what modules may go through."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from torchbp import functional as F
from torchbp import functions as fn
from torchbp import nn

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own, whenever torch.compile meets an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

each_device = pytest.mark.parametrize("device", DEVICES)
# The functions of one node; the whole network's Function has tests of its own.
SINGLE = [name for name in F.__all__ if name != "network_cost"]
HALVES = [torch.bfloat16, torch.float16]

Tensors = Sequence[Tensor]
Call = Callable[..., Tensor]


def gradients(output: Tensor, tensors: Tensors) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad(output, tensors, torch.randn_like(output))


def every(tensors: Tensors) -> tuple[int, ...]:
    return tuple(range(len(tensors)))


def autograd(call: Call, tensors: Tensors) -> Tensors:
    return gradients(call(*tensors), tensors)


def retained_graph(call: Call, tensors: Tensors) -> Tensors:
    output = call(*tensors)
    torch.autograd.grad(output.sum(), tensors, retain_graph=True)
    return gradients(output, tensors)


def batched_gradients(call: Call, tensors: Tensors) -> Tensors:
    output = call(*tensors)
    return torch.autograd.grad(output, tensors, torch.stack([output.cos(), output.sin()]).detach(), is_grads_batched=True)


def func_grad(call: Call, tensors: Tensors) -> Tensors:
    return torch.func.grad(lambda *t: call(*t).sum(), every(tensors))(*tensors)


def jacrev(call: Call, tensors: Tensors) -> Tensors:
    return torch.func.jacrev(call, every(tensors))(*tensors)


def forward_over_reverse(call: Call, tensors: Tensors) -> Tensors:
    first, *_ = torch.func.hessian(lambda *t: call(*t).sum(), every(tensors))(*tensors)
    return first


def gradients_through_vmap(call: Call, tensors: Tensors) -> Tensors:
    batches = [torch.stack([t, t.flip(0)]).detach().requires_grad_() for t in tensors]
    return gradients(torch.func.vmap(call)(*batches), batches)


def gradients_inside_vmap(call: Call, tensors: Tensors) -> Tensors:
    batches = [torch.stack([t, t.flip(0)]).detach() for t in tensors]
    return torch.func.vmap(torch.func.grad(lambda *t: call(*t).sum(), every(tensors)))(*batches)


def recomputed(call: Call, tensors: Tensors) -> Tensors:
    return gradients(checkpoint(call, *tensors, use_reentrant=False), tensors)


def autocast(call: Call, tensors: Tensors) -> Tensors:
    with torch.autocast(tensors[0].device.type, torch.bfloat16):
        return gradients(call(*tensors), tensors)


def scaled_loss(call: Call, tensors: Tensors) -> Tensors:
    leaves = [t.detach().float().requires_grad_() for t in tensors]
    scaler = torch.amp.GradScaler(tensors[0].device.type)
    scaler.scale(call(*leaves).sum()).backward()
    scaler.unscale_(torch.optim.SGD(leaves, lr=1.0))
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def compiled(call: Call, tensors: Tensors) -> Tensors:
    torch.compiler.reset()
    return gradients(torch.compile(call, backend="aot_eager", fullgraph=True)(*tensors), tensors)


SETTINGS = [
    autograd,
    retained_graph,
    batched_gradients,
    func_grad,
    jacrev,
    forward_over_reverse,
    gradients_through_vmap,
    gradients_inside_vmap,
    recomputed,
    autocast,
    scaled_loss,
    compiled,
]


@each_device
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.__name__)
@pytest.mark.parametrize("name", SINGLE)
def test_wrong_backward_shows(name: str, setting: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = getattr(F, name)
    shapes = [(3, 4), (5, 4), (5,)] if "linear" in name else [(3, 4), (3, 4)]
    tensors = [(torch.rand(shape, device=device, dtype=torch.float64) * 0.9 + 0.05).requires_grad_() for shape in shapes]
    right = [t.clone() for t in setting(call, tensors)]
    for each in fn.__all__:
        function = getattr(fn, each)
        if isinstance(function, type) and "backward" in vars(function):
            monkeypatch.setattr(function, "backward", staticmethod(doubled(function.backward)))
    assert any(t.any() for t in right)
    assert_close(list(setting(call, tensors)), [2 * t for t in right])


@each_device
@pytest.mark.parametrize("cost", [F.mse_loss, F.binary_cross_entropy_with_logits], ids=lambda cost: cost.__name__)
def test_func_grad_of_a_chain_inside_compile(cost: Any, device: str) -> None:
    """PyTorch differentiates forward there; it must not lose the arguments that come in after the first layer."""
    torch.compiler.reset()
    shapes = [(5, 3), (5, 2), (4, 3), (4,), (2, 4), (2,)]
    tensors = [torch.rand(shape, device=device, dtype=torch.float64) for shape in shapes]

    def grad(x: Tensor, y: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Any:
        def L(*t: Tensor) -> Tensor:
            x, y, W1, b1, W2, b2 = t
            return cost(F.linear(F.sigmoid_linear(x, W1, b1), W2, b2), y)

        return torch.func.grad(L, tuple(range(6)))(x, y, W1, b1, W2, b2)

    assert_close(torch.compile(grad, backend="aot_eager", fullgraph=True)(*tensors), grad(*tensors))


def doubled(backward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ctx, upstream: tuple(None if g is None else 2 * g for g in backward(ctx, upstream))


MODULES = [
    nn.Linear(4, 3),
    nn.SigmoidLinear(4, 3, bias=False),
    nn.BPNetwork([4, 5, 3]),
    nn.MSELoss("sum"),
    nn.BCELoss("none"),
    nn.BCEWithLogitsLoss(),
    nn.CrossEntropyLoss("sum"),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_copied_and_pickled_module_has_the_same_gradients(module: torch.nn.Module) -> None:
    inputs = [torch.rand(2, 4) for _ in range(1 if list(module.parameters()) else 2)]
    results = []
    for same in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        tensors = [t.clone().requires_grad_() for t in inputs]
        results.append(gradients(same(*tensors), [*tensors, *same.parameters()]))
        assert repr(same) == repr(module)
    assert_close(results[1], results[0], rtol=0, atol=0)
    assert_close(results[2], results[0], rtol=0, atol=0)


@each_device
def test_parameters_shared_between_layers(device: str) -> None:
    """One layer used twice, and one weight in two layers: gradients add up as with torch.nn, in copies as well."""
    layer, last = (nn.SigmoidLinear(4, 4, device=device, dtype=torch.float64) for _ in range(2))
    last.weight = layer.weight
    shared = torch.nn.Sequential(layer, layer, last)
    reference_layer, reference_last = (torch.nn.Linear(4, 4, device=device, dtype=torch.float64) for _ in range(2))
    reference_last.weight = reference_layer.weight
    sigmoid = torch.nn.Sigmoid()
    reference = torch.nn.Sequential(reference_layer, sigmoid, reference_layer, sigmoid, reference_last, sigmoid)
    reference_layer.load_state_dict(layer.state_dict())
    reference_last.load_state_dict(last.state_dict())
    assert len(list(shared.parameters())) == len(list(reference.parameters())) == 3
    x = torch.randn(5, 4, device=device, dtype=torch.float64, requires_grad=True)
    expected = gradients(reference(x), [x, *reference.parameters()])
    for same in (shared, copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert same[0].weight is same[2].weight
        assert_close(gradients(same(x), [x, *same.parameters()]), expected)


@each_device
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("loss", ["MSELoss", "BCEWithLogitsLoss"])
def test_training_under_autocast_has_the_dtypes_of_torch_nn(loss: str, dtype: torch.dtype, device: str) -> None:
    net = nn.BPNetwork([4, 5, 3], output="linear", device=device)
    reference = torch.nn.Sequential(
        torch.nn.Linear(4, 5, device=device), torch.nn.Sigmoid(), torch.nn.Linear(5, 3, device=device)
    )
    reference.load_state_dict(dict(zip(reference.state_dict(), net.state_dict().values(), strict=True)))
    x, y = torch.randn(8, 4, device=device), torch.rand(8, 3, device=device)
    results = []
    for model, package in ((net, nn), (reference, torch.nn)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with torch.autocast(device, dtype):
            output = model(x)
            L = getattr(package, loss)()(output, y)
        L.backward()
        optimizer.step()
        results.append([output, L, *(p.grad for p in model.parameters()), *model.parameters()])
    # assert_close compares the types too.
    assert_close(*results, rtol=0.02, atol=0.02)
    assert [t.dtype for t in results[0]] == [dtype, *[torch.float32] * 9]


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("name", SINGLE)
def test_complex_input_is_refused(name: str, position: int) -> None:
    shapes = [(3, 4), (5, 4)] if "linear" in name else [(3, 4), (3, 4)]
    tensors = [torch.rand(shape) for shape in shapes]
    tensors[position] = tensors[position].to(torch.complex64)
    argument = (("input", "weight") if "linear" in name else ("input", "target"))[position]
    with pytest.raises(TypeError, match=f"^{argument} is torch.complex64; it must be of a real floating-point type$"):
        getattr(F, name)(*tensors)
