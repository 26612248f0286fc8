"""Exported programs, run without torchbp, compared with torchbp's own predictions."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from test_predict import IGNORED, table, trained

import torchbp
from torchbp import export
from torchbp.activations import ACTIVATIONS
from torchbp.cli import main
from torchbp.data import BuiltinDataModule, TabularDataModule
from torchbp.training import BPModule

FORMATS = ("onnx", "pt2")

ELSEWHERE = """
import sys
sys.modules["torchbp"] = None
import numpy as np
for path in sys.argv[1:]:
    batches = np.load(path + ".npz")
    if path.endswith(".onnx"):
        import onnxruntime
        session = onnxruntime.InferenceSession(path)
        run = lambda x: session.run(None, {"x": x})[0]
    else:
        import torch
        program = torch.export.load(path).module()
        run = lambda x: program(torch.from_numpy(x)).numpy()
    np.savez(path + ".out.npz", **{name: run(batches[name]) for name in batches})
assert not [name for name in sys.modules if name.startswith("torchbp") and sys.modules[name]]
"""


def run_elsewhere(paths: list[str], inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The outputs of each program for each of its batches, computed in another process."""
    for path, batches in zip(paths, inputs, strict=True):
        np.savez(f"{path}.npz", **batches)
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(f"{path}.out.npz")) for path in paths]


def a_module(num_features: int, num_outputs: int, hidden: list[int], task: Any) -> BPModule:
    """An untrained module with the scaling of columns of very different sizes."""
    module = BPModule(num_features, num_outputs, hidden, task, init="normal")
    rows = torch.randn(50, num_features) * 10.0 ** torch.arange(num_features) + 3
    module.input_scaling.fit(rows)
    if module.target_scaling is not None:
        module.target_scaling.fit(torch.randn(50, num_outputs) * 100 + 1000)
    return module


def test_programs_run_without_torchbp_on_any_number_of_rows(tmp_path: Path) -> None:
    modules = {
        "binary": a_module(3, 1, [4], "binary"),
        "classes": a_module(5, 4, [8, 6], "multiclass"),
        "regression": a_module(3, 2, [4], "regression"),
        "linear": a_module(2, 1, [], "regression"),
        "double": a_module(3, 1, [4], "binary").double(),
    }
    paths, inputs, expected = [], [], []
    for name, module in modules.items():
        before = {key: value.clone() for key, value in module.state_dict().items()}
        n0, dtype = module.hparams["num_features"], module.input_scaling.mean.dtype
        batches = {str(rows): torch.randn(rows, n0, dtype=dtype) * 10.0 ** torch.arange(n0) for rows in (1, 2, 7, 300)}
        batches["extreme"] = torch.tensor([[1e30] * n0, [-1e30] * n0, [0.0] * n0], dtype=dtype)
        for extension in FORMATS:
            paths.append(str(tmp_path / f"{name}.{extension}"))
            export.export(module, paths[-1])
            inputs.append({key: batch.numpy() for key, batch in batches.items()})
            expected.append({key: module(batch).detach().numpy() for key, batch in batches.items()})
        assert module.training
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    for outputs, wanted in zip(run_elsewhere(paths, inputs), expected, strict=True):
        for key, output in outputs.items():
            assert output.dtype == wanted[key].dtype
            np.testing.assert_allclose(output, wanted[key], rtol=1e-4, atol=1e-5)


def test_programs_of_a_checkpoint_predict_what_predict_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(200, 0).write_csv("old.csv")
    data = TabularDataModule("old.csv", "good", ignore=IGNORED, types={"city": "ignored"})
    _, checkpoint = trained(data)
    new = table(40, 1).drop_nulls("age")
    new.write_csv("new.csv")
    assert main(["predict", "--ckpt_path", checkpoint, "--data.path", "new.csv", "--output", "predictions.csv"]) == 0
    predicted = pl.read_csv("predictions.csv")["p_true"].to_numpy()
    paths = [f"model.{extension}" for extension in FORMATS]
    for path in paths:
        assert main(["export", "--ckpt_path", checkpoint, "--output", path]) == 0
    assert capsys.readouterr() == ("", "")
    assert sorted(os.listdir()) == sorted(["checkpoints", "new.csv", "old.csv", "predictions.csv", *paths])
    raw = {"x": new["age"].cast(pl.Float32).to_numpy()[:, None]}  # in years: the program does the scaling
    for outputs in run_elsewhere(paths, [raw, raw]):
        np.testing.assert_allclose(outputs["x"][:, 0], predicted, rtol=1e-5)
    for path in paths:
        for package in (torchbp, torch):  # no path of this machine
            assert str(Path(package.__file__).parents[1]).encode() not in Path(path).read_bytes()
    written = {entry.key: json.loads(entry.value) for entry in onnx.load("model.onnx").metadata_props}
    expected = {"task": "binary", "feature_names": ["age"], "output_names": ["false", "true"]}
    assert {key: written[key] for key in expected} == expected
    [age] = written["columns"]
    train = data.split_rows("train").all()[0][:, 0]
    assert (age["name"], age["fill"]) == ("age", train.quantile(0.5).item())
    extra = {"metadata.json": ""}
    torch.export.load("model.pt2", extra_files=extra)
    assert {key: json.loads(value) for key, value in json.loads(extra["metadata.json"]).items()} == {
        **expected,
        "columns": [age],
    }


