"""The command line as a user runs it, and the event files it leaves, read by TensorBoard's own reader."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.hparams import metadata
from training_runs import CONFIGS

from torchbp.cli import main


def torchbp(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchbp", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"})


def xor(command: str, *options: str) -> list[str]:
    return [command, "--config", str(CONFIGS / "xor.yaml"), *options]


def table(path: str, *options: str) -> list[str]:
    return [
        "fit",
        "--data",
        "TabularDataModule",
        "--data.path",
        path,
        "--data.target",
        "y",
        "--trainer.max_epochs",
        "2",
        *options,
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which breast_cancer was trained for six epochs, from the command line."""
    folder = tmp_path_factory.mktemp("run")
    config = str(CONFIGS / "breast_cancer.yaml")
    done = torchbp("fit", "--config", config, "--trainer.max_epochs", "6", "--data.batch_size", "full", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "epoch 6/6" in done.stdout
    assert "best checkpoint: logs/breast_cancer/version_0/checkpoints/best.ckpt" in done.stdout
    assert "tensorboard --logdir logs/breast_cancer" in done.stdout
    assert "\x1b" not in done.stdout  # no terminal, no bar
    assert done.stderr == ""
    return folder


def test_test_prints_a_table(run: Path) -> None:
    done = torchbp("test", "--config", str(CONFIGS / "breast_cancer.yaml"), "--ckpt_path", "best", cwd=run)
    assert done.returncode == 0, done.stderr
    for metric in ("cost", "accuracy", "f1", "auroc", "average_precision"):
        assert f"{metric}/test" in done.stdout


def test_predict_writes_what_the_checkpoint_predicts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchbp.data import BuiltinDataModule
    from torchbp.training import BPModule

    monkeypatch.chdir(run)
    checkpoint = "logs/breast_cancer/version_0/checkpoints/last.ckpt"
    options = ["--config", str(CONFIGS / "breast_cancer.yaml"), "--ckpt_path", checkpoint]
    assert main(["predict", *options, "--output", "out.csv"]) == 0
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = BPModule.load_from_checkpoint(checkpoint, weights_only=True)(BuiltinDataModule("breast_cancer").rows.all()[0])
    benign = np.array([float(row["p_benign"]) for row in rows])
    np.testing.assert_allclose(benign, expected.detach().squeeze(1), rtol=1e-5)
    assert [row["class"] for row in rows] == ["benign" if p > 0.5 else "malignant" for p in benign]
    assert not list(Path().glob("*.partial"))


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    return accumulator


def test_event_files_hold_costs_metrics_and_histograms(run: Path) -> None:
    board = events(run / "logs/breast_cancer/version_0")
    names = [f"{name}/{split}" for split in ("train", "val") for name in ("cost", "accuracy", "f1")]
    for name in [*names, "auroc/val", "average_precision/val", "norm/dL_dW/1", "norm/dL_db/2"]:
        assert len(board.Scalars(name)) == 6
    costs = [event.value for event in board.Scalars("cost/train")]
    assert costs == sorted(costs, reverse=True)  # the whole set at each step: it only falls
    expected = {f"{prefix}{name}/{layer}" for prefix in ("", "dL_d") for name in "Wb" for layer in (1, 2)}
    assert set(board.Tags()["histograms"]) == expected
    state = torch.load(run / "logs/breast_cancer/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for tag, key in (("W/1", "layers.0.weight"), ("b/2", "layers.1.bias")):
        histogram, values = board.Histograms(tag)[-1].histogram_value, state[f"network.{key}"]
        assert (histogram.min, histogram.max) == pytest.approx((values.min().item(), values.max().item()))
        assert histogram.num == values.numel()
        assert [event.step for event in board.Histograms(tag)] == [1, 2, 3, 4, 5, 6]


def test_event_files_hold_the_graph_and_the_hyperparameters(run: Path) -> None:
    board = events(run / "logs/breast_cancer/version_0")
    nodes = {node.name for node in _graph(board).node}
    assert any("SigmoidLinear" in name for name in nodes), nodes
    plugin = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(plugin)
    assert start.hparams["lr"].number_value == 0.5
    assert start.hparams["hidden_sizes"].string_value == "[16]"
    experiment = metadata.parse_experiment_plugin_data(board.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content)
    assert {info.name.tag for info in experiment.metric_infos} >= {"cost/val", "accuracy/val"}


def _graph(board: EventAccumulator):
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = GraphDef()
    graph.ParseFromString(board._graph if isinstance(board._graph, bytes) else board.Graph().SerializeToString())
    return graph


def test_fit_resumes_in_its_folder_and_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(xor("fit", "--trainer.max_epochs", "3")) == 0
    assert main(xor("fit", "--trainer.max_epochs", "5", "--ckpt_path", "last")) == 0
    assert os.listdir("logs/xor") == ["version_0"]
    # An infinitesimal step never lowers the cost by more than the callback counts as nothing.
    assert main(xor("fit", "--model.lr", "1e-30", "--trainer.max_epochs", "50", "--patience", "4")) == 0
    output = capsys.readouterr().out
    assert "epoch 5/50" in output
    assert "epoch 10/50" not in output
    assert main(xor("test", "--ckpt_path", "best")) == 0


def test_a_table_from_file_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{x},{'red' if x % 3 else 'blue'},{'yes' if x % 3 else 'no'}" for x in range(60)]
    Path("people.csv").write_text("\n".join(["age,colour,y", *rows]))
    with pytest.warns(UserWarning, match="column 'colour' tells the target by itself"):
        assert main(table("people.csv", "--trainer.max_epochs", "20")) == 0
    output = capsys.readouterr().out
    assert "people.csv: binary" in output
    assert "categorical" in output
    assert (
        main(
            ["predict", "--ckpt_path", "best", "--data", "TabularDataModule", "--data.path", "people.csv", "--data.target", "y"]
        )
        == 0
    )
    predicted = [row["class"] for row in csv.DictReader(capsys.readouterr().out.splitlines())]
    assert predicted == [row.split(",")[2] for row in rows]


def test_importing_torchbp_imports_neither_lightning_nor_scikit_learn(tmp_path: Path) -> None:
    code = "import sys, torchbp; print({'lightning', 'sklearn', 'jsonargparse', 'rich', 'torchmetrics'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], ""),
        (["train"], "'train' is no command; the commands are fit, validate, test, predict, export, gradcheck"),
        (["fit", "--config", "none.yaml"], "File does not exist"),
        (["fit"], "required"),
        (xor("fit", "--model.lrr", "1"), "unrecognized arguments: --model.lrr 1"),
        (xor("fit", "--model.lr", "fast"), "Parser key \"model.lr\": Expected a <class 'float'>. Got value: fast"),
        (xor("fit", "--model.lr", "-1"), "lr is -1.0; it must be a finite number above 0"),
        (xor("fit", "--model.hidden_sizes", "[0]"), "layer_sizes is [2, 0, 1]; it must be two or more positive integers"),
        (xor("fit", "--model.cost", "hinge"), "cross_entropy"),
        (xor("fit", "--data.batch_size", "0"), "batch_size is 0; it must be a positive integer or 'full'"),
        (xor("fit", "--data.name", "iris"), "'breast_cancer'"),
        (xor("fit", "--data", "Nothing"), "Nothing"),
        (xor("fit", "--trainer.accelerator", "tpu"), "torch_xla"),
        (["fit", "--config", str(CONFIGS / "diabetes.yaml"), "--model.lr", "1e30"], "the last checkpoint before it is kept"),
        (xor("fit", "--ckpt_path", "last"), "logs/xor holds no last checkpoint; train first"),
        (xor("test", "--ckpt_path", "none.ckpt"), "the checkpoint none.ckpt does not exist"),
        (xor("test", "--ckpt_path", "text.ckpt"), "text.ckpt is damaged or no checkpoint of torchbp"),
        (xor("test", "--ckpt_path", "foreign.ckpt"), "foreign.ckpt is no checkpoint of torchbp"),
        (
            xor("test", "--ckpt_path", "moons.ckpt"),
            "of another network: its num_features is 3, here it is 2",
        ),
        (xor("predict"), "predict needs a trained network; say --ckpt_path PATH, or best or last"),
        (["test", "--data.path", "rows.csv"], "test needs a trained network; say --ckpt_path PATH, or best or last"),
        (table("missing.csv"), "the data file missing.csv does not exist"),
        (table("empty.csv"), "empty.csv is empty; it needs column names and rows"),
        (table("rows.csv", "--data.target", "z"), "rows.csv has no column 'z'; it has 'x', 'y'"),
        (table("rows.csv", "--data.types", '{"x": "numeric"}'), "'two'"),
        (table("rows.csv", "--data.task", "ranking"), "Got value: ranking"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.ckpt").write_text("no checkpoint")
    torch.save({"weights": torch.ones(3)}, "foreign.ckpt")
    Path("empty.csv").touch()
    Path("rows.csv").write_text("x,y\n" + "1,a\n2,b\n3,a\ntwo,b\n" * 10)
    state = {"network.layers.0.weight": torch.ones(3, 3)}
    hyper_parameters = {"num_features": 3, "hidden_sizes": [3], "num_outputs": 1, "task": "binary"}
    torch.save({"state_dict": state, "hyper_parameters": hyper_parameters, "pytorch-lightning_version": "2.6.0"}, "moons.ckpt")
    assert main(args) in (1, 2)
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    if args:
        assert output.err.count("\n") == 1, output.err
        assert output.err.startswith("torchbp: error: ")
        assert message in output.err


def test_a_missing_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    assert main(xor("fit", "--trainer.accelerator", "cuda")) == 1
    assert "not available" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "fit", "validate", "test", "predict"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"] if command else ["--help"]) == 0
    output = capsys.readouterr().out
    assert ("--model.lr" in output) if command else ("torchbp COMMAND" in output)
    assert ("--output" in output) == (command in ("", "predict"))
    assert ("--patience" in output) == (command == "fit")


def test_gradcheck(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--function", "linear", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    statuses = {row["check"]: row["status"] for row in rows}
    assert {row["function"] for row in rows} == {"linear"}
    assert statuses["backward"] == statuses["forward mode"] == "passed"
    # A sign wrong: the planted fault of the audit's own tests.
    assert main(["gradcheck", "--function", "planted_faults:WrongSign", "--inputs", "4,3 2,3 2"]) == 1
    assert "backward" in capsys.readouterr().out
    # Where it is right, it is.
    arguments = ["--function", "planted_faults:WrongSign", "--inputs", "4,3 2,3 2", "--only", "forward mode, vmap", "--json"]
    assert main(["gradcheck", *arguments]) == 0
    assert [row["check"] for row in json.loads(capsys.readouterr().out)] == ["forward mode", "vmap"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "abacus"], "'abacus'"),
        (["--only", "backwards"], "only has backwards; the checks are autocast, backward, "),
        (["--inputs", "4,3"], "inputs and reference are for a function of your own"),
        (["--function", "relu"], "function is 'relu'"),
        (["--function", "nowhere:Function", "--inputs", "2"], "cannot be imported"),
        (["--function", "planted_faults:WrongSign"], "needs inputs"),
        (["--function", "planted_faults:WrongSign", "--inputs", "two"], "inputs is 'two'"),
    ],
)
def test_gradcheck_refuses_in_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", *options]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(xor("fit", "--print_config")) == 0
    assert "hidden_sizes:\n  - 4" in capsys.readouterr().out
