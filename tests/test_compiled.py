"""Compiled blocks of iterations, compared with the iteration in place; PyTorch's Inductor compiles them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import CONFIGS, quiet_trainer

from torchbp._compiled import CompiledBlock
from torchbp.activations import ACTIVATIONS
from torchbp.cli import main
from torchbp.data import BuiltinDataModule
from torchbp.descent import Descent
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS
from torchbp.training import BPModule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch._inductor")


def twins(sizes: list[int], *args: Any, **options: Any) -> tuple[BPNetwork, BPNetwork]:
    one, other = (BPNetwork(sizes, *args, dtype=torch.float64, **options) for _ in range(2))
    other.load_state_dict(one.state_dict())
    return one, other


def assert_same(one: BPNetwork, other: BPNetwork) -> None:
    for parameter, expected in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-12)


def targets(rows: int, entry: Any) -> Tensor:
    return (
        torch.eye(3, dtype=torch.float64)[torch.arange(rows) % 3] if entry.name == "softmax" else torch.rand(rows, 3).double()
    )


@pytest.mark.parametrize(
    ("activation", "output"), [(g, next(iter(OUTPUTS))) for g in ACTIVATIONS] + [("tanh", o) for o in OUTPUTS]
)
def test_what_is_compiled_is_the_iteration_of_any_entries(activation: str, output: tuple[str, str]) -> None:
    entry = OUTPUTS[output]
    network, expected = twins([4, 6, 5, 3], entry.name, activation=activation, per_unit=True)
    x, y, weight = torch.randn(20, 4).double(), targets(20, entry), torch.rand(20).double()
    descent = Descent(expected, entry.cost)
    descent.steps(x, y, 5, lrs=[0.3, 0.2, 0.1, 0.0], weight=weight)
    parameters = [parameter.detach() for parameter in network.ordered_parameters()]
    block = CompiledBlock(network.iteration(entry.cost), parameters, 5, entry.count(y[:5]), 4)
    with torch.no_grad():
        alphas = torch.tensor([0.3, 0.2, 0.1, 0.0], dtype=torch.float64) / entry.count(y[:5])
        z = block._iterate(x, y, weight.unsqueeze(1), alphas, *parameters)
    assert_same(network, expected)
    torch.testing.assert_close(entry.activation(z), descent.prediction, rtol=0, atol=1e-12)


def test_blocks_and_what_is_left_over_descend_as_in_place() -> None:
    network, expected = twins([3, 4, 1])
    x, y, weight = torch.randn(29, 3).double(), torch.rand(29, 1).double(), torch.rand(29).double()
    found, reference = (
        Descent(network, compile=True, pos_weight=torch.tensor([2.0])),
        Descent(expected, pos_weight=torch.tensor([2.0])),
    )
    calls: list[dict[str, Any]] = [
        {"weight": weight, "lrs": [0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.7, 0.8]},  # 7 batches of 4 in a block, and one of 1
        {"weight": weight, "keep_gradients": True},
    ]
    for call in calls:
        costs = [descent.steps(x, y, 4, **call) for descent in (found, reference)]
        torch.testing.assert_close(*costs, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.prediction, reference.prediction, rtol=0, atol=1e-12)
        assert_same(network, expected)
    assert [block.steps for block in found._blocks.values()] == [7]
    for parameter, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-12)
    network.load_state_dict(expected.state_dict())
    found.lr = reference.lr = 0.9
    for descent in (found, reference):
        descent.steps(x[:28], y[:28], 4)
    assert_same(network, expected)


def test_a_run_has_the_parameters_of_the_fused_engine() -> None:
    modules = []
    for engine in ("compiled", "fused"):
        torch.manual_seed(0)
        data = BuiltinDataModule("diabetes", batch_size=64)  # 5 batches, the last smaller
        modules.append(BPModule(10, 1, (3,), "regression", activation="swish", lr=0.1, engine=engine))
        run = quiet_trainer(max_epochs=3, precision="64-true")
        run.fit(modules[-1], datamodule=data)
        assert run.global_step == 15
    assert_same(modules[0].network, modules[1].network)


def test_no_compiler_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    moons = ["fit", "--config", str(CONFIGS / "moons.yaml"), "--model.engine", "compiled", "--model.hidden_sizes", "[3]"]
    with inductor.patch({"cpp.cxx": (None, "no_such_compiler")}):
        assert main([*moons, "--data.batch_size", "200"]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(
        "torchbp: error: torch.compile has failed; compiled iterations need it and a C++ compiler such as g++: "
        "InvalidCxxCompiler: No working C++ compiler found"
    )


def test_an_error_around_the_cause_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a filled cache, Inductor calls the compiler elsewhere, and Dynamo's own error says no reason in its first line."""

    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "g++")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    with pytest.raises(ValueError, match=r"such as g\+\+: FileNotFoundError: .* No such file or directory: 'g\+\+'$"):
        Descent(BPNetwork([2, 1]), compile=True).steps(torch.rand(8, 2), torch.rand(8, 1), 2)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="compile is True; it is for one network in one process"):
        Descent(BPNetwork([2, 1], networks=3), compile=True)
    with pytest.raises(ValueError, match="cuda_graph is for engine: fused only, here engine is compiled"):
        BPModule(2, 1, engine="compiled", cuda_graph=True)
    with pytest.raises(ValueError, match="gradient_clip_val is 1; engine: compiled cannot do that, use engine: autograd"):
        quiet_trainer(max_epochs=1, gradient_clip_val=1).fit(
            BPModule(2, 1, engine="compiled"), datamodule=BuiltinDataModule("xor")
        )
