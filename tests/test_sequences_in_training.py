"""Recurrent networks trained on sequences by Lightning and from the command line, by both engines, and torch.nn.RNN."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import accuracy_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training_runs import quiet_trainer

from torchbp.cli import main
from torchbp.data import SequenceDataModule
from torchbp.training import BPModule

RANDOM = np.random.default_rng(0)
N, T = 90, 6
LENGTHS = RANDOM.integers(2, T + 1, N)
X = RANDOM.normal(2, 3, (N, T, 2))
ENDED = np.arange(T) >= LENGTHS[:, None]
KINDS = np.where(X[:, 0, 0] > 2, "up", "down")  # the target, to be remembered to the end
SUMS = np.where(ENDED, 0, X[..., 0]).cumsum(1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("kinds.npz", x=X, y=KINDS, lengths=LENGTHS)
    np.savez("sums.npz", x=X, y=SUMS[..., None], lengths=LENGTHS)
    return tmp_path


def trained(path: str, seed: int = 0, epochs: int = 2, trainer: Any = None, **settings: Any) -> BPModule:
    torch.manual_seed(seed)
    data = SequenceDataModule(path, batch_size=16)
    sizes: dict[str, Any] = {"hidden_sizes": [5, 4], "sequences": data.sequences, "task": data.task, "activation": "tanh"}
    module = BPModule(data.num_features, data.num_outputs, **{**sizes, "lr": 0.1, **settings}).double()
    quiet_trainer(max_epochs=epochs, precision="64-true", **(trainer or {})).fit(module, datamodule=data)
    return module


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("kinds.npz", {}),
        ("kinds.npz", {"pooling": "mean", "bidirectional": True, "pos_weight": "balanced"}),
        ("sums.npz", {"init": "orthogonal", "clip": 2.0}),
        ("sums.npz", {"bptt_steps": 2}),
        ("sums.npz", {"trainer": {"gradient_clip_val": 0.2}, "bptt_steps": 4}),
    ],
)
def test_both_engines_train_the_same_network(path: str, settings: dict[str, Any]) -> None:
    modules = [trained(path, engine=engine, **settings) for engine in ("autograd", "fused", "auto")]
    assert modules[2].engine == "fused"
    for module in modules[1:]:
        assert module.trainer.global_step == modules[0].trainer.global_step
        for name in ("cost/train", "cost/val", "norm/gradient"):
            values = [one.trainer.callback_metrics.get(name, torch.tensor(0.0)) for one in (modules[0], module)]
            torch.testing.assert_close(*values, rtol=1e-9, atol=0)
        for own, other in zip(module.parameters(), modules[0].parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-10)


def test_truncated_backpropagation_is_written_out_with_torch() -> None:
    """Three parts of two steps, each with its own step of SGD; the state is passed on without its graph."""
    module = trained("sums.npz", bptt_steps=2, hidden_sizes=[3], epochs=1, engine="fused", lr=0.05)
    torch.manual_seed(0)
    start = BPModule(2, 1, hidden_sizes=[3], task="regression", activation="tanh", lr=0.05, sequences="each").double()
    rnn, last = nn.RNN(2, 3, batch_first=True).double(), nn.Linear(3, 1).double()
    rnn.load_state_dict(start.network.layers[0].state_dict())
    last.load_state_dict(start.network.layers[1].state_dict())
    optimizer = torch.optim.SGD([*rnn.parameters(), *last.parameters()], 0.05)
    for x, y, *_ in SequenceDataModule("sums.npz", batch_size=16).train_dataloader():
        x, y = module.input_scaling(x.double()), module.target_scaling(y.double())
        h = torch.zeros(1, len(x), 3, dtype=torch.float64)
        for part in range(0, T, 2):
            px, py = x[:, part : part + 2], y[:, part : part + 2]
            there = ~py.isnan()
            a, h = rnn(px.nan_to_num(0), h.detach())  # a state after the end has no target and no successor
            optimizer.zero_grad()
            (last(a) - py)[there].square().mean().backward()
            optimizer.step()
    expected = [*rnn.parameters(), *last.parameters()]
    for own, theirs in zip(module.network.ordered_parameters(), expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-12)


def fit(path: str, *options: str) -> str:
    settings = ["--data", "SequenceDataModule", "--data.path", path, "--model.activation", "tanh", "--trainer.max_epochs", "30"]
    assert main(["fit", *settings, "--model.hidden_sizes", "[6]", *options]) == 0
    return f"logs/{Path(path).stem}/version_0/checkpoints/best.ckpt"


@pytest.mark.parametrize("options", [[], ["--model.bptt_steps", "3", "--trainer.gradient_clip_val", "0.5"]])
def test_fit_test_and_predict_of_each_step(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    path = fit("sums.npz", *options, "--every_epoch", "true")
    said = capfd.readouterr()
    assert "engine fused" in said.out
    assert "no better" not in said.out
    assert main(["test", "--ckpt_path", path, "--data.path", "sums.npz", "--report", "report.json"]) == 0
    assert main(["predict", "--ckpt_path", path, "--data.path", "sums.npz", "--output", "p.csv"]) == 0
    predicted = pl.read_csv("p.csv")
    assert len(predicted) == (~ENDED).sum()
    module = BPModule.load_from_checkpoint(path)
    x = torch.from_numpy(np.where(ENDED[..., None], np.nan, X)).float()
    expected = module(x)[~torch.from_numpy(ENDED)].detach()
    torch.testing.assert_close(
        torch.tensor(predicted["prediction"].to_list(), dtype=torch.float64), expected[:, 0].double(), rtol=1e-4, atol=1e-4
    )
    board = EventAccumulator("logs/sums/version_0")
    board.Reload()
    tags = board.Tags()
    assert {"Wi/1", "Wh/1", "bi/1", "bh/1", "W/2", "dL_dWh/1"} <= {*tags["histograms"]}
    assert "norm/dL_dA_of_t/1" in tags["images"]
    assert 1 <= board.Scalars("reach/1")[0].value <= T
    assert ("norm/gradient" in tags["scalars"]) == bool(options)
    if options:
        [mean, *_], [largest, *_] = (board.Scalars(name) for name in ("norm/gradient", "norm/gradient/largest"))
        assert 0 < mean.value <= largest.value


def test_fit_goes_on_and_predicts_a_class_a_sequence() -> None:
    path = fit("kinds.npz", "--model.engine", "autograd", "--model.init", "orthogonal")
    assert main(["predict", "--ckpt_path", path, "--data.path", "kinds.npz", "--output", "p.csv"]) == 0
    assert accuracy_score(KINDS, pl.read_csv("p.csv")["class"]) > 0.8
    last = path.replace("best", "last")
    assert main(["fit", "--ckpt_path", last, "--data.path", "kinds.npz", "--trainer.max_epochs", "31"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.hidden_sizes []", "hidden_sizes is []; a network for sequences has a recurrent layer or more"),
        ("--model.bptt_steps 2", "bptt_steps is 2; it is for sequences: each"),
        ("--model.engine compiled", "engine: compiled is for rows; here sequences is last"),
        ("--model.pooling first", "pooling is first"),
        ("--model.lr 1e20 --model.activation relu", "the cost became"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ["--data", "SequenceDataModule", "--data.path", "kinds.npz", "--trainer.max_epochs", "3"]
    assert main(["fit", *settings, *options.split()]) != 0
    error = capfd.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not any("Traceback" in line for line in error)


def test_options_of_sequences_are_refused_of_rows() -> None:
    for settings in ({"bidirectional": True}, {"pooling": "mean"}, {"bptt_steps": 3}, {"init": "orthogonal"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            BPModule(2, 1, **settings)
    with pytest.raises(ValueError, match="bidirectional"):
        BPModule(2, 1, sequences="each", bidirectional=True, bptt_steps=3)


def test_a_checkpoint_of_sequences_is_not_one_of_rows(capfd: pytest.CaptureFixture[str]) -> None:
    path = fit("kinds.npz", "--trainer.max_epochs", "1")
    pl.DataFrame({"a": X[:, 1, 0], "b": X[:, 0, 1], "kind": KINDS}).write_csv("rows.csv")
    capfd.readouterr()
    arguments = ["--data", "TabularDataModule", "--data.path", "rows.csv", "--data.target", "kind"]
    assert main(["test", "--ckpt_path", path, *arguments]) != 0
    assert "another network: its sequences is last, here it is None" in capfd.readouterr().err
