import io
import json
import re
import subprocess
import sys
from functools import cache
from typing import Any

import planted_faults as faults
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from torchbp import functions, verify
from torchbp.verify import Result, Row, audit
from torchbp.verify._subject import SEED, batch_positions, subject_of
from torchbp.verify.pytest import audited

# In these, PyTorch differentiates forward itself.
BYPASSED = {"func grad in compile", "torch export"}
# PyTorch's own defect with any Function that has a jvp: forward mode in forward mode (pytorch issue 197867).
NESTED = {"forward over forward", "mixes to order 3"}
SECOND_DERIVATIVES = {"double backward", "gradient penalty"}
# For a layer whose saved output is differentiated through the faulty backward again; if PyTorch bypasses that, it is lost.
WRONG_GRADIENT = {"backward", "reference", "backward over forward", *SECOND_DERIVATIVES, *BYPASSED}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same random numbers in every test, whatever was drawn before."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def sigmoid_linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return torch.sigmoid(F.linear(x, W, b))


@cache
def audit_of_layer(function: type[Function], *only: str) -> Result:
    """The weight is square, so that shapes do not reveal a fault."""
    call = functions.call_of(function)

    def layer(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return call(x, W, b)

    return audit(
        layer,
        (normal(4, 3), normal(3, 3, seed=1), normal(3, seed=2)),
        reference=sigmoid_linear,
        name=function.__name__,
        only=only or None,
    )


def checks(rows: list[Row]) -> set[str]:
    return {row.check for row in rows}


def detail(result: Result, check: str) -> str:
    return next(row.detail for row in result.findings if row.check == check)


@pytest.mark.parametrize(
    ("fault", "check", "finding", "failing_too"),
    [
        (faults.WrongSign, "backward", "gradient of x: 12 of 12 entries wrong: ", WRONG_GRADIENT),
        (faults.MissingTranspose, "backward", "gradient of W: 6 of 9 entries wrong: ", WRONG_GRADIENT),
        (faults.MissingBiasSum, "gradient shapes", "gradient of b: backward returns shape (4, 3), the input's is (3,)", set()),
        (faults.ForgottenNeedsInputGrad, "needs input grad", "gradient of x: computed although its needs_input_grad", set()),
        (
            faults.SavedTensorChanged,
            "tensors unchanged",
            "output 0 after backward: 12 of 12 entries wrong: ",
            # Checks that run backward twice, and batches, which cannot be written into one saved tensor.
            {"repeated backward", "two threads", *SECOND_DERIVATIVES, "batched gradients", "jacrev", "hessian"},
        ),
        (
            faults.NotTwiceDifferentiable,
            "double backward",
            "second derivative by x: 12 of 12 entries wrong: ",
            {"gradient penalty", "forward over backward", "hessian"},
        ),
        (faults.WrongJvp, "forward mode", "output 0, along W: ", {"forward over backward", "jacfwd", "hessian"}),
        (faults.WrongVmap, "vmap", "output 0, vmap over W (in_dim 0): 24 of 36 entries wrong: ", set()),
        (faults.MismatchUnderAutocast, "autocast", "same dtype, but got: c10::BFloat16 != float", set()),
        (faults.DtypeLostUnderAutocast, "autocast", "output 0 under autocast to torch.bfloat16 is torch.float32", set()),
        (faults.StaleForExpanded, "expanded upstream", "gradient of x, upstream expanded along all dimensions: ", set()),
        (
            faults.PenaltyVanishes,
            "gradient penalty",
            "gradient penalty, which silently vanishes, by W: 9 of 9 entries wrong: ",
            {"double backward", "reverse to order 3", "precision of double backward"},
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_fault_of_a_layer_is_found_where_it_is(fault: type[Function], check: str, finding: str, failing_too: set[str]) -> None:
    result = audit_of_layer(fault)
    assert finding in detail(result, check)
    assert checks(result.findings) - NESTED == {check, *failing_too}
    assert checks(result.with_status("bypassed")) == BYPASSED - failing_too


@pytest.mark.parametrize(
    ("fault", "check", "finding"),
    [
        (faults.UpstreamTakenForContiguous, "noncontiguous upstream", "gradient of x, upstream transposed: "),
        (faults.InputTakenForContiguous, "noncontiguous inputs", "output 0, x transposed: "),
        (faults.NoGradientUnexpected, "undefined upstream", "TypeError: unsupported operand type(s) for *: 'NoneType'"),
        (faults.SavedTensorsReadTwice, "checkpoint", "make sure to do so only once"),
        (faults.DigitsLost, "precision", "output 0: "),
        (faults.DigitsLostInBackward, "gradient shapes", "gradient of W: backward returns torch.float32, the input is torch.f"),
        (faults.UpstreamClipped, "loss scaling", "gradient of x: "),
        (faults.ValueRead, "meta", "Tensor.item() cannot be called on meta tensors"),
        (faults.ValueRead, "fake", "aten._local_scalar_dense.default"),
        (faults.JvpNotDifferentiable, "backward over forward", "gradient of W: 9 of 9 entries wrong: "),
    ],
)
def test_other_fault_is_found(fault: type[Function], check: str, finding: str) -> None:
    result = audit_of_layer(fault, "backward", check)
    assert finding in detail(result, check)
    assert checks(result.findings) == {check}


def test_complex_gradient_that_is_not_conjugated_is_found() -> None:
    positive = [torch.linspace(0.5, 2, 3, dtype=torch.float64).roll(k).requires_grad_() for k in range(3)]
    result = audit(faults.NotConjugated, positive, only={"backward", "complex inputs"})
    assert checks(result.findings) == {"complex inputs"}
    assert "gradient of z, complex: raise an error, or conjugate as PyTorch does: " in detail(result, "complex inputs")


def test_gradient_that_pytorch_loses_where_it_bypasses_backward_is_found() -> None:
    result = audit(faults.ForwardDetached, (normal(3),), only={"backward", *BYPASSED})
    assert checks(result.findings) == BYPASSED
    for check in BYPASSED:
        assert re.match("lost: .* gradient of x: 3 of 3 entries wrong: ", detail(result, check))


def test_missing_gradient_is_reported_in_autograds_words() -> None:
    details = {row.detail for row in audit_of_layer(faults.TooFewGradients, "backward", "gradient shapes").failures}
    expected = "returned an incorrect number of gradients (expected 3, got 2)"
    assert details == {f"RuntimeError: function TooFewGradientsBackward {expected}"}


def by_class(z: Tensor, classes: Tensor) -> Tensor:
    """Also runs with fewer classes than rows; the batch is still that of both inputs."""
    return -F.log_softmax(z, -1).gather(-1, classes.unsqueeze(-1)).mean()


@pytest.mark.parametrize(
    ("function", "inputs", "batch"),
    [
        (by_class, (normal(4, 3), torch.tensor([0, 2, 1, 1])), [0, 1]),
        (F.embedding, (torch.tensor([0, 2, 1, 3]), normal(4, 2)), [0]),
        (F.linear, (normal(3, 3), normal(3, 3, seed=1), normal(3, seed=2)), [0]),
        (F.linear, (normal(1, 3), normal(2, 3, seed=1)), [0]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_batch_is_told_from_inputs_of_its_length(function: Any, inputs: tuple[Any, ...], batch: list[int]) -> None:
    assert batch_positions(subject_of(function, inputs, None, "cpu")) == batch
    result = audit(function, inputs, only={"per sample gradients", "torch export"})
    assert [row.detail for row in result.rows if row.status != "passed"] == []


def sum_over(x: Tensor, dims: list[int], weight: float) -> Tensor:
    return weight * x.square().sum(dims)


def test_arguments_that_are_no_tensors_are_constants() -> None:
    result = audit(sum_over, (normal(2, 3, 2), [0, 2], 2.5), reference=sum_over)
    assert [f"{row.check} {row.dtype}: {row.detail}" for row in result.rows if row.status not in ("passed", "skipped")] == []


def only_first(x: Tensor, y: Tensor) -> Tensor:
    return x.sin()


def test_input_that_no_output_depends_on_has_a_gradient_of_zero() -> None:
    result = audit(only_first, (normal(3), normal(2)), reference=only_first)
    assert [f"{row.check} {row.dtype}: {row.detail}" for row in result.findings] == []


def by_length(x: Tensor) -> Tensor:
    return x.sin() / len(x)


def test_explanation_of_torch_export_is_part_of_the_report() -> None:
    result = audit(by_length, (normal(4, 3),), only={"torch export"})
    assert "your code specialized it to be a constant (4)" in detail(result, "torch export")
    assert len(detail(result, "torch export").splitlines()) == 1


def test_gradient_computed_in_forward_is_wrong_without_reduction() -> None:
    call = functions.call_of(faults.GradientInForward)
    assert audit(call, (normal(4, 3), "sum"), only={"backward"}).passed
    result = audit(lambda x: call(x, "none"), (normal(4, 3),))
    assert checks(result.findings) - NESTED == {"backward", *BYPASSED}
    assert "gradient of x: 12 of 12 entries wrong: " in detail(result, "backward")


def test_detail_names_the_worst_entries_and_their_values() -> None:
    x, W, b = normal(4, 3), normal(3, 3, seed=1), normal(3, seed=2)
    result = audit(functions.call_of(faults.WrongSign), (x, W, b), only={"backward"})
    upstream = torch.randn(4, 3, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    (expected,) = torch.autograd.grad(sigmoid_linear(x, W, b), x, upstream)
    row, column = divmod(int(expected.abs().argmax()), 3)
    value = expected[row, column].item()
    assert f"[{row}, {column}] expected {value:.6g}, got {-value:.6g}" in detail(result, "backward")


def test_refused_second_derivative_is_told_from_a_wrong_one() -> None:
    result = audit_of_layer(faults.PenaltyVanishes)
    assert "trying to differentiate twice a function that was marked with @once_differentiable" in detail(
        result, "double backward"
    )
    assert "vanishes" not in detail(audit_of_layer(faults.NotTwiceDifferentiable), "gradient penalty")


def test_bypassed_backward_whose_gradients_are_others_is_lost() -> None:
    result = audit_of_layer(faults.WrongSign)
    assert {row.detail.partition(":")[0] for row in result.rows if row.check in BYPASSED} == {"lost"}
    result = audit_of_layer(faults.Layer)
    assert not result.findings
    assert checks(result.with_status("bypassed")) == BYPASSED


def test_audit_leaves_function_generator_and_inputs_alone() -> None:
    x, W, b = normal(2, 3), normal(2, 3, seed=1), normal(2, seed=2)
    backward = faults.Layer.__dict__["backward"]
    values, state = [t.clone() for t in (x, W, b)], torch.get_rng_state()
    audit(faults.Layer, (x, W, b), only={"backward", "needs input grad", "double backward", "vmap", "torch func grad"})
    assert faults.Layer.__dict__["backward"] is backward
    assert "backward" not in functions.BPFunction.__dict__
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, value) and t.grad is None for t, value in zip((x, W, b), values, strict=True))


def test_results_as_json_and_as_tables_of_100_columns() -> None:
    results = [audit_of_layer(faults.WrongSign), audit_of_layer(faults.MismatchUnderAutocast)]
    rows = json.loads(json.dumps([row for result in results for row in result.to_json()], allow_nan=False))
    assert {row["function"] for row in rows} == {"WrongSign", "MismatchUnderAutocast"}
    (backward,) = (row for row in rows if row["check"] == "backward" and row["status"] == "wrong")
    assert backward["device"] == "cpu"
    assert backward["dtype"] == "float64"
    assert backward["absolute_error"] > 0.1
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(results[0].table(), verify.summary(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "wrong backward" in words
    assert "gradient of x: 12 of 12 entries wrong: [" in words
    assert "error MismatchUnderAutocast: autocast bfloat16: RuntimeError: expected m1 and m2" in words


def test_torchbp_does_not_import_the_audit() -> None:
    code = "import sys, torchbp; assert 'torchbp.verify' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="only has 'bakcward', which is no check; did you mean 'backward'"):
        audit(torch.tanh, (normal(2),), only={"backward", "bakcward"})
    with pytest.raises(ValueError, match="only has 'bakcward'"):
        audited("2", only=["bakcward"])
