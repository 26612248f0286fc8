"""The trace, compared with numbers worked by hand, torch.nn, and a run's first step; and its layout."""

import copy
import json
import math
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
from torchbp.activations import ACTIVATIONS
from torchbp.cli import main
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS
from torchbp.trace import trace
from torchbp.trace._formula import named, plain

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


NETWORKS = [
    *((["sigmoid", name], [3, 4, 2, 2], output.name, output.cost) for output in OUTPUTS.values() for name in ["tanh"]),
    *(([name, name], [3, 4, 2, 2], "sigmoid", "cross_entropy") for name in ACTIVATIONS),
]


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize(("activation", "sizes", "output", "cost"), NETWORKS)
def test_every_activation_and_output_beside_autograd(
    activation: list[str], sizes: list[int], output: str, cost: str, per_unit: bool
) -> None:
    net = BPNetwork(sizes, output, activation=activation, per_unit=per_unit, dtype=torch.float64)
    x, y = torch.randn(5, sizes[0]), torch.rand(5, sizes[-1])
    steps = trace(net, x, y, cost, lr=0.3).steps
    assert max(step.difference for step in steps) < 1e-13
    # An update for every parameter, each from a recorded nonzero gradient.
    updated = {step.symbol: step for step in steps if step.section == "descent"}
    assert len(updated) == len(list(net.parameters()))
    gradients = {step.symbol: step.value for step in steps if step.section == "backward"}
    for symbol, step in updated.items():
        assert step.before is not None
        assert_close(step.value, step.before - 0.3 * gradients[f"d{symbol}"])
        assert gradients[f"d{symbol}"].count_nonzero()


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "unknown"])
def test_formulas_of_an_activation_are_what_is_shown_and_computed(name: str) -> None:
    """Each formula, evaluated as Python, gives the value beside it."""
    net = BPNetwork([2, 3, 1], activation=name, dtype=torch.float64)
    steps = {step.symbol: step for step in trace(net, torch.randn(4, 2), torch.rand(4, 1)).steps}
    names = {symbol: step.value for symbol, step in steps.items()} | {
        s: steps[s].before for s in steps if steps[s].before is not None
    }
    shown = steps["A1"].formula.partition(" = ")[2]
    assert_close(read_back(shown, names), steps["A1"].value)
    slope = steps["dZ1"].formula.partition(" * ")[2]
    da = names.get("dA1", names["dZ2"] @ names["W2"])
    assert_close((da * read_back(slope, names)), steps["dZ1"].value)


