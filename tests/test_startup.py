"""How the command starts: what it imports, what it defers and can still use later, and an interrupt during imports."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import CONFIGS

from torchbp.cli import OPTIONS, TRAINING, main

HEAVY = {"torch", "numpy", "lightning", "torchmetrics", "jsonargparse", "sklearn", "polars", "rich"}
SELDOM = {"torch._dynamo", "torch.onnx", "triton", "scipy.signal", "matplotlib", "sklearn", "pandas", "sympy", "polars"}
TABLE = "a,kind\n" + "1.5,yes\n2.5,no\n" * 20

# Runs each snippet right after a training run of the command, and prints which succeeded.
FIRST_USES = """
import os, sys
from torchbp.cli import main

assert main(["fit", "--config", sys.argv[1], "--trainer.max_epochs", "2", "--model.lr", "auto"]) == 0
from torchbp._deferred import Deferred

print({name for name in SELDOM if name in sys.modules and not isinstance(sys.modules[name], Deferred)})
for snippet in SNIPPETS:
    sys.stdout.flush()
    if not os.fork():
        exec(snippet)
        os._exit(0)
    print(os.wait()[1] == 0)
"""

SNIPPETS = {
    "torch.compile": """
import torch
from lightning.pytorch.utilities.compile import to_uncompiled
from torch import nn
network = nn.Linear(3, 2)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
frames = []
def backend(graph, inputs):
    frames.append(graph)
    return graph.forward
@torch.compile(backend=backend)
def step(x):
    optimizer.zero_grad()
    network(x).sum().backward()
    optimizer.step()
before = network.weight.detach().clone()
step(torch.ones(4, 3))
assert torch.allclose(before - 0.4, network.weight) and frames
from lightning.fabric.wrappers import _unwrap_compiled
compiled = torch.compile(network, backend="eager")
assert type(compiled) is torch._dynamo.OptimizedModule and _unwrap_compiled(compiled)[0] is network
assert _unwrap_compiled(network)[0] is network
""",
    "a Function of torchbp's, compiled": """
import torch
from torchbp import functional as F
x, W = torch.randn(4, 3), torch.randn(2, 3, requires_grad=True)
call = torch.compile(lambda: F.sigmoid_linear(x, W).sum(), backend="aot_eager", fullgraph=True)
call().backward()
assert W.grad.shape == (2, 3)
""",
    "a submodule of torch._dynamo": """
import torch._dynamo.utils, torch._dynamo.eval_frame
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
assert torch._dynamo.eval_frame.OptimizedModule is torch._dynamo.OptimizedModule
assert len([finder for finder in sys.meta_path if type(finder).__module__ == "torchbp._deferred"]) == 1
""",
    "torch.compiler.disable": """
import torch
@torch.compiler.disable
def python_only(x):
    assert not torch.compiler.is_compiling()
    return x + 1
assert torch.compile(lambda x: python_only(2 * x), backend="eager")(torch.ones(())) == 3
""",
    "a metric's plot": """
import torch, torchmetrics
metric = torchmetrics.MetricCollection([torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()])
metric.update(torch.ones(3), torch.zeros(3))
figure, axes = metric.plot(together=True)
import matplotlib.axes
assert isinstance(axes, matplotlib.axes.Axes)
metric.plot(ax=axes, together=True)
figure.savefig("plot.png")
matrix = torchmetrics.ConfusionMatrix("binary")
matrix.update(torch.ones(3), torch.ones(3))
matrix.plot()[0].savefig("matrix.png")
""",
    "matplotlib": """
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
figure, axes = plt.subplots()
assert isinstance(figure, Figure) and plt is sys.modules["matplotlib.pyplot"]
import matplotlib
assert matplotlib.pyplot is plt and matplotlib.__version__
""",
    "a submodule of matplotlib": """
from matplotlib.figure import Figure
Figure().subplots().plot([1, 2])
""",
    "scipy.signal": """
import scipy.signal
assert scipy.signal.convolve([1, 2], [1, 1]).tolist() == [1, 3, 2] and len(scipy.signal.hamming(5)) == 5
""",
    "a submodule of scipy.signal": """
from scipy.signal.windows import hamming
from scipy import signal
assert signal.hamming is hamming
""",
    "an audio metric": """
import torch
from torchmetrics.audio import PermutationInvariantTraining, SignalDistortionRatio
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio
metric = PermutationInvariantTraining(scale_invariant_signal_noise_ratio)
assert metric(torch.randn(2, 4, 100), torch.randn(2, 4, 100)).isfinite()
assert SignalDistortionRatio()(torch.randn(8000), torch.randn(8000)).isfinite()
""",
    "counting operations": """
import torch
from importlib.util import find_spec
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula
with FlopCounterMode(display=False) as counter:
    torch.ones(2, 3) @ torch.ones(3, 4)
assert counter.get_total_flops() == 2 * 2 * 3 * 4
if find_spec("triton"):
    from triton.runtime.jit import JITFunction
    class Kernel(JITFunction):
        __hash__ = object.__hash__
    register_flop_formula(Kernel.__new__(Kernel))(lambda *args, **kwargs: 0)
