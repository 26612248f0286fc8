"""Several networks in one module: each learns as it would alone, and every command uses the mean of their predictions."""

import copy

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import metadata
from torch.nn import functional as TF
from training_runs import quiet_trainer, train_rows

from torchbp.cli import main
from torchbp.data import BuiltinDataModule
from torchbp.descent import Descent
from torchbp.export import export
from torchbp.nn import BPNetwork
from torchbp.sklearn import BPClassifier, BPRegressor
from torchbp.training import BPModule
from torchbp.training.checkpoint import load_checkpoint, newest_checkpoint

TASKS = {"binary": ("moons", {}), "multiclass": ("digits", {}), "regression": ("sines", {"activation": "swish"})}
COSTS = {
    "binary": lambda a, y: TF.binary_cross_entropy(a, y),
    "multiclass": lambda a, y: -(y * a.log()).sum(-1).mean(),
    "regression": lambda a, y: TF.mse_loss(a, y),
}


def alone(module, k):
    """A copy of the k-th network of a module."""
    state = {name: value[k].clone() for name, value in module.network.state_dict().items()}
    hparams = module.hparams
    sizes = [hparams["num_features"], *hparams["hidden_sizes"], hparams["num_outputs"]]
    network = BPNetwork(sizes, hparams["output"], activation=hparams["activation"])
    network.load_state_dict(state)
    return network


@pytest.mark.parametrize("task", TASKS)
def test_each_network_learns_as_by_itself_and_the_cost_is_that_of_their_mean(task):
    name, more = TASKS[task]
    data = BuiltinDataModule(name, batch_size=64)
    x, y = train_rows(data)
    module = BPModule(x.shape[1], y.shape[1], [5], task, lr=0.1, engine="fused", networks=3, **more)
    start = [alone(module, k) for k in range(3)]
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(module, datamodule=data)
    loader = BuiltinDataModule(name, batch_size=64).train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for x, y in loader:
            for network in start:
                Descent(network, module.cost, 0.1).step(module.input_scaling(x), module.network_target(y))
    for k, network in enumerate(start):
        for a, b in zip(alone(module, k).parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    x, y = data.split_rows("val").all()
    with torch.no_grad():
        mean = torch.stack([network(module.input_scaling(x)) for network in start]).mean(0)
        cost = COSTS[task](mean, module.network_target(y)).item()
        assert trainer.callback_metrics["cost/val"].item() == pytest.approx(cost, rel=1e-4)
        predicted = module(x)
        expected = module.target_scaling.inverse(mean) if module.target_scaling else mean
        torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)


def test_bootstrap_gives_each_network_rows_drawn_with_replacement():
    data = BuiltinDataModule("moons", batch_size="full")
    module = BPModule(2, 1, [4], lr=0.5, engine="fused", networks=3, bootstrap=True)
    start = [alone(module, k) for k in range(3)]
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(module, datamodule=data)
    x, y, weight = trainer.train_dataloader.rows.all()
    assert weight.sum(0).tolist() == [len(x)] * 3
    assert weight.equal(weight.round())
    assert all(0.3 < (weight[:, k] == 0).float().mean() < 0.45 for k in range(3))  # a share of 1/e of the rows is never drawn
    assert not weight[:, 0].equal(weight[:, 1])
    for k, network in enumerate(start):
        own = torch.repeat_interleave(torch.arange(len(x)), weight[:, k].long())  # each row as often as it is drawn
        descent = Descent(network, lr=0.5)
        for _ in range(3):
            descent.step(module.input_scaling(x[own]), y[own])
        torch.testing.assert_close(module.network.layers[0].weight[k], network.layers[0].weight, rtol=1e-4, atol=1e-5)


