"""Properties of published Functions that the audit must not report as faults, and what it reports instead."""

from typing import Any

import pytest
import torch
from planted_faults import Layer
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from torchbp import functions
from torchbp.verify import Row, audit
from torchbp.verify._audit import CHECKS, name_of

EAGER = {name_of(check) for check in CHECKS} - {"torch compile", "func grad in compile", "torch export"}
# PyTorch's own defect with any Function that has a jvp: forward mode in forward mode (pytorch issue 197867).
NESTED = {"forward over forward", "mixes to order 3"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def told(rows: list[Row]) -> list[str]:
    return [f"{row.status} {row.check} {row.dtype}: {row.detail}" for row in rows if row.check not in NESTED]


class Sign(Function):
    """sign(x) with the derivative of tanh(x); conjugated, like PyTorch's, if x is complex."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sgn()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2).conj()

    @staticmethod
    def jvp(ctx: Any, dx: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return dx * (1 - x.tanh() ** 2)


class SignWrongJvp(Sign):
    @staticmethod
    def jvp(ctx: Any, dx: Tensor) -> Tensor:
        return dx.clone()


def test_derivative_that_is_meant_to_be_another_is_measured_against_the_one_meant() -> None:
    assert "gradient of x: 12 of 12 entries wrong" in audit(Sign, (normal(4, 3),), only={"backward"}).rows[0].detail
    assert told(audit(Sign, (normal(4, 3),), surrogate=torch.tanh, only=EAGER).findings) == []
    result = audit(Sign, (normal(4, 3),), surrogate=torch.sin, only=EAGER)
    assert {"backward", "forward mode", "jacfwd"} <= {row.check for row in result.failures}


def test_consistency_alone_is_audited_where_no_other_derivative_is_named() -> None:
    result = audit(Sign, (normal(4, 3),), surrogate="consistency", only=EAGER)
    assert told(result.findings) == []
    assert next(row.status for row in result.rows if row.check == "backward") == "skipped"
    result = audit(SignWrongJvp, (normal(4, 3),), surrogate="consistency", only=EAGER)
    assert {"forward mode", "jacfwd"} <= {row.check for row in result.failures}


def test_surrogate_that_compilers_drop_is_lost() -> None:
    result = audit(Sign, (normal(4, 3),), surrogate=torch.tanh, only={"func grad in compile", "torch export"})
    assert {row.status for row in result.rows} == {"wrong"}
    assert all(row.detail.startswith("lost: ") for row in result.rows)


def test_dtypes_are_skipped_where_float64_comes_along_that_is_no_argument() -> None:
    weight, layer = normal(2, 3, seed=1), torch.nn.Linear(3, 2, dtype=torch.float64)

    def closure(x: Tensor) -> Tensor:
        return F.linear(x, weight)

    for function, name in ((closure, "weight"), (lambda x: layer(x).tanh(), "layer")):
        result = audit(function, (normal(4, 3),), only={"precision", "autocast", "meta", "backward"})
        assert told(result.findings) == []
        assert {row.check for row in result.with_status("skipped")} == {"precision", "autocast", "meta"}
        assert all(f"({name})" in row.detail for row in result.with_status("skipped"))


def test_parameters_of_a_module_are_inputs() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).double()
    result = audit(module, (normal(4, 3),), only=EAGER)
    assert told([row for row in result.rows if row.status not in ("passed", "skipped")]) == []
    assert {row.check for row in result.rows if row.status == "skipped"} == {"reference"}

    class Faulty(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(normal(2, 3).detach())
            self.bias = torch.nn.Parameter(normal(2).detach())

        def forward(self, x: Tensor) -> Tensor:
            return functions.call_of(MissingBias)(x, self.weight, self.bias)

    class MissingBias(Layer):
        @staticmethod
        def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
            dx, dW, db = Layer.backward(ctx, da)
            return dx, dW, None if db is None else torch.zeros_like(db)

    (row,) = audit(Faulty(), (normal(4, 3),), only={"backward"}).failures
    assert row.detail.startswith("gradient of bias: 2 of 2 entries wrong")


class Stochastic(Sign):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * torch.rand_like(g)


def test_what_is_not_deterministic_is_told_and_nothing_else_is_tried() -> None:
    (row,) = (row for row in audit(Stochastic, (normal(4, 3),)).rows if row.status != "passed")
    assert row.detail.startswith("not deterministic: the gradient of x differs between two calls")
    result = audit(lambda x: F.dropout(x), (normal(9),))
    assert [row.check for row in result.rows if row.status == "error"] == ["deterministic"]
    assert len(result.rows) == 2


def test_float32_output_is_told_and_nothing_else_is_tried() -> None:
    result = audit(lambda x: x.float().sin(), (normal(4, 3),))
    assert told(result.findings) == [
        "wrong output dtype float64: output 0 of float64 inputs is torch.float32: it has too few digits for any other check"
    ]
    assert len(result.rows) == 2


class TangentOverwritten(Sign):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g

    @staticmethod
    def jvp(ctx: Any, dx: Tensor) -> Tensor:
        return dx.mul_(2)


def test_jvp_may_write_into_its_tangent() -> None:
    assert told(audit(TangentOverwritten, (normal(4, 3),), only={"forward mode"}).findings) == []


class HardSigmoid(Sign):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x / 6 + 0.5).clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() < 3, g / 6, torch.zeros_like(g))


def test_rounding_of_pytorch_is_no_fault() -> None:
    x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (sixth,) = torch.autograd.grad(F.hardsigmoid(x), x)
    assert sixth.item() != 1 / 6  # it has float32's precision
    assert told(audit(HardSigmoid, (normal(4, 3),), reference=F.hardsigmoid, only={"backward", "reference"}).findings) == []


class Iterated(Sign):
    """x³ to nine digits; a second backward gives other digits."""

    calls = 0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * 3 * x**2 * (1 + 1e-8 * (g.is_contiguous() and 1))


def test_difference_is_shown_where_the_digits_are_the_same_and_can_be_tolerated() -> None:
    only = {"noncontiguous upstream"}
    (row,) = audit(Iterated, (normal(4, 3),), only=only).failures
    assert "(off by " in row.detail
    assert audit(Iterated, (normal(4, 3),), only=only, tolerance=1e-6).passed


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: {"y": x.sin()}, "the function returns a dict; it must return a tensor or a tuple: audit a callable"),
        (lambda x: [x.sin()], "the function returns a list; it must return a tensor or a tuple"),
        (lambda x: x.sin().to_sparse(), r"output 0 is sparse \(sparse_coo\); it must be dense: audit a callable that returns"),
    ],
)
def test_outputs_that_cannot_be_audited_are_refused_in_a_sentence(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audit(function, (normal(3, 2),))


def test_surrogate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate is 'consistent'; it must be a callable or 'consistency'"):
        audit(torch.sin, (normal(3),), surrogate="consistent")  # type: ignore[arg-type]
