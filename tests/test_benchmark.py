"""``torchbp benchmark``: what it compares, and what it prints if a peer is missing."""

import json
import subprocess
import sys
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from torchbp.benchmark import _memory as memory
from torchbp.benchmark import _peers
from torchbp.benchmark._blocks import STEPS, jax_scan
from torchbp.benchmark._command import MORE, epochs
from torchbp.benchmark._rows import compare, interleaved
from torchbp.benchmark._steps import (
    LR,
    autograd_step,
    batches_of,
    eager_step,
    fused_step,
    name_of,
    per_layer_step,
    products,
    step_times,
)
from torchbp.benchmark.command import _table
from torchbp.cli import main
from torchbp.descent import Descent
from torchbp.nn import BPNetwork


@cache
def quick() -> dict[str, Any]:
    command = [sys.executable, "-m", "torchbp", "benchmark", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_every_measure_has_its_peers() -> None:
    peers = {
        "command, whole process": {"python -c pass", "import torch", "plain Lightning", "MLPClassifier"},
        "step time": {"torch.nn eager", "torch.compile", "one Function per layer", "matrix products"},
        "peak memory": {"torch.nn eager"},
        "without parameters, batch": {"torch.nn eager"},
        "recurrent step": {"torch.nn.RNN", "matrix products"},
        "recurrent peak memory": {"torch.nn.RNN"},
        "recurrent whole step": {"torch.nn.RNN with SGD"},
        "import": {"torch"},
        "first step": {"torch.nn eager"},
        "file to first step": {"polars to_torch"},
        "peak memory growth": {"polars to_torch"},
        "training run, per step": {"plain Lightning", "MLPClassifier"},
        "fit": {"MLPClassifier"},
        "ensemble": {"one by one"},
        "cross-validation": {"cross_val_score of ours", "cross_val_score of MLPClassifier"},
        "search": {"one by one"},
    }
    found: dict[str, set[str]] = {}
    for row in quick()["rows"]:
        found.setdefault(row["measure"], set()).add(row["peer"])
        if row["measure"].startswith("command"):
            assert row["ours"] in ("torchbp", "torchbp fit, fused", "torchbp fit, autograd")
        elif row["measure"] != "import" and row["ours"] not in ("BPClassifier", "side by side"):
            assert row["ours"] in ("fused", "autograd")
    assert found == peers
    assert quick()["machine"]["threads"] == 1


def test_ratios_are_positive_and_gaps_are_stated() -> None:
    for row in quick()["rows"]:
        if row["peer"] == "torch.compile":  # takes longer than everything else
            assert (row["ratio"], row["gap"]) == (None, "left out")
        else:
            assert row["gap"] is None
            assert min(row["ratio"], row["ours_value"], row["peer_value"]) > 0


def test_a_table_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--quick", "--only", "memory"]) == 0
    assert "peak memory" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    path = tmp_path / "steps.png"
    assert main(["benchmark", "--quick", "--only", "memory", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--threads", "0"], "threads is 0; it must be 1 or more"),
        (["--only", "speed"], "invalid choice: 'speed'"),
        (["--plot", "nowhere/steps.png"], "nowhere/steps.png" if find_spec("matplotlib") else "needs matplotlib"),
    ],
)
def test_bad_arguments(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_ratio_is_the_median_over_the_rounds_of_two_in_the_same_round() -> None:
    row = compare("time", "here", "a", "b", "s", {"a": [1.0, 10.0, 1.0], "b": [2.0, 20.0, 3.0]}, {})
    assert (row.ratio, row.ours_value, row.peer_value) == (2.0, 1.0, 3.0)
    row = compare("time", "here", "a", "c", "s", {"a": [1.0]}, {"c": "is not there"})
    assert (row.ratio, row.gap) == (None, "is not there")


def test_an_epochs_time_is_the_difference_of_a_longer_run() -> None:
    seconds = {"fused": 0.002, "autograd": 0.02, "plain Lightning": 0.04, "MLPClassifier": 0.001}

    def times(commands: dict[str, list[str]]) -> dict[str, list[float]]:
        return {
            name: [start + int(command[-1]) * next(s for of, s in seconds.items() if of in name) for start in (1.0, 2.0)]
            for name, command in commands.items()
        }

    rows = {(row.ours, row.peer): row for row in epochs(times, "breast_cancer", MORE)}
    assert rows["torchbp fit, fused", "plain Lightning"].ratio == pytest.approx(20)
    assert rows["torchbp fit, autograd", "MLPClassifier"].ours_value == pytest.approx(0.02)


@pytest.mark.parametrize("data", ["breast_cancer", "digits"])
def test_the_peers_learn_what_torchbp_does(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        _peers.sklearn(data, 20)
        _peers.lightning(data, 3)
    own, theirs = map(float, capsys.readouterr().out.split())
    assert own > 0.9
    assert theirs > 0.9
    assert list(tmp_path.rglob("last.ckpt"))
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_names_are_short() -> None:
    names = [name_of([30, 16, 1], 32), name_of([784, 512, 512, 10], 128), name_of([1024] * 4 + [16], 1024)]
    assert names == ["30-16-1, B 32", "784-512-512-10, B 128", "1024x4-16, B 1024"]


def test_contestants_are_called_in_turn() -> None:
    calls: list[str] = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, None)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert [len(t) for t in times.values()] == [3, 3]


def test_memory_is_what_was_allocated() -> None:
    def make(sizes: list[int], batch: int) -> Any:
        kept = torch.empty(1000)
        return lambda: (kept + kept).add(kept)

    assert memory.peak(make, [1], 1) == 3 * 4000


def test_every_contestant_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same start, on the same rows, the engines and PyTorch reach the same parameters."""
    ends = []
    for make in (fused_step, autograd_step, per_layer_step, eager_step):
        torch.manual_seed(0)
        networks: list[nn.Module] = []
        original = nn.Module.__init__

        def record(self: nn.Module, *args: Any, original: Any = original, networks: Any = networks, **options: Any) -> None:
            original(self, *args, **options)
            networks.append(self)

        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "__init__", record)
            steps = make([3, 4, 2], 128)
        parameters = [p for network in networks if isinstance(network, nn.Linear) for p in network.parameters()]
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        steps()
        ends.append([p.detach() for p in parameters])
    assert batches_of(128) == 4
    assert len(ends[0]) == 4
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])


def test_jax_takes_the_same_steps() -> None:
    pytest.importorskip("jax")
    x, y = torch.randn(STEPS * 3, 5), torch.rand(STEPS * 3, 2).round()
    torch.manual_seed(0)
    found: Any = jax_scan([5, 4, 2], 3, x, y)()
    torch.manual_seed(0)
    network = BPNetwork([5, 4, 2])
    Descent(network, lr=LR).steps(x, y, 3)
    theirs = [torch.tensor(value.tolist()) for layer in found for value in layer]
    torch.testing.assert_close(theirs, [parameter.detach() for parameter in network.ordered_parameters()])


def test_products_are_those_of_a_step() -> None:
    """2.1 and 3.2f for each layer, 3.2e for each but the first."""
    with torch.profiler.profile() as profile:
        products([5, 4, 3, 2], 600)()
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::mm") == 3 + 3 + 2


def test_a_peer_that_cannot_run_leaves_a_stated_gap() -> None:
    """Without a compiler, the other rows are as usual, and a line below the table says why."""
    import torch._inductor.config as inductor

    torch.compiler.reset()
    # PyTorch's own patch, because monkeypatch cannot restore such a setting.
    with torch.compiler.config.patch(force_disable_caches=True), inductor.patch({"cpp.cxx": ("/nonexistent/c++",)}):
        rows = step_times([([3, 2], 256)], 1, 0.0, True, lambda _: None)
    (gap,) = {row.gap for row in rows if row.peer == "torch.compile"}
    assert gap is not None
    assert "No working C++ compiler found" in gap
    with (console := Console(width=100)).capture() as capture:
        console.print(_table(rows, 1))
    text = " ".join(capture.get().split())
    assert "no torch.compile: InductorError: InvalidCxxCompiler" in text
    assert text.count("│ fused │ torch.nn eager │") == 1
    assert all(row.ratio for row in rows if row.peer != "torch.compile")
