import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import quiet_trainer, train_rows

from torchbp.data import BuiltinDataModule
from torchbp.training import BPModule, Histograms


class Costs(Callback):
    """Keeps the cost of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(outputs["loss"].item())


def reference(network: nn.Module, output: str) -> nn.Sequential:
    """The same network in torch.nn, with the same weights."""
    layers: list[nn.Module] = []
    for layer in network.layers:
        linear = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        linear.load_state_dict(layer.state_dict())
        layers += [linear, nn.Sigmoid()]
    return nn.Sequential(*(layers if output == "sigmoid" else layers[:-1]))


def random_rows(task: str, outputs: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(1000, 6, dtype=torch.float64)
    if task == "multiclass":
        return x, torch.eye(outputs, dtype=torch.float64)[torch.randint(outputs, (1000,))]
    if task == "regression":
        return x, torch.randn(1000, outputs, dtype=torch.float64)
    return x, torch.randint(2, (1000, outputs)).double()


@pytest.mark.parametrize(
    ("task", "outputs", "cost"),
    [
        ("binary", 1, "cross_entropy"),
        ("binary", 1, "squared_error"),
        ("multilabel", 3, "cross_entropy"),
        ("multiclass", 4, "squared_error"),
        ("multiclass", 4, "cross_entropy"),
        ("regression", 1, "squared_error"),
    ],
)
@pytest.mark.parametrize("hidden_sizes", [(), (5,), (7, 5, 3)])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_100_steps_as_torch_nn(task: str, outputs: int, cost: str, hidden_sizes: tuple[int, ...]) -> None:
    module = BPModule(6, outputs, hidden_sizes, task, cost, lr=0.7).double()
    of_z = task == "regression" or (task, cost) == ("multiclass", "cross_entropy")  # the loss takes the weighted input
    expected = reference(module.network, "linear" if of_z else "sigmoid")
    x, y = random_rows(task, outputs)
    batches = DataLoader(TensorDataset(x, y), batch_size=10)
    costs = Costs()
    quiet_trainer(max_epochs=1, precision="64-true", callbacks=[costs]).fit(module, batches)

    of_activation = {"cross_entropy": nn.BCELoss(), "squared_error": nn.MSELoss()}[cost]
    loss = nn.CrossEntropyLoss() if task == "multiclass" and cost == "cross_entropy" else of_activation
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.7)
    expected_costs = []
    for batch_x, batch_y in batches:
        optimizer.zero_grad()
        value = loss(expected(batch_x), batch_y)
        value.backward()
        optimizer.step()
        expected_costs.append(value.item())
    assert len(expected_costs) == 100
    np.testing.assert_allclose(costs.values, expected_costs, rtol=0, atol=1e-12)
    for parameter, other in zip(module.network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=1e-12)


def test_descends_sample_by_sample() -> None:
    """With batch_size 1, an epoch is the text's iteration, 2.1 to 3.2g, for one sample after another."""
    data = BuiltinDataModule("xor", batch_size=1, standardize=False)
    module = BPModule(2, 1, [3], lr=0.5)
    (W1, b1), (W2, b2) = [(p.weight.detach().numpy().copy(), p.bias.detach().numpy().copy()) for p in module.network.layers]
    quiet_trainer(max_epochs=1).fit(module, datamodule=data)

    def g(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    for x, y in data.train_dataloader():
        x, y = x[0].numpy(), y[0].numpy()
        a1 = g(W1 @ x + b1)
        a2 = g(W2 @ a1 + b2)
        dz2 = a2 - y
        dz1 = W2.T @ dz2 * a1 * (1 - a1)
        W2, b2 = W2 - 0.5 * np.outer(dz2, a1), b2 - 0.5 * dz2
        W1, b1 = W1 - 0.5 * np.outer(dz1, x), b1 - 0.5 * dz1
    for parameter, expected in zip(module.network.parameters(), (W1, b1, W2, b2), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resume_continues_exactly(tmp_path: Path) -> None:
    def fit(epochs: int, folder: Path, ckpt_path: Path | None = None) -> tuple[list[float], BPModule]:
        torch.manual_seed(len(folder.name))  # initial weights differ; a resumed run must not depend on them
        module = BPModule(30, 1, lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4))
        costs = Costs()
        trainer = quiet_trainer(
            max_epochs=epochs, callbacks=[costs, ModelCheckpoint(folder, save_last=True)], enable_checkpointing=True
        )
        trainer.fit(module, datamodule=BuiltinDataModule("breast_cancer"), ckpt_path=ckpt_path)
        return costs.values, module

    whole, module = fit(4, tmp_path / "whole")
    first, _ = fit(2, tmp_path / "first")
    rest, resumed = fit(4, tmp_path / "the rest", tmp_path / "first" / "last.ckpt")
    assert first + rest == whole
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_standardisation_is_of_the_training_split_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    data = BuiltinDataModule("diabetes", seed=3)
    module = BPModule(10, 1, task="regression", lr=0.05)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    x, y = (rows.numpy().astype(np.float64) for rows in train_rows(data))
    assert len(x) < len(data.rows.all()[0])
    for scaling, rows in ((module.input_scaling, x), (module.target_scaling, y)):
        np.testing.assert_allclose(scaling.mean, rows.mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(scaling.scale, rows.std(0), rtol=1e-5)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    loaded = BPModule.load_from_checkpoint(path, weights_only=True)
    rows = data.rows.all()[0][:5]
    assert torch.equal(loaded(rows), module.cpu()(rows))


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "diabetes"])
def test_metrics_are_those_of_scikit_learn(name: str) -> None:
    data = BuiltinDataModule(name)
    module = BPModule(data.num_features, data.num_outputs, task=data.task, lr=0.1)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(module, datamodule=data)
    reported = trainer.test(module, datamodule=data, verbose=False)[0]
    x, y = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    prediction, y = module(x).detach().numpy().astype(np.float64), y.numpy()
    if data.task == "regression":
        expected = {
            "mae": metrics.mean_absolute_error(y, prediction),
            "mse": metrics.mean_squared_error(y, prediction),
            "r2": metrics.r2_score(y, prediction),
            "cost": metrics.mean_squared_error(y, prediction) / module.target_scaling.scale.item() ** 2,
        }
    else:
        multiclass = data.task == "multiclass"
        classes, true = (prediction.argmax(1), y.argmax(1)) if multiclass else (prediction > 0.5, y)
        expected = {
            "accuracy": metrics.accuracy_score(true, classes),
            "f1": metrics.f1_score(true, classes, average="macro" if multiclass else "binary"),
            "auroc": metrics.roc_auc_score(y, prediction, average="macro"),
            "average_precision": metrics.average_precision_score(y, prediction, average="macro"),
            "cost": -(
                (y * np.log(prediction)).sum(1) if multiclass else y * np.log(prediction) + (1 - y) * np.log(1 - prediction)
            ).mean(),
        }
    assert set(reported) == {f"{name}/test" for name in expected}
    for metric, value in expected.items():
        assert reported[f"{metric}/test"] == pytest.approx(value, rel=1e-4), metric


