"""Exported recurrent networks, run on batches of other sizes, lengths and paddings than at export."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch

from torchbp.cli import main
from torchbp.export import export
from torchbp.training import BPModule


@pytest.mark.parametrize("extension", ["onnx", "pt2"])
@pytest.mark.parametrize(
    "settings",
    [
        {"sequences": "last", "activation": "tanh", "hidden_sizes": [4, 3]},
        {"sequences": "each", "activation": "swish", "bidirectional": True, "hidden_sizes": [4]},
    ],
    ids=lambda settings: settings["sequences"],
)
def test_any_number_of_sequences_and_steps(tmp_path: Path, settings: dict[str, Any], extension: str) -> None:
    torch.manual_seed(0)
    module = BPModule(3, 2, task="regression", **settings)
    module.input_scaling.mean.fill_(1.0)
    path = str(tmp_path / f"some.{extension}")
    export(module, path)
    if extension == "onnx":
        session = onnxruntime.InferenceSession(path)
        [given] = session.get_inputs()
        assert (given.name, len(given.shape), given.shape[2]) == ("x", 3, 3)
        assert all(isinstance(size, str) for size in given.shape[:2])
    else:
        program = torch.export.load(path).module()
    x = torch.randn(5, 11, 3)
    for number, length in enumerate((11, 4, 1, 7, 11)):
        x[number, length:] = torch.nan
    for part in (x, x[1:2], x[2:3, :1], x[:2, :3]):
        got = torch.from_numpy(session.run(None, {"x": part.numpy()})[0]) if extension == "onnx" else program(part)
        torch.testing.assert_close(got, module(part).detach(), rtol=1e-4, atol=1e-5, equal_nan=True)
        if settings["sequences"] == "each":
            assert torch.equal(got.isnan().all(-1), part.isnan().all(-1))


def test_the_command_exports_what_it_has_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(1e7, 2, (40, 5, 2))  # so far from 0 that x is float64
    np.savez("kinds.npz", x=x, y=np.where(x[:, 0, 0] > 1e7, "up", "down"))
    assert main(["fit", "--data", "SequenceDataModule", "--data.path", "kinds.npz", "--trainer.max_epochs", "1"]) == 0
    path = "logs/kinds/version_0/checkpoints/best.ckpt"
    # In a new process, where nothing is imported yet.
    subprocess.run([sys.executable, "-m", "torchbp", "export", "--ckpt_path", path, "--output", "some.pt2"], check=True)
    assert main(["predict", "--ckpt_path", path, "--data.path", "kinds.npz", "--output", "p.parquet"]) == 0
    program = torch.export.load("some.pt2").module()
    expected = torch.tensor(pl.read_parquet("p.parquet")["p_up"].to_list())
    torch.testing.assert_close(program(torch.from_numpy(x))[:, 0], expected, rtol=1e-4, atol=1e-4)