def test_every_command_has_the_mean_and_predict_the_spread(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 3)).astype(np.float32)
    kind = np.array(["a", "b", "c"])[np.digitize(x[:, 0] + x[:, 1] ** 2, [0, 1])]
    pl.DataFrame(x, schema=list("pqr")).with_columns(kind=pl.Series(kind)).write_csv("t.csv")
    options = ["--model.networks", "4", "--model.hidden_sizes", "[6]", "--model.bootstrap", "true", "--every_epoch", "true"]
    assert main(["fit", "--data.path", "t.csv", "--data.target", "kind", "--trainer.max_epochs", "4", *options]) == 0
    path = newest_checkpoint(None, "last")
    state = load_checkpoint(path)["state_dict"]
    scaled = ((torch.tensor(x) - state["input_scaling.mean"]) / state["input_scaling.scale"]).clamp(-5, 5)
    members = []
    for k in range(4):
        W1, b1, W2, b2 = (state[f"network.layers.{layer}.{name}"][k] for layer in (0, 1) for name in ("weight", "bias"))
        members.append(torch.softmax(TF.linear(torch.tanh(TF.linear(scaled, W1, b1)), W2, b2), -1).numpy())
    mean, likeliest = np.mean(members, 0), np.mean(members, 0).argmax(1)
    spread = np.std(members, 0)[np.arange(120), likeliest]
    assert main(["predict", "--ckpt_path", path, "--data.path", "t.csv", "--output", "p.csv"]) == 0
    rows = pl.read_csv("p.csv")
    np.testing.assert_allclose(rows.select("^p_.$").to_numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(rows["spread"], spread, atol=1e-5)
    assert rows["spread"].min() > 0
    for file in ("m.pt2", "m.onnx"):
        assert main(["export", "--ckpt_path", path, "--output", file]) == 0
    np.testing.assert_allclose(torch.export.load("m.pt2").module()(torch.tensor(x)).numpy(), mean, atol=1e-5)
    [ran] = onnxruntime.InferenceSession("m.onnx").run(None, {"x": x})
    np.testing.assert_allclose(ran, mean, atol=1e-5)
    model = BPClassifier.from_checkpoint(path)
    np.testing.assert_allclose(model.predict_proba(pl.DataFrame(x, schema=list("pqr"))), mean, atol=1e-5)
    assert model.n_networks == 4
    model.to_checkpoint("again.ckpt", "kind")
    assert main(["predict", "--ckpt_path", "again.ckpt", "--data.path", "t.csv", "--output", "q.csv"]) == 0
    np.testing.assert_allclose(pl.read_csv("q.csv")["spread"], spread, atol=1e-5)
    board = EventAccumulator("logs/t/version_0").Reload()
    curves = [[e.value for e in board.Scalars(f"{name} cost")] for name in ("networks/least", "networks/greatest")]
    assert len(curves[0]) == 4
    costs = [event.value for event in board.Scalars("cost/train")]
    assert all(least < cost < most for least, cost, most in zip(curves[0], costs, curves[1], strict=True))
    layout = board.Tensors(metadata.CONFIG_SUMMARY_TAG)[0].tensor_proto.string_val[0]
    assert b"networks/least cost" in layout
    # A resumed run continues with the same rows drawn.
    whole = copy.deepcopy(state)
    assert main(["fit", "--data.path", "t.csv", "--data.target", "kind", "--trainer.max_epochs", "2", *options]) == 0
    assert main(["fit", "--ckpt_path", newest_checkpoint(None, "last"), "--trainer.max_epochs", "4"]) == 0
    for name, value in load_checkpoint(newest_checkpoint(None, "last"))["state_dict"].items():
        torch.testing.assert_close(value, whole[name], rtol=1e-6, atol=1e-7)


def test_a_network_that_diverges_is_left_out_and_ends_none_of_the_others(tmp_path, capfd):
    data = BuiltinDataModule("sines", batch_size=32)
    module = BPModule(4, 1, [5], "regression", activation="identity", lr=0.05, engine="fused", networks=3)
    with torch.no_grad():
        module.network.layers[1].weight[1] = 1e3  # its steps are far too large
    others = [alone(module, k) for k in (0, 2)]
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(module, datamodule=data)
    assert "torchbp: network 2 of 3 diverged before step" in capfd.readouterr().err
    loader = BuiltinDataModule("sines", batch_size=32).train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for x, y in loader:
            for network in others:
                Descent(network, module.cost, 0.05).step(module.input_scaling(x), module.network_target(y))
    x, y = data.split_rows("val").all()
    with torch.no_grad():
        mean = torch.stack([network(module.input_scaling(x)) for network in others]).mean(0)
        torch.testing.assert_close(module(x), module.target_scaling.inverse(mean), rtol=1e-4, atol=1e-5)
    assert trainer.callback_metrics["cost/val"].item() == pytest.approx(
        TF.mse_loss(mean, module.network_target(y)).item(), rel=1e-4
    )
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    again = BPModule.load_from_checkpoint(tmp_path / "m.ckpt")
    torch.testing.assert_close(again(x), module(x))
    np.testing.assert_allclose(
        BPRegressor.from_checkpoint(tmp_path / "m.ckpt").predict(x), again(x).detach().ravel(), rtol=1e-4, atol=1e-6
    )
    export(again, tmp_path / "m.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), module(x), rtol=1e-4, atol=1e-5)
    wild = BPModule(4, 1, [5], "regression", activation="identity", lr=1e6, engine="fused", networks=3)
    with pytest.raises(FloatingPointError, match="a smaller lr may help"):
        quiet_trainer(max_epochs=1).fit(wild, datamodule=data)


def test_a_checkpoint_that_says_another_number_of_networks_is_refused(tmp_path):
    module = BPModule(2, 1, [4], engine="fused", networks=3)
    data = BuiltinDataModule("moons")
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    load_checkpoint(tmp_path / "m.ckpt")
    for said in (2, None, 10**12):
        checkpoint = torch.load(tmp_path / "m.ckpt", weights_only=True)
        checkpoint["hyper_parameters"]["networks"] = said
        torch.save(checkpoint, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=f"it says {said} networks, it has 3"):
            load_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"networks": 1, "engine": "fused"}, "networks is 1; it must be from 2 to 10000, or null for one"),
        ({"networks": 3}, "networks is 3 and engine is autograd; several networks need engine: fused"),
        ({"bootstrap": True}, "bootstrap is True; it is for several networks"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BPModule(2, 1, **arguments)


def test_what_the_fused_engine_cannot_do_is_refused():
    module = BPModule(2, 1, networks=3, engine="auto")
    with pytest.raises(ValueError, match="several networks cannot be trained with that"):
        quiet_trainer(max_epochs=1, gradient_clip_val=1.0).fit(module, datamodule=BuiltinDataModule("moons"))
