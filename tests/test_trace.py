"""The trace beside numbers worked out by hand, beside torch.nn, and beside a run's own first step; and how it reads."""

import copy
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import test_worked_example as by_hand
import torch
from devices import DEVICES
from markdown_it import MarkdownIt
from matplotlib.mathtext import MathTextParser
from torch.testing import assert_close
from training_runs import CONFIGS

from torchbp import equations as eq
from torchbp.cli import main
from torchbp.nn import BPNetwork
from torchbp.trace import trace

XOR = ["trace", "--config", str(CONFIGS / "xor.yaml")]


def test_numbers_worked_out_by_hand() -> None:
    traced = trace(by_hand.network(), by_hand.tensor(by_hand.X), by_hand.tensor(by_hand.Y), lr=by_hand.LR)
    values = {step.symbol: step.value for step in traced.steps}
    for symbol in ("Z1", "A1", "Z2", "A2", "L", "dZ2", "dW2", "db2", "dZ1", "dW1", "db1"):
        by_hand.same(values[symbol], getattr(by_hand, symbol.upper()))
    for symbol in ("W1", "b1", "W2", "b2"):
        by_hand.same(traced.given[symbol], getattr(by_hand, symbol))
        by_hand.same(values[symbol], getattr(by_hand, f"{symbol.upper()}_AFTER"))
    numbers = " ".join(step.number for step in traced.steps)
    assert numbers == "2.1 2.2 2.3 2.4 3.1b 3.1c 3.2a 3.2b 3.2c 3.2d 3.2d 3.2e 3.2f 3.2f 3.2g 3.2g 3.2g 3.2g"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("sizes", "output", "cost"),
    [
        ([3, 2], "sigmoid", "cross_entropy"),
        ([3, 4, 4, 2], "sigmoid", "cross_entropy"),
        ([3, 4, 1], "sigmoid", "squared_error"),
        ([3, 4, 2], "linear", "squared_error"),
    ],
)
def test_update_is_that_of_torch_nn(sizes: list[int], output: Any, cost: Any, device: str) -> None:
    net = BPNetwork(sizes, output, "normal", device=device)
    before = copy.deepcopy(net.state_dict())
    x, y = torch.randn(5, sizes[0], device=device), torch.rand(5, sizes[-1], device=device)
    traced = trace(net, x, y, cost, lr=0.3)
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert max(step.difference for step in traced.steps) < 1e-14

    layers = [torch.nn.Linear(*pair, device=device, dtype=torch.float64) for pair in pairwise(sizes)]
    modules = [module for layer in layers for module in (layer, torch.nn.Sigmoid())]
    reference = torch.nn.Sequential(*(modules[:-1] if output == "linear" else modules))
    reference.load_state_dict(dict(zip(reference.state_dict(), before.values(), strict=True)))
    loss = torch.nn.BCELoss() if cost == "cross_entropy" else torch.nn.MSELoss()
    loss(reference(x.double()), y.double()).backward()
    torch.optim.SGD(reference.parameters(), lr=0.3).step()
    after = [step.value for step in traced.steps if step.number == "3.2g"]
    assert_close(after, [parameter.detach() for parameter in reference.parameters()])
    assert [step.symbol for step in traced.steps if step.number == "3.2g"] == [s for s in traced.given if s not in "XY"]


def test_wrong_equation_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eq, "hidden_error", lambda dz, W, a: eq.activation_gradient(dz, W) * a)
    steps = trace(BPNetwork([3, 4, 1]), torch.randn(2, 3), torch.rand(2, 1)).steps
    assert {step.symbol for step in steps if step.difference > 1e-6} == {"dZ1", "dW1", "db1", "W1", "b1"}


def test_saturated_network_agrees_too() -> None:
    net = BPNetwork([2, 2, 1], "sigmoid", "normal")
    x, y = torch.tensor([[1e4, -1e4]]), torch.tensor([[1.0]])
    for target in (y, 1 - y):
        assert max(step.difference for step in trace(net, x, target).steps) < 1e-12


