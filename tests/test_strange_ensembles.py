"""Checkpoints of several networks that a stranger has changed: each command refuses them in one line."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from torchbp.cli import main
from torchbp.sklearn import BPClassifier

X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
W1, B1, W2 = "network.layers.0.weight", "network.layers.0.bias", "network.layers.1.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("ensemble") / "m.ckpt"
    BPClassifier((4,), n_networks=3, max_iter=1, tol=0, random_state=0).fit(X, X[:, 0] > 0).to_checkpoint(path)
    return path


def repeated(networks):
    """A change that makes a checkpoint of one network one of ``networks``."""

    def change(state, hparams):
        for name in [name for name in state if name.startswith("network")]:
            state[name] = state[name][:1].expand(networks, *state[name].shape[1:]).contiguous()
        state["kept"], hparams["networks"] = torch.ones(networks), networks

    return change


def with_(name, value):
    return lambda state, hparams: state.update({name: value(state[name])})


def said(networks):
    return lambda state, hparams: hparams.update(networks=networks)


STRANGE = {
    "none kept": (with_("kept", torch.zeros_like), "its kept is tensor([0., 0., 0.]); it has 1 for each network"),
    "half kept": (with_("kept", lambda kept: kept / 2), "its kept is tensor([0.5000, 0.5000, 0.5000])"),
    "two of three kept": (with_("kept", lambda kept: kept[:2].clone()), "its kept has shape (2,), here it is (3,)"),
    "kept as a column": (with_("kept", lambda kept: kept[:, None].clone()), "its kept has shape (3, 1), here it is (3,)"),
    "kept as a number": (with_("kept", lambda kept: kept[0].clone()), "its kept has shape (), here it is (3,)"),
    "kept as integers": (with_("kept", lambda kept: kept.long()), "its kept is not a tensor of floating-point numbers"),
    "no kept": (lambda state, hparams: state.pop("kept"), "its kept has shape None, here it is (3,)"),
    "biases of two": (with_(B1, lambda b: b[:2].clone()), "its network.layers.0.bias has shape (2, 4), here it is (3, 4)"),
    "a bias of one": (with_(B1, lambda b: b[0].clone()), "its network.layers.0.bias has shape (4,), here it is (3, 4)"),
    "weights of two": (with_(W2, lambda w: w[:2].clone()), "its network.layers.1.weight has shape (2, 1, 4), here it is"),
    "first weights of two": (with_(W1, lambda w: w[:2].clone()), "it says 3 networks, it has 2"),
    "0 said": (said(0), "it says 0 networks, it has 3"),
    "-1 said": (said(-1), "it says -1 networks, it has 3"),
    "10^12 said": (said(10**12), "it says 1000000000000 networks, it has 3"),
    "True said": (said(True), "its networks is True; it must be an integer"),
    "a text said": (said("3"), "its networks is '3'; it must be an integer"),
    "none there": (repeated(0), "its kept is tensor([])"),
    "one there": (repeated(1), "networks is 1; it must be from 2 to 10000, or null for one"),
    "10^6 there": (repeated(10**6), "networks is 1000000; it must be from 2 to 10000, or null for one"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_every_command_refuses_it_in_one_line(name, checkpoint, tmp_path, monkeypatch, capfd):
    change, message = STRANGE[name]
    monkeypatch.chdir(tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    change(content["state_dict"], content["hyper_parameters"])
    torch.save(content, "c.ckpt")
    np.save("x.npy", X)
    begun = time.monotonic()
    for args in (["predict", "--data.path", "x.npy", "--output", "p.csv"], ["export", "--output", "m.pt2"], ["test"]):
        assert main([*args[:1], "--ckpt_path", "c.ckpt", *args[1:]]) != 0
        [line] = capfd.readouterr().err.splitlines()
        assert message in line
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is looked at)
        BPClassifier.from_checkpoint("c.ckpt")
    assert message in str(error.value)
    assert time.monotonic() - begun < 30
    assert sorted(path.name for path in Path().iterdir()) == ["c.ckpt", "x.npy"]


def test_as_many_as_may_be_are_read_in_seconds(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    repeated(10_000)(content["state_dict"], content["hyper_parameters"])
    torch.save(content, tmp_path / "c.ckpt")
    begun = time.monotonic()
    model = BPClassifier.from_checkpoint(tmp_path / "c.ckpt")
    assert model.predict_proba(X).shape == (40, 2)
    assert time.monotonic() - begun < 30