def test_a_program_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, (old, path) = a_module(3, 1, [4], "binary"), (tmp_path / "old.pt2", tmp_path / "new.pt2")
    old.write_text("precious")
    wrong = {
        "a value": lambda x: module(x).detach() + 1e-3 * (len(x) == 7),
        "the shape": lambda x: module(x).detach()[:1],
        "extremes": lambda x: torch.where(x.abs().amax(1, True) > 1e20, torch.nan, module(x).detach()),
    }
    for run in wrong.values():
        monkeypatch.setitem(export.WRITERS, ".pt2", lambda program, partial, metadata, run=run: partial.touch() or run)
        for target in (old, path):
            with pytest.raises(ValueError, match="the exported program does not compute what the network does"):
                export.export(module, target)
    assert os.listdir(tmp_path) == ["old.pt2"]
    assert old.read_text() == "precious"


def test_a_periodic_activation_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sin(1e30) differs between libraries, so only its range is compared; smaller inputs are compared exactly."""
    swings = replace(ACTIVATIONS["tanh"], name="swings", value=torch.sin, slope=torch.cos, keeps="z", kernel=None)
    module = BPModule(3, 1, [8], "regression", activation=swings, init="normal")
    for name in ("m.onnx", "m.pt2"):
        export.export(module, tmp_path / name)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    of_onnx = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x})[0]
    of_pt2 = torch.export.load(tmp_path / "m.pt2").module()(torch.from_numpy(x))
    for outputs in (of_onnx, of_pt2):
        np.testing.assert_allclose(outputs, module(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-5)
    monkeypatch.setitem(export.WRITERS, ".pt2", lambda *_: lambda x: module(x).detach() + 1e-3)
    with pytest.raises(ValueError, match="the exported program does not compute what the network does"):
        export.export(module, tmp_path / "n.pt2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "model.pb"], "the output model.pb has the extension '.pb'; it must be one of .onnx, .pt2"),
        (["--output", "nowhere/model.pt2"], "nowhere/model.pt2 cannot be written: No such file or directory"),
        (["--output", "folder.onnx"], "folder.onnx is a folder"),
        (["--output", "model.onnx", "--ckpt_path", "none.ckpt"], "the checkpoint none.ckpt does not exist"),
        (["--output", "model.onnx", "--ckpt_path", "old.csv"], "old.csv is damaged or no checkpoint of torchbp"),
        (["--output", "model.onnx", "--ckpt_path", "last"], "logs holds no last checkpoint"),
        (["--output", "model.onnx", "--opset", "9"], "unrecognized arguments: --opset 9"),
        ([], "the following arguments are required: --output"),
    ],
)
def test_bad_calls_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _, checkpoint = trained(BuiltinDataModule("xor"), 1)
    Path("old.csv").write_text("a,b\n")
    Path("folder.onnx").mkdir()
    assert main(["export", "--ckpt_path", checkpoint, *options]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(os.listdir()) == ["checkpoints", "folder.onnx", "old.csv"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_what_is_to_be_installed_for_onnx_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _, checkpoint = trained(BuiltinDataModule("xor"), 1)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.reference", raising=False)
    assert main(["export", "--ckpt_path", checkpoint, "--output", "model.onnx"]) == 1
    message = "torchbp: error: to write ONNX, install onnx and onnxscript: pip install 'torchbp[export]'\n"
    assert capsys.readouterr().err == message
    assert os.listdir() == ["checkpoints"]