@pytest.mark.parametrize(
    "formula",
    [
        "z - (a - b)",
        "z - (a + b)*z",
        "-(z - a)*b",
        "z / (a*b)",
        "z / (a/b)",
        "(z/a)*b",
        "(z - a)**2 / -b",
        "2*3*z**3*(a + (b - z))",
        "exp(-z*(a - b))",
        "exp(z - a)*b",
        "(-z)**2",
        "b*log(a)*z",
        "log(a*b)",
        "sqrt(a + b)*z",
        "-exp(-z)",
        "Piecewise((z*b, z > 2), (-a, Abs(z) <= 1), (a**2, True))",
    ],
)
def test_brackets_stand_where_a_formula_needs_them(formula: str) -> None:
    formula = named(formula, {"z": "Z1", "a": "A1", "b": "B1"})
    names = {"Z1": torch.tensor(1.3), "A1": torch.tensor(0.7), "B1": torch.tensor(2.1)}
    functions = {"exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "Abs": abs}

    def piecewise(*pieces: tuple[Any, Any]) -> Any:
        return next(value for value, holds in pieces if holds)

    wanted = eval(formula, functions | {"Piecewise": piecewise} | names)
    assert_close(read_back(plain(formula), names), wanted)


def read_back(text: str, names: dict[str, Any]) -> torch.Tensor:
    """The value of a displayed formula, with juxtaposed factors, superscripts and roots translated to Python."""
    if text.endswith(" else)"):
        *pieces, (otherwise,) = (piece.split(" if ") for piece in text[1:].removesuffix(" else)").split("; "))
        value = read_back(otherwise, names)
        for piece, condition in reversed(pieces):
            value = torch.where(read_back(condition, names), read_back(piece, names), value)
        return value
    text = text.replace("[", "(").replace("]", ")").replace("²", "**2").replace("³", "**3").replace("·", "*")
    text = re.sub(r"\|([^|]+)\|", r"abs(\1)", text).replace("≤", "<=").replace("≥", ">=")
    text = re.sub(r"(√|ln )(\w+)", r"\1(\2)", text).replace("ln (", "ln(")
    text = re.sub(r"e\^(-?\w+)", r"exp(\1)", text).replace("e^(", "exp(")
    # A space or an opening bracket between two factors is a product.
    text = re.sub(r"(?<=[\w)]) (?=[\w(√])", "*", text)
    text = re.sub(r"(?<![a-z√])(?<=[\w)])\(", "*(", text).replace("√", "sqrt")
    functions = {"exp": torch.exp, "ln": torch.log, "erf": torch.erf, "tanh": torch.tanh, "π": math.pi}
    functions |= {"sqrt": lambda v: v**0.5}
    for name, choose in {"max": torch.maximum, "min": torch.minimum}.items():
        functions[name] = lambda *both, choose=choose: choose(*(torch.as_tensor(t, dtype=torch.float64) for t in both))
    return torch.as_tensor(eval(text, functions | names))


def test_wrong_equation_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eq, "hidden_error", lambda da, slope, out=None: da + slope)
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
        ((1, 2), (1, 1), "hinge", "sigmoid", "cost is 'hinge'; for a network with sigmoid outputs it must be 'cross_entropy'"),
        ((1, 2), (1, 1), "cross_entropy", "linear", "for a network with linear outputs it must be 'squared_error'"),
    ],
)
def test_what_cannot_be_traced_is_refused(x: Any, y: Any, cost: Any, output: Any, message: str) -> None:
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
    # W3 before and after the step, from the trace's own numbers.
    torch.manual_seed(0)
    net = BPNetwork([2, 4, 3, 1], dtype=torch.float64)
    steps = trace(net, torch.tensor([[-1.5, 2], [0, 1]]), torch.tensor([[1.0], [0]]), lr=0.25).steps
    (step,) = (step for step in steps if step.symbol == "W3")
    line = output.splitlines()[output.splitlines().index(next(s for s in output.splitlines() if "W3 ← W3 - α dW3" in s)) + 1]
    numbers = [float(number) for number in line.split()[:6]]
    assert numbers == pytest.approx([*net.layers[-1].weight[0].tolist(), *step.value[0].tolist()], abs=1e-6)


