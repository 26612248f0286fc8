"""Audits of correct Functions, and of Functions with a right first derivative only; docs/what_passes.md has their tables."""

from collections.abc import Callable
from typing import Any

import correct_functions as correct
import naive_functions
import pytest
import torch
from devices import DEVICES
from table_of_checks import TABLES, cells, columns_of_page, function_of
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchbp import functional, functions, verify
from torchbp.verify import Row, audit

# In these, PyTorch differentiates forward itself.
BYPASSED = {"func grad in compile", "torch export"}
# PyTorch's own defect with any Function that has a jvp: forward mode in forward mode (pytorch issue 197867).
NESTED = {"forward over forward", "mixes to order 3"}
NAIVE = [sample.name for sample in verify.own_functionals(naive_functions)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same random numbers in every test, whatever was drawn before."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def checks(rows: list[Row]) -> set[str]:
    return {row.check for row in rows}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("function", "inputs", "reference"),
    [
        (correct.Linear, (normal(4, 3), normal(2, 3, seed=1)), F.linear),
        (correct.Sigmoid, (normal(4, 3),), torch.sigmoid),
        (correct.SiLU, (normal(4, 3),), F.silu),
        (correct.SquaredError, (normal(4, 3), normal(4, 3, seed=1)), F.mse_loss),
        (correct.SoftmaxCrossEntropy, (normal(4, 3), torch.tensor([0, 2, 1, 1])), F.cross_entropy),
        (correct.Normalize, (normal(4, 3),), lambda x: (F.layer_norm(x, x.shape[-1:]), x.mean(-1))),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_correct_function_passes(
    device: str, function: type[Function], inputs: tuple[Any, ...], reference: Callable[..., Any]
) -> None:
    result = audit(functions.call_of(function), inputs, devices=device, reference=reference)
    assert [f"{row.check} {row.dtype}: {row.detail}" for row in result.findings if row.check not in NESTED] == []
    assert checks(result.with_status("bypassed")) == BYPASSED
    assert checks(result.with_status("skipped")) <= {"expanded upstream", "noncontiguous upstream"}


def row_softmax(x: Tensor) -> Tensor:
    return F.softmax(x, -1)


def row_log_softmax(x: Tensor) -> Tensor:
    return F.log_softmax(x, -1)


def row_layer_norm(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], W, b)


def halves(x: Tensor) -> tuple[Tensor, ...]:
    return x.chunk(2, -1)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward mode; in 2.14 different lengths corrupt memory
        return F.scaled_dot_product_attention(query, key, value)


# Defects of PyTorch 2.13: layer_norm's derivative of second order in forward mode (pytorch issue 196700) and of
# third order in reverse, that of mse_loss's mean, which raises "ZeroTensors are immutable", and the third derivative of
# cosine_similarity, which overwrites what it needs.
DEFECTS: dict[Any, set[str]] = {
    row_layer_norm: {"hessian", "backward over forward", "reverse to order 3"},
    F.mse_loss: {"forward over backward"},
    F.cosine_similarity: {"mixes to order 3"},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("operation", "inputs"),
    [
        (F.linear, (normal(4, 3), normal(2, 3, seed=1), normal(2, seed=2))),
        (torch.matmul, (normal(3, 3), normal(3, 3, seed=1))),
        (F.conv1d, (normal(2, 3, 4), normal(2, 3, 2, seed=1), normal(2, seed=2))),
        (F.embedding, (torch.tensor([0, 2, 1, 2]), normal(4, 3))),
        (torch.sigmoid, (normal(4, 3),)),
        (torch.tanh, (normal(4, 3),)),
        (F.relu, (normal(4, 3),)),
        (F.gelu, (normal(4, 3),)),
        (F.prelu, (normal(4, 3), normal(1, seed=1))),
        (row_softmax, (normal(4, 3),)),
        (row_log_softmax, (normal(4, 3),)),
        (row_layer_norm, (normal(4, 3), normal(3, seed=1), normal(3, seed=2))),
        (F.normalize, (normal(4, 3),)),
        (halves, (normal(3, 4),)),
        (attention, (normal(2, 3, 2), normal(2, 3, 2, seed=1), normal(2, 3, 2, seed=2))),
        (F.mse_loss, (normal(4, 3), normal(4, 3, seed=1))),
        (F.smooth_l1_loss, (normal(4, 3), normal(4, 3, seed=1))),
        (F.binary_cross_entropy, (normal(4, 3).sigmoid().detach().requires_grad_(), normal(4, 3, seed=1).sigmoid().detach())),
        (F.binary_cross_entropy_with_logits, (normal(4, 3), normal(4, 3, seed=1).sigmoid().detach().requires_grad_())),
        (F.cross_entropy, (normal(4, 3), torch.tensor([0, 2, 1, 1]))),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_wrapped_operation_of_pytorch_passes(operation: Callable[..., Any], inputs: tuple[Any, ...], device: str) -> None:
    result = audit(functions.call_of(correct.wrapped(operation)), inputs, devices=device, reference=operation)
    failures = [f"{row.check} {row.dtype}: {row.detail}" for row in result.findings]
    assert [failure for failure in failures if failure.split(" float64")[0] not in NESTED | DEFECTS.get(operation, set())] == []
    assert checks(result.with_status("bypassed")) == BYPASSED
    assert checks(result.with_status("skipped")) <= {"expanded upstream", "noncontiguous upstream"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [sample.name for sample in verify.own_functionals()])
def test_own_functional_passes(device: str, name: str) -> None:
    (result,) = verify.gradcheck([device], name)
    assert [f"{row.check} {row.dtype}: {row.detail}" for row in result.findings] == []
    assert checks(result.with_status("bypassed")) == BYPASSED
    skipped = checks(result.with_status("skipped"))  # some samples of network_cost are scalars, which have no strides
    assert skipped <= ({"expanded upstream", "noncontiguous upstream"} if name.startswith("network_cost") else set())
    assert {row.device for row in result.rows} == {device}
    if device == "cpu":
        column = columns_of_page("torchbp")[function_of(name)]
        tried = {check: sign for check, sign in cells(result.to_json()).items() if check not in skipped}
        assert {check: column[check] for check in tried} == tried, "out of date: make tables"
        assert column.keys() - skipped == tried.keys()


def test_every_public_functional_is_audited() -> None:
    names = list(dict.fromkeys(function_of(sample.name) for sample in verify.own_functionals()))
    assert set(names) == set(functional.__all__)
    assert [list(columns_of_page(table)) for table in TABLES] == [names, NAIVE]


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (F.bilinear, (normal(4, 3), normal(4, 2, seed=1), normal(2, 3, 2, seed=2), normal(2, seed=3))),
        (F.cosine_similarity, (normal(4, 3), normal(4, 3, seed=1))),
        (F.embedding, (torch.tensor([0, 2, 1]), normal(4, 2))),
        (torch.tanh, (normal(2, 2),)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_function_of_pytorch_passes_and_is_never_bypassed(function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    result = audit(function, inputs)
    allowed = DEFECTS.get(function, set())
    assert [f"{row.check} {row.dtype}: {row.detail}" for row in result.findings if row.check not in allowed] == []
    assert not result.with_status("bypassed")


@pytest.mark.parametrize("name", NAIVE)
def test_naive_function_fails_with_a_line_for_each_thing_it_lacks(name: str) -> None:
    (result,) = verify.gradcheck(["cpu"], name, module="naive_functions")
    assert columns_of_page("naive")[name] == cells(result.to_json()), "out of date: make tables"
    lacking = {
        "needs input grad": ("wasteful", "computed although its needs_input_grad is False"),
        "saved tensors hooks": ("wasteful", "saved_tensors_hooks and save_on_cpu cannot see it"),
        "forward mode": ("unsupported", "You must implement the jvp function"),
        "vmap": ("unsupported", "it must override the setup_context staticmethod"),
        "nested vmap": ("unsupported", "it must override the setup_context staticmethod"),
        "per sample gradients": ("unsupported", "it must override the setup_context staticmethod"),
        "torch func grad": ("unsupported", "it must override the setup_context staticmethod"),
    }
    if name in ("linear", "sigmoid_linear"):
        lacking |= {
            "overwritten input": ("wrong", "gradient of weight, input overwritten before backward"),
            "autocast": ("wrong", "output 0 under autocast to torch.bfloat16 is torch.float32, expected torch.bfloat16"),
            "complex inputs": ("wrong", "complex: raise an error"),
        }
    else:
        lacking["empty batch"] = ("error", "ZeroDivisionError")
    if name == "sigmoid_linear":
        lacking["memory released"] = ("wasteful", "is not freed")
    if name == "mse_loss":
        lacking["gradient penalty"] = ("wrong", "gradient penalty, which silently vanishes, by input")
    for check, (status, finding) in lacking.items():
        assert any(finding in row.detail for row in result.with_status(status) if row.check == check)
    assert not {"backward", "reference", "repeated backward", "torch compile"} & checks(result.findings)
    assert all(len(row.detail.splitlines()) == 1 for row in result.findings if "Error" in row.detail)