""",
    "a table": """
from torchbp.data import TabularDataModule
with open("table.csv", "w") as file:
    file.write(TABLE)
data = TabularDataModule("table.csv", "kind")
x = data.rows.all()[0][:, 0].tolist()
import polars as pl
from polars.selectors import by_name
assert x == pl.read_csv("table.csv").select(by_name("a")).to_series().to_list()
assert isinstance(pl.DataFrame(), sys.modules["torchbp.data.values"].pl.DataFrame)
""",
    "another library asks whether Polars is there": """
from sklearn.preprocessing import StandardScaler
scaler = StandardScaler().fit([[1.0], [2.0]])
assert "polars" not in sys.modules
import polars as pl
frame = StandardScaler().set_output(transform="polars").fit_transform(pl.DataFrame({"a": [1.0, 3.0]}))
assert isinstance(frame, pl.DataFrame) and frame.columns == ["a"]
""",
    "looking through all modules": """
import inspect
inspect.getmodule(inspect.currentframe())
from torchbp._deferred import Deferred
assert isinstance(sys.modules["torch._dynamo"], Deferred)
""",
}


def python(code: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # One thread: a process forked from one whose OpenMP has threads waits for them forever.
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *args], cwd=cwd, env=environment, capture_output=True, text=True)


def test_imports_that_a_run_does_not_need_are_deferred_and_work_later(tmp_path: Path) -> None:
    code = f"SELDOM, SNIPPETS, TABLE = {SELDOM!r}, {[*SNIPPETS.values()]!r}, {TABLE!r}" + FIRST_USES
    done = python(code, str(CONFIGS / "breast_cancer.yaml"), cwd=tmp_path)
    *_, imported = lines = done.stdout.splitlines()[: -len(SNIPPETS)]
    assert lines, done.stderr
    assert imported == "set()"
    worked = map(ast.literal_eval, done.stdout.splitlines()[-len(SNIPPETS) :])
    assert dict(zip(SNIPPETS, worked, strict=True)) == dict.fromkeys(SNIPPETS, True), done.stderr


def test_importing_torchbp_defers_nothing(tmp_path: Path) -> None:
    code = f"""
import sys
finders = [*sys.meta_path]
import torchbp
print({HEAVY} & {{*sys.modules}}, {{*torchbp.__all__}} <= {{*dir(torchbp)}})
torchbp.nn.BPNetwork([2, 1]), torchbp.functional, torchbp.functions, torchbp.equations
print({HEAVY - {"torch", "numpy"}} & {{*sys.modules}}, "torchbp._deferred" in sys.modules, sys.meta_path == finders)
try:
    torchbp.nothing
except AttributeError as error:
    print(error)
import torchbp.sklearn, torchbp.training
print({{name for name, module in sys.modules.items() if type(module).__name__ == "Deferred"}}, "polars" in sys.modules)
"""
    done = python(code, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "set() True",
        "set() False True",
        "module 'torchbp' has no attribute 'nothing'",
        "set() True",
    ]


def test_help_version_and_refusals_import_no_pytorch(tmp_path: Path) -> None:
    calls = [["--help"], ["--version"], [], ["--no_option"], *([command, "--no_option", "3"] for command in OPTIONS)]
    code = f"""
import sys
from torchbp.cli import main
print([main(args) for args in {calls}], {HEAVY} & {{*sys.modules}}, file=sys.stderr)
"""
    *said, last = python(code, cwd=tmp_path).stderr.splitlines()
    assert last == f"{[0, 0, 2, 2, *[2] * len(OPTIONS)]} set()"
    assert said[1] == "torchbp: error: unrecognized arguments: --no_option 3; torchbp fit --help lists the options"
    assert len(said) == 1 + len(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_the_options_that_are_not_refused_at_once_are_those_of_the_parser(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    calls = [[command, "--help"]]
    if command == "trace":  # it has another parser for a configuration
        calls.append([command, "--config", str(CONFIGS / "xor.yaml"), "--help"])
    assert [main(call) for call in calls] == [0] * len(calls)
    found = {*re.findall(r"(?<![\w'-])--(\w[\w-]*)", capsys.readouterr().out)}
    assert found - {"data"} <= {*OPTIONS[command].split()}
    if command in TRAINING:
        assert {"trainer", "model", "data", "ckpt_path", "config"} <= found
    else:
        assert found == {*OPTIONS[command].split()}


IMPORTED = ["torchbp.cli", "argparse", "torchbp._deferred", "torch", "numpy", "torch.optim", "lightning.pytorch"]


@pytest.mark.parametrize("module", [*IMPORTED, "jsonargparse", "polars.dataframe"])
def test_an_interrupt_during_imports_is_reported_in_one_line(module: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
class Interrupt:
    def find_spec(name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
from torchbp.__main__ import main
sys.exit(main())
"""
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    done = python(code, "fit", "--data.path", str(table), "--data.target", "kind", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "torchbp: error: interrupted\n")
    assert list(tmp_path.iterdir()) == [table]