def test_multilabel_without_a_data_module() -> None:
    x = torch.randn(400, 5)
    y = (x[:, :3] > 0).float()
    module = BPModule(5, 3, [8], "multilabel", lr=5)
    trainer = quiet_trainer(max_epochs=30)
    loader = DataLoader(TensorDataset(x, y), batch_size=20)
    trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["accuracy/val"] > 0.97
    assert set(map(str, trainer.callback_metrics)) >= {"cost/train", "cost/val", "f1/val", "auroc/val", "average_precision/val"}


def test_learning_rate_schedules() -> None:
    def rates(lr_scheduler: Any) -> list[float]:
        values = []

        class Rates(Callback):
            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                values.append(trainer.optimizers[0].param_groups[0]["lr"])

        module = BPModule(2, 1, [2], lr=0.8, lr_scheduler=lr_scheduler)
        quiet_trainer(max_epochs=4, callbacks=[Rates()]).fit(module, datamodule=BuiltinDataModule("xor"))
        return values

    assert rates(None) == [0.8] * 4
    assert rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5)) == pytest.approx([0.8, 0.8, 0.4, 0.4])
    plateau = rates(lambda o: ReduceLROnPlateau(o, "cost/val", factor=0.1, patience=0, threshold=1e9, threshold_mode="abs"))
    assert plateau == pytest.approx([0.8, 0.8, 0.08, 0.008])