@pytest.mark.parametrize(
    ("x", "y", "cost", "output", "message"),
    [
        (
            (1, 3),
            (1, 1),
            "cross_entropy",
            "sigmoid",
            r"x has shape \(1, 3\) and y \(1, 1\); they must be \(B, 2\) and",
        ),
        ((0, 2), (0, 1), "cross_entropy", "sigmoid", r"x has shape \(0, 2\)"),
        ((1, 2), (1, 1), "hinge", "sigmoid", "cost is 'hinge'; it must be 'cross_entropy' or 'squared_error'"),
        ((1, 2), (1, 1), "cross_entropy", "linear", "for a network with linear outputs it must be 'squared_error'"),
    ],
)
def test_what_cannot_be_traced_is_said(x: Any, y: Any, cost: Any, output: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(BPNetwork([2, 1], output), torch.zeros(x), torch.zeros(y), cost)


def test_report_has_every_equation_and_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--x", "-1.5,2; 0,1", "--y", "1; 0", "--hidden_sizes", "[4, 3]", "--lr", "0.25"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    assert "network 2-4-3-1, cross-entropy, α = 0.25, 2 samples" in output
    for number in ("2.1", "2.2", "2.3", "2.4", "3.1b", "3.1c", "3.2a", "3.2b", "3.2c", "3.2d", "3.2e", "3.2f", "3.2g"):
        assert f"\n{number} " in output
    assert "dZ1 = (dZ2 W2) * A1(1 - A1)" in output
    assert "-1.500000  2.000000" in output
    # W3 before the step and after it, from the same numbers as the trace itself.
    torch.manual_seed(0)
    net = BPNetwork([2, 4, 3, 1], dtype=torch.float64)
    steps = trace(net, torch.tensor([[-1.5, 2], [0, 1]]), torch.tensor([[1.0], [0]]), lr=0.25).steps
    (step,) = (step for step in steps if step.symbol == "W3")
    line = output.splitlines()[output.splitlines().index(next(s for s in output.splitlines() if "W3 ← W3 - α dW3" in s)) + 1]
    numbers = [float(number) for number in line.split()[:6]]
    assert numbers == pytest.approx([*net.layers[-1].weight[0].tolist(), *step.value[0].tolist()], abs=1e-6)


def test_large_network_is_told_by_norms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--config", str(CONFIGS / "digits.yaml"), "--samples", "16"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    assert len(output.splitlines()) < 80
    (line,) = (line for line in output.splitlines() if "dW1 = dZ1ᵀ X" in line)
    assert line.split()[-2:] == ["(64,", "64)"]
    assert "The first 16 samples of the first batch of digits, standardised" in " ".join(output.split())
    assert output.count("norm ") > 20


def test_trace_of_a_configuration_is_the_first_step_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchbp.trace._config import from_config

    monkeypatch.chdir(tmp_path)
    traced, _, _ = from_config([*XOR[1:], "--samples", "4"])
    assert main(["fit", *XOR[1:], "--trainer.max_epochs", "1"]) == 0
    capsys.readouterr()
    state = torch.load("logs/xor/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    after = {step.symbol: step.value for step in traced.steps if step.before is not None}
    for symbol, key in (("W1", "0.weight"), ("b1", "0.bias"), ("W2", "1.weight"), ("b2", "1.bias")):
        assert not torch.equal(traced.given[symbol], after[symbol])
        assert_close(state[f"network.layers.{key}"].double(), after[symbol], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", ["0,1", "0,1; 1,1"])
def test_markdown_keeps_its_formulas(samples: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = "1; 0" if ";" in samples else "1"
    arguments = ["trace", "--x", samples, "--y", targets, "--hidden_sizes", "[11, 3]", "--lr", "1e-5"]
    assert main([*arguments, "--markdown", "-"]) == 0
    document = capsys.readouterr().out
    assert main([*arguments, "--markdown", str(tmp_path / "trace.md")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "trace.md").read_text(encoding="utf-8") == document

    # What a Markdown reader takes each cell for: plain text, nothing of it turned into emphasis or swallowed.
    cells = [token for token in MarkdownIt("commonmark").enable("table").parse(document) if token.type == "inline"]
    formulas = [cell.content for cell in cells if cell.content.startswith("$")]
    assert len(formulas) > 60
    for cell in cells:
        assert "".join(child.content for child in cell.children or [] if child.type == "text") == cell.content
    for formula in formulas:
        assert formula.count("$") == 2
        assert formula.count("{") == formula.count("}")
        # Every letter of the plain notation has become LaTeX, and LaTeX that can be set; matrices entry by entry.
        assert formula.isascii()
        entries = re.split(r"&|\\cr", re.sub(r"\\(begin|end){pmatrix}", "", formula.strip("$")))
        assert all(MathTextParser("path").parse(f"${entry.strip()}$").width > 0 for entry in entries)
    assert r"$\frac{\partial L}{\partial W_2} = \left(\frac{\partial L}{\partial Z_2}\right)^\top A_1$" in formulas
    assert r"$A_3 = g(Z_3) = \frac{1}{1 + e^{-Z_3}}$" in formulas
    assert ("| norm " in document) == (";" in samples or "(11, 2)" in document)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --x, --y"),
        (["--x", "1,2"], "the following arguments are required: --y"),
        (["--x", "1,two", "--y", "1"], "x is '1,two'; it must be numbers such as 0,1, or '0,1; 1,1' for several samples"),
        (["--x", "1,2; 3", "--y", "1; 0"], "x is '1,2; 3'; it must be numbers"),
        (["--x", "1,nan", "--y", "1"], "x is '1,nan'; its numbers must be finite"),
        (["--x", "1,2", "--y", "1; 0"], "x has shape (1, 2) and y (2, 1)"),
        (["--x", "1,2", "--y", "-2"], "y reaches from -2 to -2; for cross-entropy it must lie in [0, 1]"),
        (
            ["--x", "1,2", "--y", "1", "--hidden_sizes", "[2.5]"],
            "hidden_sizes is '[2.5]'; it must be integers such as '[3, 2]'",
        ),
        (["--x", "1,2", "--y", "1", "--hidden_sizes", "[0]"], "layer_sizes is [2, 0, 1]"),
        (["--x", "1,2", "--y", "1", "--lr", "nan"], "lr is nan; it must be a positive number"),
        (["--x", "1,2", "--y", "1", "--lr", "-1"], "lr is -1; it must be a positive number"),
        (["--x", "1,2", "--y", "1", "--output", "linear"], "it must be 'squared_error'"),
        (["--x", "1,2", "--y", "1", "--markdown", "nowhere/trace.md"], "nowhere/trace.md"),
        (["--config", "none.yaml"], "File does not exist"),
        ([*XOR[1:], "--samples", "5"], "samples is 5; the first batch has 4"),
        ([*XOR[1:], "--x", "0,1"], "unrecognized arguments: --x 0,1"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", *arguments]) in (1, 2)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err


def test_sample_needs_no_lightning() -> None:
    code = (
        "import sys; from torchbp.cli import main; assert main(['trace', '--x', '0,1', '--y', '1']) == 0; "
        "assert not {'lightning', 'sklearn', 'jsonargparse', 'torchmetrics'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
