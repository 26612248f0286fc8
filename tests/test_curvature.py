"""The learning rate that a run finds: compared with the whole Hessian, and with runs that are given that rate."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from devices import DEVICES
from references import Reference, targets
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from training_runs import quiet_trainer

from torchbp.cli import main
from torchbp.curvature import largest_eigenvalue, lr_from_curvature
from torchbp.data import BuiltinDataModule, TabularDataModule
from torchbp.descent import Descent
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS
from torchbp.training import BPModule

ENGINES = ("autograd", "fused")


def whole_hessian(network: BPNetwork, cost: str, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """The Hessian by PyTorch's autograd, (P, P)."""
    expected = Reference(network)
    parameters = list(expected.parameters())

    def flat(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([t.flatten() for t in tensors])

    value = expected.cost(x, y, cost, weight=weight)
    gradient = flat(torch.autograd.grad(value, parameters, create_graph=True))
    again = {"retain_graph": True, "materialize_grads": True}
    return torch.stack([flat(torch.autograd.grad(g, parameters, **again)) for g in gradient])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("cost", "output"), OUTPUTS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "silu", "swish"])
def test_largest_eigenvalue_is_that_of_the_whole_hessian(activation: str, cost: str, output: str, device: str) -> None:
    options: Any = {"device": device, "dtype": torch.float64}
    network = BPNetwork([3, 4, 2], output, activation=activation, **options)
    x, y = torch.randn(16, 3, **options), targets(OUTPUTS[cost, output], 16, 2, **options)
    weight = torch.rand(16, **options)
    exact = torch.linalg.eigvalsh(whole_hessian(network, cost, x, y, weight)).abs().max().item()
    found = largest_eigenvalue(network, x, y, cost, weight=weight)
    assert 0.85 * exact < found < exact * (1 + 1e-9)  # power iteration approaches from below and stops early


def test_lr_is_1_over_the_mean_of_eight_batches() -> None:
    network = BPNetwork([3, 4, 1], "linear", dtype=torch.float64)
    batches = [(torch.randn(4, 3).double(), torch.randn(4, 1).double()) for _ in range(9)]
    exact = [torch.linalg.eigvalsh(whole_hessian(network, "squared_error", *batch)).max().item() for batch in batches]
    assert lr_from_curvature(network, batches) == pytest.approx(8 / sum(exact[:8]), rel=0.05)
    assert lr_from_curvature(network, batches) == lr_from_curvature(network, batches[:8])
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_linear_model_learns_at_every_batch_size(batch_size: int) -> None:
    """With the curvature of all rows at once, batch sizes 1 and 4 would diverge."""
    x = torch.randn(800, 30)
    y = x @ torch.randn(30, 1)
    y = (y - y.mean()) / y.std()
    network = BPNetwork([30, 1], "linear")
    descent = Descent(network, lr=lr_from_curvature(network, zip(x.split(batch_size), y.split(batch_size), strict=True)))
    for _ in range(20):
        order = torch.randperm(800)
        descent.steps(x[order], y[order], batch_size)
    with torch.no_grad():
        assert 1 - (network(x) - y).square().mean() > 0.99


def test_what_has_no_curvature_is_refused() -> None:
    x, y = torch.randn(5, 2), torch.ones(5, 1)
    saturated = BPNetwork([2, 1])
    torch.nn.init.constant_(saturated.layers[0].bias, 1e4)
    with pytest.raises(ValueError, match="the cost has no curvature at the start; give lr a number"):
        lr_from_curvature(saturated, [(x, y)])
    with pytest.raises(FloatingPointError, match="the cost is not finite at the start"):
        lr_from_curvature(BPNetwork([2, 1]), [(x / 0, y)])
    with pytest.raises(ValueError, match="there is no batch to find it from"):
        lr_from_curvature(BPNetwork([2, 1]), [])
    with pytest.raises(ValueError, match="lr is fast; it must be 'auto', or a number"):
        BPModule(2, 1, lr="fast")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers", "ignore:.*have no `val_dataloader`")
@pytest.mark.parametrize("own_generator", [True, False])
def test_search_leaves_random_numbers_as_they_were(own_generator: bool) -> None:
    """A run that is given the found lr trains the same network, on batches in the same random order."""
    rows = TensorDataset(torch.randn(100, 3), torch.rand(100, 1).round())

    def fit(lr: Any) -> BPModule:
        torch.manual_seed(0)
        module = BPModule(3, 1, lr=lr)
        generator = torch.Generator().manual_seed(1) if own_generator else None
        loader = DataLoader(rows, 10, shuffle=True, generator=generator)
        quiet_trainer(max_epochs=2).fit(module, loader)
        return module

    found = fit("auto")
    given = fit(found.hparams["lr"])
    assert found.lr_was_found
    assert not given.lr_was_found
    assert_same(found, given)


def assert_same(one: BPModule, other: BPModule, atol: float = 0) -> None:
    for parameter, expected in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=atol)


def test_engines_find_the_same_lr() -> None:
    found = []
    for engine in ENGINES:
        torch.manual_seed(0)
        found.append(BPModule(10, 1, task="regression", engine=engine))
        data = BuiltinDataModule("diabetes")
        quiet_trainer(max_epochs=2, precision="64-true").fit(found[-1], datamodule=data)
    assert found[0].lr == found[1].lr
    assert_same(*found, atol=1e-12)
    # By hand: the first eight batches, standardised as in the run.
    torch.manual_seed(0)
    module = BPModule(10, 1, task="regression").double()
    module.fit_scaling(data)
    batches = [
        (module.input_scaling(x.double()), module.network_target(y.double()))
        for x, y in BuiltinDataModule("diabetes").train_dataloader()
    ]
    exact = [torch.linalg.eigvalsh(whole_hessian(module.network, "squared_error", *b)).max().item() for b in batches[:8]]
    assert found[0].lr == pytest.approx(8 / sum(exact), rel=0.02)


def test_found_lr_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, the found lr is in the output, in the checkpoint and in a resumed run."""
    monkeypatch.chdir(tmp_path)
    x = torch.randn(60, 2)
    lines = [f"{a},{b},{a - b}" for a, b in x.tolist()]
    Path("t.csv").write_text("\n".join(["a,b,y", *lines]))
    assert main(["fit", "--data.path", "t.csv", "--data.target", "y", "--trainer.max_epochs", "1"]) == 0
    folder = Path("logs/t/version_0")
    lr = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["lr"]
    assert f"lr {lr:.3g}, 0.5 times that from the curvature" in capsys.readouterr().out
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["lr"] == "auto"
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert "curvature" not in capsys.readouterr().out
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 1
    assert last["hyper_parameters"]["lr"] == last["optimizer_states"][0]["param_groups"][0]["lr"] == lr
    # The same in Python, where the new module is not given the lr.
    module = BPModule(2, 1, [100], "regression", activation="tanh", clip=5.0)
    data = TabularDataModule("t.csv", "y")
    quiet_trainer(max_epochs=3).fit(module, datamodule=data, ckpt_path=folder / "checkpoints/last.ckpt")
    assert (module.lr, module.lr_was_found) == (lr, False)