def test_a_cost_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    class Blow(Callback):
        """An absurd learning rate from the third epoch on."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                trainer.optimizers[0].param_groups[0]["lr"] = 1e38

    module = BPModule(30, 1, [4])
    trainer = quiet_trainer(
        max_epochs=5, enable_checkpointing=True, callbacks=[Blow(), ModelCheckpoint(tmp_path, filename="best", save_last=True)]
    )
    with pytest.raises(FloatingPointError, match=r"the cost became (nan|inf) at step 2\d, .* layer \d"):
        trainer.fit(module, datamodule=BuiltinDataModule("breast_cancer"))
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_checkpoint_is_never_written_with_parameters_that_are_not_finite(tmp_path: Path) -> None:
    module = BPModule(2, 1, [2])
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=BuiltinDataModule("xor"))
    with torch.no_grad():
        module.network.layers[1].bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"layers\.1\.bias is no longer finite after step 1"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(BPModule(2, 1, [2]), datamodule=BuiltinDataModule("xor"))
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"of another network: its hidden_sizes is \[2\], here it is \[3\]"):
        trainer.test(BPModule(2, 1, [3]), datamodule=BuiltinDataModule("xor"), ckpt_path=tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "ranking"}, "task is 'ranking'; it must be one of binary"),
        (
            {"cost": "hinge"},
            "cost 'hinge' is not for task binary; it must be cost 'cross_entropy' with output 'sigmoid'",
        ),
        (
            {"task": "regression", "cost": "cross_entropy"},
            "'cross_entropy' is not for task regression; it must be cost 'squared_error'",
        ),
        ({"lr": 0.0}, "lr is 0.0; it must be 'auto', or a number above 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"hidden_sizes": [4, 0]}, r"layer_sizes is \[3, 4, 0, 1\]"),
        ({"init": "zero"}, "init is 'zero'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BPModule(3, 1, **arguments)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input has shape \(4, 2\); its last dimension must be 3"):
        quiet_trainer(max_epochs=1).fit(BPModule(3, 1, [4], lr=1), datamodule=WrongWidth())


class WrongWidth(BuiltinDataModule):
    def __init__(self) -> None:
        super().__init__("xor", standardize=False)


def test_histograms_hold_the_gradients_of_torch_nn(tmp_path: Path) -> None:
    data = BuiltinDataModule("breast_cancer", batch_size="full")
    module = BPModule(30, 1, [4], lr=0.5)
    network = copy.deepcopy(module.network)
    logger = TensorBoardLogger(tmp_path)
    quiet_trainer(max_epochs=1, logger=logger, callbacks=[Histograms()]).fit(module, datamodule=data)
    x, y = train_rows(data)
    W1, b1, W2, b2 = (parameter.detach().requires_grad_() for parameter in network.parameters())
    a1 = torch.sigmoid(module.input_scaling(x) @ W1.T + b1)
    nn.functional.binary_cross_entropy_with_logits(a1 @ W2.T + b2, y).backward()
    board = EventAccumulator(logger.log_dir)
    board.Reload()
    for tag, parameter in (("W/1", W1), ("b/1", b1), ("W/2", W2), ("b/2", b2)):
        for name, values in ((f"dL_d{tag}", parameter.grad), (tag, parameter - 0.5 * parameter.grad)):
            logged = board.Histograms(name)[0].histogram_value
            values = values.detach().double()
            expected = [values.min(), values.max(), values.numel(), values.sum(), values.square().sum()]
            found = [logged.min, logged.max, logged.num, logged.sum, logged.sum_squares]
            np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)
        assert board.Scalars(f"norm/dL_d{tag}")[0].value == pytest.approx(parameter.grad.norm().item(), rel=1e-4)


def test_a_copy_trains_alike() -> None:
    module = BPModule(2, 1, [4], lr=5)
    twin = copy.deepcopy(module)
    for one in (module, twin):
        quiet_trainer(max_epochs=3).fit(one, datamodule=BuiltinDataModule("xor"))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True))


def test_attributes_are_assigned_as_in_nn_module() -> None:
    for module in (BPModule(3, 1), torch.nn.Module()):
        module.note = None
        module.note = "plain"  # a string replaces a plain value
        assert vars(module)["note"] == "plain"
        module.note = torch.nn.Parameter(torch.ones(1))
        assert "note" in dict(module.named_parameters())
        assert "note" not in vars(module)
        with pytest.raises(TypeError, match="cannot assign 'str' as parameter 'note'"):
            module.note = "plain"
        module.note = None  # a parameter may be left out
        assert "note" not in vars(module)
