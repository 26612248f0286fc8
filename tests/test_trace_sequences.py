"""A traced iteration of a recurrent network: every equation at every t, compared with autograd."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchbp.cli import main
from torchbp.nn import RecurrentNetwork
from torchbp.trace import trace


@pytest.mark.parametrize("activation", ["tanh", "swish"])
@pytest.mark.parametrize("pooling", ["last", "mean", "each"])
def test_every_equation_at_every_t_is_pytorchs(pooling: Any, activation: str) -> None:
    torch.manual_seed(0)
    network = RecurrentNetwork([2, 3, 2, 1], "linear", activation=activation, pooling=pooling)
    x, y = torch.randn(4, 3, 2), torch.randn(4, *([3] if pooling == "each" else []), 1)
    traced = trace(network, x, y)
    assert max(step.difference for step in traced.steps) < 1e-12
    at = {step.symbol: step.number for step in traced.steps}
    for layer in (1, 2):
        for t in (1, 2, 3):
            assert [at[f"{name}{layer}_{t}"] for name in ("Z", "A", "dA", "dZ")] == ["5.1", "5.1", "5.2", "5.2"]
        assert [at[f"d{name}{layer}"] for name in ("Wi", "Wh", "bi", "bh")] == ["5.3"] * 4
        assert (f"dβ{layer}" in at) == (activation == "swish")
    assert traced.sizes == [2, 3, 2, 1]
    # The network's own descent takes the same step.
    network = network.double()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network.cost(x.double(), y.double())[0].backward()
    optimizer.step()
    updated = [step.value for step in traced.steps if step.number == "3.2g"]
    for value, parameter in zip(updated, network.ordered_parameters(), strict=True):
        torch.testing.assert_close(value, parameter.detach(), rtol=0, atol=1e-12)


def test_formulas_show_where_each_term_comes_from() -> None:
    torch.manual_seed(0)
    formulas = {}
    for pooling, y in (("last", (1, 1)), ("mean", (1, 1)), ("each", (1, 2, 1))):
        network = RecurrentNetwork([1, 2, 1], "linear", pooling=pooling)
        steps = trace(network, torch.ones(1, 2, 1), torch.zeros(y)).steps
        formulas[pooling] = {step.symbol: step.formula for step in steps if step.before is None}
    last, mean, each = formulas.values()
    assert last["Z1_2"] == "X_2 Wi1ᵀ + bi1 + A1_1 Wh1ᵀ + bh1"
    assert last["Z2"] == "A1_2 W2ᵀ + b2"
    assert (last["dA1_2"], last["dA1_1"]) == ("dZ2 W2", "dZ1_2 Wh1")
    assert last["dWh1"] == "dZ1_2ᵀ A1_1"
    assert mean["Z2"] == "((A1_1 + A1_2) / 2) W2ᵀ + b2"
    assert mean["dA1_1"] == "dZ2 W2 / 2 + dZ1_2 Wh1"
    assert each["Z2"] == "stack(A1_1, A1_2) W2ᵀ + b2"
    assert each["dA1_1"] == "step(dZ2 W2, 1) + dZ1_2 Wh1"


def test_the_command_traces_a_sequence_and_the_data_of_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "--x", "0.5; 0.2; -1", "--y", "1", "--sequences", "last", "--markdown", "t.md"]) == 0
    assert r"$\frac{\partial L}{\partial Z_{1,2}} =" in Path("t.md").read_text()
    x = np.random.default_rng(0).normal(size=(20, 6, 2))
    np.savez("some.npz", x=x, y=x[:, 0, 0], lengths=np.full(20, 4))
    options = ["--data", "SequenceDataModule", "--data.path", "some.npz", "--samples", "2", "--json"]
    assert main(["trace", *options]) == 0
    numbers = [step["number"] for step in json.loads(capfd.readouterr().out)["steps"]]
    assert (numbers.count("5.1"), numbers.count("5.2"), numbers.count("5.3")) == (8, 8, 4)
    refusals = {
        "html is for networks without recurrent layers": ["--x", "1; 2", "--y", "1", "--sequences", "last", "--html", "t.html"],
        "with --sequences they are drawn by --seed": ["--x", "1; 2", "--y", "1", "--sequences", "last", "--weights", "w.yaml"],
        "the sequences have 21 steps; at most 20": ["--x", "; ".join("1" * 21), "--y", "1", "--sequences", "mean"],
        "the network is bidirectional": [*options, "--model.bidirectional", "true"],
    }
    for message, arguments in refusals.items():
        assert main(["trace", *arguments]) != 0
        assert message in capfd.readouterr().err
    with pytest.raises(ValueError, match="different lengths"):
        trace(RecurrentNetwork([1, 2, 1]), torch.tensor([[[1.0], [1.0]], [[1.0], [float("nan")]]]), torch.ones(2, 1))
