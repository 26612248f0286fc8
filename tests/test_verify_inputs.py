"""The audit's arguments: functions and inputs as objects or import paths, and errors for those it cannot audit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from torchbp import verify
from torchbp.verify import audit


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same random numbers in every test, whatever was drawn before."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_function_of_an_import_path_is_audited_with_given_shapes() -> None:
    (result,) = verify.gradcheck(["cpu"], "planted_faults:WrongSign", "4,3 2,3 2")
    assert result.function == "planted_faults:WrongSign"
    assert any("gradient of x: " in row.detail for row in result.failures)
    (result,) = verify.gradcheck(
        ["cpu"], "torch.nn.functional:silu", "test_verify_inputs:one_input", "torch.nn.functional:silu"
    )
    assert result.passed
    assert not result.with_status("skipped")


def one_input() -> Tensor:
    return normal(3, 2)


def in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


def a_dict() -> dict[str, Tensor]:
    return {"x": normal(3, 2)}


def no_inputs() -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": "mse"}, r"function is 'mse'; it must be package.module:Function, or one of \d+ such as mse_loss"),
        ({"function": "foo"}, r"or one of \d+ such as linear, activate-sigmoid, activate-tanh$"),
        ({"function": "no_such_module:F", "inputs": "2"}, "'no_such_module' cannot be imported: No module named"),
        ({"function": "planted_faults:Nothing", "inputs": "2"}, "'planted_faults:Nothing' cannot be imported: module"),
        ({"function": "planted_faults:WrongSing", "inputs": "2"}, "has no attribute 'WrongSing'; did you mean 'WrongSign'"),
        ({"function": "planted_faults:__name__", "inputs": "2"}, "'planted_faults:__name__' is str; it must be callable"),
        ({"function": "planted_faults:Layer"}, "planted_faults:Layer needs inputs: shapes such as '4,3 2,3 2'"),
        ({"function": "planted_faults:Layer", "inputs": "4,x"}, "inputs is '4,x'; it must be shapes such as '4,3 2,3 2'"),
        ({"function": "planted_faults:Layer", "inputs": "4,3 2,2 2"}, r"cannot be called with \(4, 3\) torch.float64, "),
        (
            {"function": "planted_faults:Layer", "inputs": "0,3 2,3 2"},
            r"x has shape \(0, 3\); an input that requires grad must",
        ),
        (
            {"function": "planted_faults:Layer", "inputs": "test_verify_inputs:a_dict"},
            "'test_verify_inputs:a_dict' returns dict; it must return a tensor, or a tuple of all inputs",
        ),
        ({"function": "planted_faults:Layer", "inputs": "test_verify_inputs:no_inputs"}, "cannot be called: KeyError: 'x'"),
        ({"inputs": "4,3"}, "inputs, reference and surrogate need a function of your own, package.module:Function"),
        (
            {"function": "mse_loss", "reference": "torch.nn.functional:mse_loss"},
            "inputs, reference and surrogate need a function of",
        ),
        (
            {"function": "test_verify_inputs:in_place", "inputs": "3"},
            "in-place operation; if it works in place, audit a callable that passes it a copy",
        ),
        (
            {"function": "torch:sin", "inputs": "784,100"},
            "inputs have 78400 entries to differentiate by; they may have at most 10000: ",
        ),
        (
            {"function": "torch:log", "inputs": "3"},
            "output 0 has NaN or infinity; inputs must lie where the function is finite",
        ),
        ({"module": "planted_faults"}, "planted_faults has none of activate, activated_linear, "),
        ({"function": "mse_loss", "devices": ["cuda:99"]}, "device is 'cuda:99', which is not there: "),
    ],
)
def test_what_cannot_be_audited_is_said_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        list(verify.gradcheck(**arguments))
    assert len(str(raised.value).splitlines()) == 1


def test_module_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written.py").write_text("class Function(torch.autograd.Function):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^'half_written' cannot be imported: NameError: name 'torch' is not defined$"):
        list(verify.gradcheck(function="half_written:Function", inputs="2"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.ones(2, dtype=torch.float64),), "no input requires grad; at least one float64 tensor must"),
        ((torch.ones(2, requires_grad=True),), "input is torch.float32; an input that requires grad must be torch.float64"),
    ],
)
def test_inputs_that_cannot_be_differentiated_are_named(inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audit(F.silu, inputs)
