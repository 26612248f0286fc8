"""The command line as a user runs it, and its event files, read by TensorBoard's own reader."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
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
    options = ["--trainer.max_epochs", "6", "--data.batch_size", "full", "--every_epoch", "true"]
    done = torchbp("fit", "--config", config, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "epoch 6/6" in done.stdout
    assert "best checkpoint: logs/breast_cancer/version_0/checkpoints/best.ckpt" in done.stdout
    assert "tensorboard --logdir logs/breast_cancer" in done.stdout
    assert "\x1b" not in done.stdout  # no progress bar without a terminal
    assert done.stderr == ""
    return folder


def test_test_prints_a_table(run: Path) -> None:
    done = torchbp("test", "--config", str(CONFIGS / "breast_cancer.yaml"), "--ckpt_path", "best", cwd=run)
    assert done.returncode == 0, done.stderr
    for metric in ("cost", "accuracy", "f1", "auroc", "average_precision"):
        assert re.search(rf"│ {metric.replace('_', ' ')} +│ +\d\.\d\d+ │", done.stdout)
    assert "113 test rows" in done.stdout
    assert "DataLoader" not in done.stdout


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
    assert costs == sorted(costs, reverse=True)  # each step uses the whole set, so the cost only falls
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
    # A tiny step never lowers the cost by more than the callback's threshold.
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
    with pytest.warns(UserWarning, match="column 'colour' determines the target by itself"):
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


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "torchbp COMMAND" in capsys.readouterr().out


def test_a_missing_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    assert main(xor("fit", "--trainer.accelerator", "cuda")) == 1
    assert "not available" in capsys.readouterr().err


def test_mps_is_not_chosen_and_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As on a Mac, where Lightning chooses mps by itself.
    for package in ("fabric", "pytorch"):
        monkeypatch.setattr(f"lightning.{package}.accelerators.mps.MPSAccelerator.is_available", lambda: True)
    monkeypatch.chdir(tmp_path)
    assert main(xor("fit")) == 0
    capsys.readouterr()
    assert main(xor("fit", "--trainer.accelerator", "mps")) == 1
    message = "torchbp: error: the Trainer's device is mps, which has no float64; set its accelerator to 'cpu'\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("command", ["", "fit", "validate", "test", "predict"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"] if command else ["--help"]) == 0
    output = capsys.readouterr().out
    assert ("--model.lr" in output) if command else ("torchbp COMMAND" in output)
    descriptions = [line for line in output.split("\n\n")[1].splitlines() if line]
    assert descriptions[-1].endswith((".", "PyTorch"))  # no sentence is cut
    assert ("--output" in output) == (command in ("", "predict"))
    assert ("--patience" in output) == (command == "fit")
    assert ("--data.max_categories" in output) == bool(command)  # the options of a table
    assert ("A checkpoint: a path; or best or last" in " ".join(output.split())) == bool(command)


def test_gradcheck(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--function", "linear", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    statuses = {row["check"]: row["status"] for row in rows}
    assert {row["function"] for row in rows} == {"linear"}
    assert statuses["backward"] == statuses["forward mode"] == "passed"
    # A planted fault of the audit's own tests: a wrong sign.
    assert main(["gradcheck", "--function", "planted_faults:WrongSign", "--inputs", "4,3 2,3 2"]) == 1
    assert "backward" in capsys.readouterr().out
    # The other checks pass.
    arguments = ["--function", "planted_faults:WrongSign", "--inputs", "4,3 2,3 2", "--only", "forward mode, vmap", "--json"]
    assert main(["gradcheck", *arguments]) == 0
    assert [row["check"] for row in json.loads(capsys.readouterr().out)] == ["forward mode", "vmap"]


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(xor("fit", "--print_config")) == 0
    assert "hidden_sizes:\n  - 4" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [None, "TabularDataModule", "torchbp.data.SequenceDataModule"])
@pytest.mark.parametrize("command", ["fit", "cross-validate"])
@pytest.mark.parametrize("option", [["--data.null_values+=-99"], ["--data.init_args.null_values+", "-99"]])
def test_a_null_value_is_added_to_the_known_ones(
    command: str, option: list[str], kind: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*options: str) -> list[str]:
        assert main([command, *data, *options, "--print_config"]) == 0
        return yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["null_values"]

    data = [*(["--data", kind] if kind else []), "--data.path", "t.csv", "--data.target", "y"]
    known = printed()
    assert "NA" in known
    assert printed(*option, "--data.null_values+=~", "--data.null_values+=[NA, 01]") == [*known, "-99", "~", "01"]
    assert printed("--data.null_values", "[x]", *option) == ["x", "-99"]
    config = tmp_path / "data.yaml"
    config.write_text("data:\n  class_path: TabularDataModule\n  init_args: {path: t.csv, target: y, null_values: [z]}\n")
    data = ["--config", str(config)]
    assert printed(*option) == ["z", "-99"]


def test_a_whole_number_of_batches_is_no_share_of_them(tmp_path: Path) -> None:
    """Python caches float | int and int | float as one type, and jsonargparse tries the types in the order of the first."""
    printed = torchbp(*xor("fit", "--trainer.limit_train_batches", "1", "--print_config"), cwd=tmp_path).stdout
    assert "  limit_train_batches: 1\n" in printed
