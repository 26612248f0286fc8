"""Checks in each setting that torchbp's own backward or jvp runs: if it is made wrong, the result must be wrong."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from torchbp import functional as F
from torchbp import functions as fn

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own warning, whenever torch.compile traces an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

each_device = pytest.mark.parametrize("device", DEVICES)
# The single Functions; the whole network's Function has its own tests.
SINGLE = [name for name in F.__all__ if name not in ("activated_linear", "network_cost", "sigmoid_linear")]

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


def autocast_to_bfloat16(call: Call, tensors: Tensors) -> Tensors:
    with torch.autocast(tensors[0].device.type, torch.bfloat16):
        return gradients(call(*tensors), tensors)


def autocast_to_float16(call: Call, tensors: Tensors) -> Tensors:
    leaves = [t.detach().float().requires_grad_() for t in tensors]
    with torch.autocast(tensors[0].device.type, torch.float16):
        return gradients(call(*leaves), leaves)


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
    autocast_to_bfloat16,
    autocast_to_float16,
    scaled_loss,
    compiled,
]


def tangents(call: Call, tensors: Tensors) -> Tensors:
    with forward_ad.dual_level():
        return [forward_ad.unpack_dual(call(*(forward_ad.make_dual(t, t.detach().cos()) for t in tensors))).tangent]


def func_jvp(call: Call, tensors: Tensors) -> Tensors:
    return [torch.func.jvp(call, tuple(tensors), tuple(t.detach().cos() for t in tensors))[1]]


def jacfwd(call: Call, tensors: Tensors) -> Tensors:
    return torch.func.jacfwd(call, every(tensors))(*tensors)


def reverse_over_forward(call: Call, tensors: Tensors) -> Tensors:
    return torch.func.jacrev(torch.func.jacfwd(call, every(tensors)), every(tensors))(*tensors)[0]


FORWARD_SETTINGS = [tangents, func_jvp, jacfwd, reverse_over_forward]
each_single = pytest.mark.parametrize("name", SINGLE)


def make_wrong(method: str, wrong: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each Function's backward, or jvp, return ``wrong`` of each of its tensors."""

    def changed(right: Callable[..., Any]) -> staticmethod:
        def call(ctx: Any, *args: Any) -> Any:
            got = right(ctx, *args)
            return wrong(got) if isinstance(got, Tensor) else tuple(None if g is None else wrong(g) for g in got)

        return staticmethod(call)

    for function in (*fn.BPFunction.__subclasses__(), fn.NetworkCost):
        if method in vars(function):
            monkeypatch.setattr(function, method, changed(getattr(function, method)))


def elman(input: Tensor, weight_ih: Tensor, weight_hh: Tensor) -> Tensor:
    return F.elman(input, None, weight_ih, weight_hh)[0]


def arguments(name: str, device: str) -> tuple[Call, list[Tensor]]:
    shapes = {"linear": [(3, 4), (5, 4), (5,)], "activate": [(3, 4)], "elman": [(3, 2, 4), (5, 4), (5, 5)]}
    tensors = [
        torch.rand(shape, device=device, dtype=torch.float64) * 0.9 + 0.05 for shape in shapes.get(name, [(3, 4), (3, 4)])
    ]
    calls: dict[str, Call] = {"activate": partial(F.activate, activation="sigmoid"), "elman": elman}
    call = calls.get(name, getattr(F, name))
    return call, [t.requires_grad_() for t in tensors]


@each_device
@pytest.mark.parametrize("setting", SETTINGS + FORWARD_SETTINGS, ids=lambda setting: setting.__name__)
@each_single
def test_wrong_derivative_shows(name: str, setting: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, tensors = arguments(name, device)
    right = [t.detach().clone() for t in setting(call, tensors)]
    make_wrong("jvp" if setting in FORWARD_SETTINGS else "backward", lambda g: 2 * g, monkeypatch)
    assert_close([t.detach() for t in setting(call, tensors)], [2 * t for t in right])
    assert any(t.any() for t in right)


GRADCHECKS: dict[str, tuple[str, Callable[..., Any], Any]] = {
    "gradcheck": ("backward", gradcheck, {}),
    "gradcheck, forward mode": ("jvp", gradcheck, {"check_forward_ad": True}),
    "gradgradcheck": ("backward", gradgradcheck, {}),
    "gradgradcheck, forward over reverse": (
        "backward",
        gradgradcheck,
        {"check_fwd_over_rev": True, "check_rev_over_rev": False, "check_undefined_grad": False},
    ),
}


@each_device
@pytest.mark.parametrize("check", GRADCHECKS)
@each_single
def test_wrong_derivative_fails_gradcheck(name: str, check: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, tensors = arguments(name, device)
    method, test, options = GRADCHECKS[check]
    options = options | {"nondet_tol": 0.0 if device == "cpu" else 1e-12}
    assert test(call, tensors, **options)
    # Doubling makes the first derivative wrong; detaching the first makes the second wrong.
    make_wrong(method, (lambda g: 2 * g) if test is gradcheck else Tensor.detach, monkeypatch)
    with pytest.raises(GradcheckError):
        test(call, tensors, **options)


@each_device
@pytest.mark.parametrize("kind", ["meta", "fake"])
@each_single
def test_wrong_shape_shows_without_values(name: str, kind: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, tensors = arguments(name, device)
    with FakeTensorMode(allow_non_fake_inputs=False) if kind == "fake" else nullcontext() as mode:
        without = [mode.from_tensor(t) if mode else torch.empty_like(t, device="meta", requires_grad=True) for t in tensors]
        for t, real, gradient in zip(without, tensors, torch.autograd.grad(call(*without).sum(), without), strict=True):
            assert (gradient.shape, gradient.dtype, gradient.device) == (real.shape, real.dtype, t.device)
        make_wrong("backward", lambda g: g[:1], monkeypatch)
        with pytest.raises(RuntimeError, match="returned an invalid gradient at index 0"):
            torch.autograd.grad(call(*without).sum(), without)


@each_device
@pytest.mark.parametrize("cost", [F.mse_loss, F.binary_cross_entropy_with_logits], ids=lambda cost: cost.__name__)
def test_func_grad_of_a_chain_inside_compile(cost: Any, device: str) -> None:
    """PyTorch differentiates forward there; it must not lose the arguments of later layers."""
    torch.compiler.reset()
    shapes = [(5, 3), (5, 2), (4, 3), (4,), (2, 4), (2,)]
    tensors = [torch.rand(shape, device=device, dtype=torch.float64) for shape in shapes]

    def grad(x: Tensor, y: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Any:
        def L(*t: Tensor) -> Tensor:
            x, y, W1, b1, W2, b2 = t
            return cost(F.linear(F.sigmoid_linear(x, W1, b1), W2, b2), y)

        return torch.func.grad(L, tuple(range(6)))(x, y, W1, b1, W2, b2)

    assert_close(torch.compile(grad, backend="aot_eager", fullgraph=True)(*tensors), grad(*tensors))


@each_device
@each_single
def test_complex_input_is_refused(name: str, device: str) -> None:
    call, tensors = arguments(name, device)
    names = {"linear": ("input", "weight"), "activate": ("input",), "elman": ("input", "weight_ih", "weight_hh")}
    for position, argument in enumerate(names.get(name, ("input", "target"))):
        given = [t.to(torch.complex128) if i == position else t for i, t in enumerate(tensors)]
        with pytest.raises(TypeError, match=f"^{argument} is torch.complex128; it must be of a real floating-point type$"):
            call(*given)
