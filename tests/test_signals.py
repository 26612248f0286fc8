"""The recorded signals of backpropagation, compared with torch.nn's, and the line printed when training fails."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import CONFIGS, quiet_trainer, train_rows

from torchbp.activations import ACTIVATIONS
from torchbp.cli import main
from torchbp.data import BuiltinDataModule
from torchbp.nn import BPNetwork
from torchbp.training import BoardLogger, BPModule, Histograms, Signals
from torchbp.training._diagnosis import Diagnosis, Signal
from torchbp.training._signals import signals_of

ALMOST = {"rtol": 1e-4, "atol": 1e-7}


def by_autograd(network: BPNetwork, x: Tensor, cost: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Z, ∂L/∂Z and ∂L/∂W of each layer, by torch.nn.functional and the activations' references alone."""
    found, a = [], x
    for number, layer in enumerate(network.layers):
        z = nn.functional.linear(a, layer.weight, layer.bias)
        z.retain_grad()
        found.append(z)
        if number < len(network.activations):
            a = network.activations[number].reference(z, *getattr(layer, "activation_parameters", ()))
    network.zero_grad()
    cost(z).backward()
    return [(z.detach(), z.grad, layer.weight.grad) for z, layer in zip(found, network.layers, strict=True)]


def slope_by_autograd(network: BPNetwork, number: int, z: Tensor) -> Tensor:
    z = z.detach().clone().requires_grad_()
    theta = getattr(network.layers[number], "activation_parameters", ())
    (slope,) = torch.autograd.grad(network.activations[number].reference(z, *theta).sum(), z)
    return slope.abs()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_signals_are_those_of_torch_nn_whatever_the_activation(name: str) -> None:
    torch.manual_seed(0)
    network = BPNetwork([5, 12, 7, 1], activation=name, per_unit=True, dtype=torch.float64)
    x, y, weight = torch.randn(40, 5).double(), torch.rand(40, 1).double(), torch.rand(40).double()
    pos_weight = torch.tensor([3.0]).double()
    for layer, scale in zip(network.layers, (20.0, 2.0, 1.0), strict=True):
        layer.weight.data *= scale  # so that some units are saturated
    network.layers[0].bias.data[:3] = -1e3  # and some are dead, also with a ReLU

    def cost(z: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(z, y, weight.unsqueeze(1), pos_weight=pos_weight)

    expected = by_autograd(network, x, cost)
    value, signals = signals_of(network, x, y, 0.3, pos_weight=pos_weight, weight=weight)
    assert value == pytest.approx(cost(network.logits(x)).item(), rel=1e-9)
    for number, (signal, (z, dz, dW)) in enumerate(zip(signals, expected, strict=True)):
        W = network.layers[number].weight
        assert signal.delta == pytest.approx(dz.norm().item(), rel=1e-9)
        assert signal.update == pytest.approx(0.3 * dW.norm().item() / W.norm().item(), rel=1e-9)
        if number == 2:
            assert signal.saturated is signal.dead is None
            continue
        every = torch.linspace(-8, 8, 129).double().unsqueeze(1).expand(-1, z.shape[1])
        flat = slope_by_autograd(network, number, z) <= 0.05 * slope_by_autograd(network, number, every).amax(0)
        assert signal.saturated == pytest.approx(flat.double().mean().item(), abs=1e-6)
        assert signal.dead == pytest.approx(flat.all(0).double().mean().item(), abs=1e-6)
        if number == 0 and name in ("sigmoid", "tanh", "relu"):
            assert signal.dead >= 0.25
            assert signal.saturated > signal.dead


@pytest.mark.parametrize(
    ("output", "cost", "reference"),
    [
        ("softmax", "cross_entropy", lambda z, y: nn.functional.cross_entropy(z, y)),
        ("linear", "squared_error", lambda z, y: nn.functional.mse_loss(z, y)),
        ("sigmoid", "squared_error", lambda z, y: nn.functional.mse_loss(z.sigmoid(), y)),
    ],
)
def test_signals_of_other_outputs(output: str, cost: str, reference: Any) -> None:
    network = BPNetwork([4, 6, 3], output, dtype=torch.float64)
    x, y = torch.randn(9, 4).double(), torch.eye(3)[torch.arange(9) % 3].double()
    _, signals = signals_of(network, x, y, 0.1, cost)
    expected = by_autograd(network, x, lambda z: reference(z, y))
    assert [signal.delta for signal in signals] == pytest.approx([dz.norm().item() for _, dz, _ in expected], rel=1e-9)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_a_run_has_them_at_the_start_and_after_epochs_whatever_the_engine(engine: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = BuiltinDataModule("diabetes")
    module = BPModule(10, 1, (8, 5), task="regression", lr=0.05, engine=engine)
    logger = BoardLogger(tmp_path)
    x, y = train_rows(data)
    found = []

    class Network(Signals):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            self.expect()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            self.expect()

        def expect(self) -> None:
            t = module.target_scaling(y)
            layers = by_autograd(module.network, module.input_scaling(x), lambda z: nn.functional.mse_loss(z, t))
            found.append([dz.norm().item() for _, dz, _ in layers])

    quiet_trainer(max_epochs=2, logger=logger, callbacks=[Network()]).fit(module, datamodule=data)
    board = EventAccumulator(logger.log_dir).Reload()
    for number in (1, 2, 3):
        events = board.Scalars(f"norm/dL_dZ/{number}")
        assert [event.step for event in events] == [0, 9, 18]
        np.testing.assert_allclose([event.value for event in events], [norms[number - 1] for norms in found], **ALMOST)
    assert len(board.Scalars("saturated/2")) == len(board.Scalars("update/3")) == 3


@pytest.mark.parametrize("bidirectional", [None, False, True])
def test_custom_scalars_has_a_chart_for_each_signal_and_no_empty_one(bidirectional: bool | None, tmp_path: Path) -> None:
    """``bidirectional`` is None for a network without recurrent layers."""
    recurrent = bidirectional is not None
    data, logger = BuiltinDataModule("adding" if recurrent else "diabetes"), BoardLogger(tmp_path)
    options: Any = {"sequences": "last", "bidirectional": bidirectional} if recurrent else {}
    module = BPModule(2 if recurrent else 10, 1, (4,), task="regression", lr=0.01, **options)
    quiet_trainer(max_epochs=1, logger=logger, callbacks=[Signals(), Histograms()]).fit(module, datamodule=data)
    board = EventAccumulator(logger.log_dir).Reload()
    layout = layout_pb2.Layout.FromString(board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    scalars = board.Tags()["scalars"]
    shown = {
        chart.title: {name for name in scalars for tag in chart.multiline.tag if re.match(tag, name)}
        for category in layout.category
        for chart in category.chart
    }
    assert all(shown.values())
    signals = {name for name in scalars if re.match("norm/dL_d[ZW]|update|saturated|dead|reach", name)}
    assert signals <= set().union(*shown.values())
    assert ("reach/1" in signals) == recurrent


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_any_loader_will_do(tmp_path: Path) -> None:
    module, logger = BPModule(4, 1, (3,), lr=1), BoardLogger(tmp_path)
    loader = DataLoader(TensorDataset(torch.randn(50, 4), torch.rand(50, 1)), batch_size=20)
    quiet_trainer(max_epochs=2, limit_val_batches=0, logger=logger, callbacks=[Signals()]).fit(module, loader)
    assert [event.step for event in EventAccumulator(logger.log_dir).Reload().Scalars("norm/dL_dZ/1")] == [0, 3, 6]


def fit(name: str, *options: str) -> None:
    length = ["--trainer.max_epochs", "4", "--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    assert main(["fit", "--config", str(CONFIGS / f"{name}.yaml"), "--model.engine", "fused", *length, *options]) == 0


SMALL = ["--model.hidden_sizes", "[4,4,4,4,4,4,4,4]", "--model.init", "normal"]
ONCE = ["--trainer.max_epochs", "1"]
DYING = ["--model.hidden_sizes", "[8,8]", "--model.activation", "relu", "--model.lr", "10"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("breast_cancer", ["--data.standardize", "false"], "layer 1 is saturated at the start: the slope of 98% of its"),
        ("breast_cancer", SMALL, "the error vanishes on its way down: the norm .* in layer 9 and .* in layer 1,"),
        ("breast_cancer", ["--model.lr", "300"], "lr 300 is too high; a step changes W of layer 2 by .*try --model.lr 3e.01,"),
        (
            "moons",
            [*ONCE, "--model.lr", "1e9"],
            "cost was 1.* and is .*e.08 after 1 epoch.* lr 1e.09 is too high;.* try --model.lr auto$",
        ),
        ("breast_cancer", DYING, "of layer 2's units dead, .* lr 10 is too high; try --model.lr 1,"),
        ("digits", ["--model.lr", "1e-6"], "lr 1e-06 is too low; a step changes W of layer 2, .*try --model.lr 0.00"),
    ],
    ids=["saturated", "vanishing", "too high", "exploded", "dead", "too low"],
)
def test_a_run_that_fails_says_so_in_one_line(
    name: str, options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(name, *options)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("torchbp:")]
    assert re.search(said, line)


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "moons", "sines", "diabetes", "xor"])
def test_a_run_that_learns_says_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(name)
    assert "torchbp:" not in capfd.readouterr().err


@pytest.mark.parametrize(("cost", "said"), [(-2.2, None), (-2.005, "too low"), (-0.5, "too high")])
def test_a_cost_below_0_is_compared_by_its_change(cost: float, said: str | None) -> None:
    trainer: Any = SimpleNamespace(current_epoch=0, global_step=0, estimated_stepping_batches=100)
    signals, diagnosis = [Signal(1.0, 1e-6)], Diagnosis()
    assert diagnosis.of(-2.0, signals, 0.1, trainer) is None
    trainer.current_epoch, trainer.global_step = 9, 100
    line = diagnosis.of(cost, signals, 0.1, trainer)
    assert line is None if said is None else f"lr 0.1 is {said}" in line