def test_large_network_is_shown_by_norms(capsys: pytest.CaptureFixture[str]) -> None:
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
    traced, *_ = from_config([*XOR[1:], "--samples", "4"])
    assert main(["fit", *XOR[1:], "--trainer.max_epochs", "1"]) == 0
    capsys.readouterr()
    state = torch.load("logs/xor/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    after = {step.symbol: step.value for step in traced.steps if step.before is not None}
    for symbol, key in (("W1", "0.weight"), ("b1", "0.bias"), ("W2", "1.weight"), ("b2", "1.bias")):
        assert not torch.equal(traced.given[symbol], after[symbol])
        assert_close(state[f"network.layers.{key}"].double(), after[symbol], rtol=1e-5, atol=1e-6)
    of_run, *_ = from_config(["--config", "logs/xor/version_0/config.yaml", "--samples", "4"])
    assert of_run.record() == traced.record()


EVERY_ACTIVATION = ["--activation", f"[{', '.join(ACTIVATIONS)}]", "--hidden_sizes", f"[11{', 3' * (len(ACTIVATIONS) - 1)}]"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--x", "0,1", "--y", "1", "--hidden_sizes", "[11, 3]"],
        ["--x", "0,1; 1,1", "--y", "1; 0", "--hidden_sizes", "[11, 3]"],
        ["--x", "0,1", "--y", "1", "--cost", "squared_error", *EVERY_ACTIVATION],
        ["--x", "0,1; 1,1", "--y", "0,1; 1,0", "--output", "softmax", *EVERY_ACTIVATION],
    ],
)
def test_markdown_keeps_its_formulas(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trace", *arguments, "--lr", "1e-5"]
    assert main([*arguments, "--markdown", "-"]) == 0
    document = capsys.readouterr().out
    assert main([*arguments, "--markdown", str(tmp_path / "trace.md")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "trace.md").read_text(encoding="utf-8") == document

    # A Markdown reader sees each cell as plain text: no emphasis, nothing dropped.
    cells = [token for token in MarkdownIt("commonmark").enable("table").parse(document) if token.type == "inline"]
    formulas = [cell.content for cell in cells if cell.content.startswith("$")]
    assert len(formulas) > 60
    for cell in cells:
        assert "".join(child.content for child in cell.children or [] if child.type == "text") == cell.content
    for formula in set(formulas):
        assert formula.count("$") == 2
        assert formula.count("{") == formula.count("}")
        # All plain notation has become valid LaTeX; matrices entry by entry.
        assert formula.isascii()
        entries = re.split(r"&|\\cr", re.sub(r"\\(begin|end){pmatrix}", "", formula.strip("$")))
        set_as_text = [entry for entry in map(str.strip, entries) if not re.fullmatch(r"-?[\d.]+", entry)]
        assert all(MathTextParser("path").parse(f"${entry}$").width > 0 for entry in set_as_text)
    assert r"$\frac{\partial L}{\partial W_2} = \left(\frac{\partial L}{\partial Z_2}\right)^\top A_1$" in formulas
    assert r"$A_1 = g(Z_1) = \frac{1}{1 + e^{-Z_1}}$" in formulas
    assert "| norm " in document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --x, --y"),
        (["--x", "1,2"], "the following arguments are required: --y"),
        (["--x", "1,two", "--y", "1"], "x is '1,two'; it must be numbers such as 0,1, or '0,1; 1,1' for several samples"),
        (["--x", "1,2; 3", "--y", "1; 0"], "x is '1,2; 3'; it must be numbers"),
        (["--x", "1,nan", "--y", "1"], "x is '1,nan'; its numbers must be finite"),
        (["--x", "1,2", "--y", "1; 0"], "x has shape (1, 2) and y (2, 1)"),
        (
            ["--x", "1,2", "--y", "-2"],
            "y reaches from -2 to -2; for sigmoid outputs with cost cross_entropy it must lie in [0, 1]",
        ),
        (
            ["--x", "1,2", "--y", "1", "--hidden_sizes", "[2.5]"],
            "hidden_sizes is '[2.5]'; it must be integers such as '[3, 2]'",
        ),
        (["--x", "1,2", "--y", "1", "--hidden_sizes", "[0]"], "layer_sizes is [2, 0, 1]"),
        (["--x", "1,2", "--y", "1", "--lr", "nan"], "lr is nan; it must be a positive number"),
        (["--x", "1,2", "--y", "1", "--lr", "-1"], "lr is -1; it must be a positive number"),
        (
            ["--x", "1,2", "--y", "1", "--output", "linear", "--cost", "cross_entropy"],
            "for a network with linear outputs it must be 'squared_error'",
        ),
        (["--x", "1,2", "--y", "1", "--activation", "step"], "activation is 'step'; it must be one of sigmoid, tanh, "),
        (["--x", "1,2", "--y", "1", "--activation", "[tanh, relu]"], "it must be one for all, or a list of 1, one a layer"),
        (["--x", "1,2", "--y", "1", "--weights", "none.yaml"], "the weights file none.yaml does not exist"),
        (["--x", "1,2", "--y", "1", "--weights", "none.yaml", "--hidden_sizes", "3"], "leave it out, the sizes follow"),
        (["--x", "1,2", "--y", "1", "--seed", "-1"], "seed is -1; it must be from 0 to 4294967295"),
        (["--x", "1,2", "--y", "1", "--markdown", "nowhere/trace.md"], "nowhere/trace.md"),
        (["--config", "none.yaml"], "File does not exist"),
        ([*XOR[1:], "--samples", "5"], "samples is 5; the first batch has 4"),
        (
            [*XOR[1:], "--model.networks", "3", "--model.engine", "fused"],
            "networks is 3; only a single network can be traced: give --model.networks null",
        ),
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


WEIGHTS = {
    "W1": [[1, -2], ["1e-1", 0.5], [0, 3]],
    "b1": [0.1, 0, -0.1],
    "beta1": 0.5,
    "theta1": [1, 2, 3],
    "W2": [[1, 2, 3]],
    "b2": 0,
}
GIVEN = ["trace", "--x", "1,2", "--y", "1", "--activation", "scaled_sigmoid", "--json", "--weights"]


@pytest.mark.parametrize("name", ["weights.json", "weights.yaml"])
def test_weights_of_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text(json.dumps(WEIGHTS))
    assert main([*GIVEN, str(tmp_path / name)]) == 0
    traced = json.loads(capsys.readouterr().out)
    assert traced["given"]["β1"] == [[0.5]]
    assert traced["given"]["θ1"] == [[1, 2, 3]]
    assert traced["given"]["b2"] == [0]
    (a1,) = (step["value"] for step in traced["steps"] if step["symbol"] == "A1")
    z1 = [1 - 4 + 0.1, 0.1 + 1, 6 - 0.1]
    assert a1 == [pytest.approx([1 / (1 + math.exp(-0.5 * (z - theta))) for z, theta in zip(z1, [1, 2, 3], strict=True)])]
    numbers = [step["number"] for step in traced["steps"] if step["symbol"] in ("dβ1", "dθ1", "β1", "θ1")]
    assert numbers == ["4.1", "4.1", "3.2g", "3.2g"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W1": None}, "W1 in weights.json is None; it must be a row of numbers for each unit, such as [[0.1, 0.2]]"),
        ({"W1": [[1, 2], [3]]}, "W1 in weights.json is [[1, 2], [3]]; it must be a row of numbers for each unit"),
        ({"W1": [[1, True]]}, "W1 in weights.json has True; it must have finite numbers"),
        ({"W1": [[1, "two"]]}, "W1 in weights.json has 'two'; it must have finite numbers"),
        ({"W1": [[1, 10**400]]}, "it must have finite numbers"),
        ({"W2": [[1, 2]]}, "W2 in weights.json has shape (1, 2); it must be (1, 3), for layer 1 has 3 units"),
        ({"b1": [1, 2]}, "b1 in weights.json is [1, 2]; it must be a number for all 3 units, or a list of 3, one for each"),
        ({"beta1": [1, 2]}, "beta1 in weights.json is [1, 2]; it must be a number for all 3 units"),
        ({"W4": [[1]]}, "weights.json has no W3; it must hold W1, b1, W2, ... of every layer"),
        ({"gamma1": 1}, "weights.json has gamma1; it may hold W1, b1, ... to W2, b2, and beta1, theta1"),
        ({"W1": [[1, 2, 3]] * 3}, "x has shape (1, 2) and y (1, 1); they must be (B, 3) and (B, 1)"),
        ([1], "the weights file weights.json is [1]; it must be names and values"),
        ("{", "the weights file weights.json is no JSON"),
    ],
)
def test_bad_weights_are_refused_in_one_line(
    change: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = {**WEIGHTS, **change} if isinstance(change, dict) else change
    Path("weights.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    assert main([*GIVEN, "weights.json"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err


def test_networks_side_by_side_are_refused() -> None:
    with pytest.raises(ValueError, match="networks is 3; only one network can be traced"):
        trace(BPNetwork([2, 1], networks=3), torch.zeros(1, 2), torch.zeros(1, 1))


def test_own_activation_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = """import torch
from torchbp.activations import Activation

cube = Activation("cube", "z**3", "3*z**2", lambda z, out=None: torch.pow(z, 3, out=out), lambda z: 3 * z * z, lambda z: z**3)
"""
    (tmp_path / "activations_of_mine.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "--x", "0.5,1", "--y", "1", "--activation", "activations_of_mine:cube"]) == 0
    output = capsys.readouterr().out
    assert "network 2-2-1 (cube), cross-entropy" in output
    assert "A1 = g(Z1) = Z1³ " in output
    assert "dZ1 = (dZ2 W2) * 3 Z1² " in output
