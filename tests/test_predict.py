"""Predictions of a file from a checkpoint alone, compared with the training process's own predictions."""

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from onnx.reference import ReferenceEvaluator
from training_runs import quiet_trainer

from torchbp._text import digits
from torchbp.cli import main
from torchbp.data import BuiltinDataModule, TabularDataModule
from torchbp.training import BPModule
from torchbp.training.prediction import prediction_columns, table_file


def table(rows: int, seed: int) -> pl.DataFrame:
    """A table with names, gaps, categories, and targets of each kind that depend on them."""
    draw = np.random.default_rng(seed)
    age, city = draw.integers(18, 90, rows), draw.choice(list("vwxyz"), rows)
    level = age / 30 + (city == "v") + draw.random(rows)
    return pl.DataFrame(
        {
            "name": [f"person {draw.integers(10**9)}" for _ in range(rows)],
            "age": [None if draw.random() < 0.1 else int(value) for value in age],
            "city": city,
            "level": level.round(3),
            "grade": np.array(["low", "mid", "high"])[np.digitize(level, [1.8, 2.8])],
            "height": (level * 100).round(),
            "good": level > 2.2,
            "fair": level > 1.8,
        }
    )


TARGETS: dict[str, str | list[str]] = {
    "binary": "good",
    "multiclass": "grade",
    "regression": "level",
    "several": ["level", "height"],
    "multilabel": ["good", "fair"],
}
IGNORED = ["level", "height", "grade", "fair"]  # when the target is "good"


def trained(data: Any, epochs: int = 3) -> tuple[BPModule, str]:
    """A trained network and its checkpoint."""
    module = BPModule(data.num_features, data.num_outputs, task=data.task, lr=0.05)
    checkpoint = ModelCheckpoint("checkpoints", filename="best", enable_version_counter=False)
    trainer = quiet_trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoint])
    trainer.fit(module, datamodule=data)
    return module, checkpoint.best_model_path


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint that predicts "good" from age and city, in a new working folder."""
    monkeypatch.chdir(tmp_path)
    table(200, 0).write_csv("old.csv")
    return trained(TabularDataModule("old.csv", "good", ignore=IGNORED))[1]


def predicted(module: BPModule, data: LightningDataModule) -> np.ndarray:
    return torch.cat(quiet_trainer().predict(module, datamodule=data)).numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize("extension", ["csv", "tsv", "parquet", "-"])
@pytest.mark.parametrize("kind", TARGETS)
def test_a_new_file_and_the_checkpoint_give_what_the_training_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, extension: str
) -> None:
    monkeypatch.chdir(tmp_path)
    targets = [TARGETS[kind]] if isinstance(TARGETS[kind], str) else TARGETS[kind]
    ignore = sorted({"level", "height", "grade", "good", "fair"} - set(targets))
    table(200, 0).write_csv("old.csv")
    new = table(70, 1).drop(targets)
    new.write_csv("new.csv")
    data = TabularDataModule("old.csv", TARGETS[kind], ignore=ignore, batch_size=16)
    module, checkpoint = trained(data)
    again = TabularDataModule("new.csv", TARGETS[kind])
    again.load_state_dict(data.state_dict())
    expected = predicted(module, again)

    output = extension if extension == "-" else f"out.{extension}"
    assert main(["predict", "--ckpt_path", checkpoint, "--data.path", "new.csv", "--output", output]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    if extension == "parquet":
        rows = pl.read_parquet(output)
    else:
        text = captured.out if output == "-" else Path(output).read_text()
        rows = pl.read_csv(io.StringIO(text), separator="\t" if extension == "tsv" else ",")
    assert rows["row"].to_list() == [*range(1, 71)]
    assert rows["name"].to_list() == new["name"].to_list()
    unused = [name for name in new.columns if name not in ("age", "city")]
    assert rows.columns[: 1 + len(unused)] == ["row", *unused]
    values = rows.select(rows.columns[1 + len(unused) :])
    if kind in ("binary", "multiclass"):
        names = {"binary": ["false", "true"], "multiclass": ["high", "low", "mid"]}[kind]
        assert values.columns == ["class", *(f"p_{name}" for name in names)]
        both = np.hstack([1 - expected, expected]) if kind == "binary" else expected
        assert values["class"].cast(pl.String).to_list() == [names[number] for number in both.argmax(1)]
        expected, values = both, values.drop("class")
    else:
        titles = {"regression": ["prediction"], "several": ["prediction_level", "prediction_height"]}
        assert values.columns == titles.get(kind, ["p_good", "p_fair"])
    # Bit for bit: each float32 is written as the shortest text that identifies it.
    np.testing.assert_array_equal(values.to_numpy().astype(np.float32), expected)
    assert sorted(os.listdir()) == sorted({"checkpoints", "old.csv", "new.csv", output} - {"-"})


def test_unused_columns_are_copied_unchanged(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    says = ["NA", "?", " null ", "01", "1e3", "TRUE", '"', "a,b", "nan", ""]
    new = pl.DataFrame({"age": ["NA", "30", "?"] + ["50"] * 7, "city": ["v", "null"] * 5, "name": says})
    new.write_csv("new.csv")
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", checkpoint, "--data.path", "new.csv"]) == 0
    rows = pl.read_csv(io.StringIO(capsys.readouterr().out), infer_schema=False)
    assert rows["name"].fill_null("").to_list() == says
    assert rows["p_true"].n_unique() == 4  # a known or missing age, and two cities


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_rows_without_a_value_are_predicted_too(checkpoint: str, end: str) -> None:
    Path("new.csv").write_text("age,city,row,row (input)\n,,a,b\n30,v,,\n,,,\n,,," + end)
    Path("a[1]").mkdir()  # not a glob pattern
    assert main(["predict", "--ckpt_path", checkpoint, "--data.path", "new.csv", "--output", "a[1]/out.parquet"]) == 0
    rows = pl.read_parquet("a[1]/out.parquet", glob=False)
    assert rows["row"].to_list() == [1, 2, 3, 4]
    assert rows["row (input)"].to_list() == ["a", None, None, None]
    assert rows["row (input) (input)"].to_list() == ["b", None, None, None]


def test_a_built_in_set_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = BuiltinDataModule("digits")
    module, checkpoint = trained(data, 1)
    assert main(["predict", "--ckpt_path", checkpoint, "--output", "out.parquet"]) == 0
    rows = pl.read_parquet("out.parquet")
    assert rows.columns == ["row", "class", *(f"p_{digit}" for digit in range(10))]
    np.testing.assert_array_equal(rows.drop("row", "class").to_numpy(), predicted(module, data))


def test_a_new_file_is_tested_whole_and_the_training_file_by_its_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(200, 0).write_csv("old.csv")
    table(70, 1).write_csv("new.csv")
    data = TabularDataModule("old.csv", "good", ignore=IGNORED, seed=5)
    module, checkpoint = trained(data)
    new = TabularDataModule("new.csv", "good", val_size=0, test_size=0)
    new.load_state_dict(data.state_dict())
    [as_split], [whole] = (quiet_trainer().test(module, datamodule=data, verbose=False) for data in (data, new))
    shutil.copy("old.csv", "copy.csv")

    def check(options: list[str], metrics: Any, note: str) -> None:
        assert main(["test", "--ckpt_path", checkpoint, *options]) == 0
        shown, said = capsys.readouterr()
        assert "".join(said.splitlines(keepends=True)[:1]) == note  # the next line says how many rows were trained on
        for name, value in metrics.items():
            row = f"│ {name.removesuffix('/test').replace('_', ' ')} "
            [line] = [line for line in shown.splitlines() if line.startswith(row)]
            assert line.split("│")[2].strip() == digits(value)

    check(["--data.path", "old.csv"], as_split, "")
    check(["--data.path", "copy.csv"], as_split, "")
    other = "is not the file that was trained on; all of its rows are tested\n"
    check(["--data.path=new.csv"], whole, f"torchbp: new.csv {other}")
    config = {
        "model": {"lr": 1.0},
        "data": {"class_path": "TabularDataModule", "init_args": {"path": "new.csv", "target": "good"}},
    }
    Path("config.yaml").write_text(json.dumps(config))  # JSON is YAML
    check(["--config", "config.yaml"], whole, f"torchbp: new.csv {other}")
    shutil.copy("new.csv", "old.csv")
    check(["--data.path", "old.csv"], whole, f"torchbp: old.csv {other}")


def test_to_train_on_another_path_leaves_the_split_as_it_was_and_finds_the_tables_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--data.target", "good", "--data.ignore", json.dumps(IGNORED), "--trainer.max_epochs"]
    for name in ("mine", "other"):
        table(200, 0).write_csv(f"{name}.csv")
        assert main([*fit, "1", "--data.path", f"{name}.csv"]) == 0
    other = Path("logs/other/version_0/checkpoints/last.ckpt").read_bytes()
    Path("moved").mkdir()
    shutil.move("mine.csv", "moved/mine.csv")
    assert main([*fit, "2", "--data.path", "moved/mine.csv", "--ckpt_path", "last"]) == 0
    assert main(["test", "--config", "logs/mine/version_0/config.yaml", "--ckpt_path", "best"]) == 0
    saved = torch.load("logs/mine/version_0/checkpoints/last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["datamodule_hyper_parameters"]["test_size"]) == (1, 0.2)
    assert Path("logs/other/version_0/checkpoints/last.ckpt").read_bytes() == other


def test_best_is_the_newest_runs_where_no_data_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(60, 0).write_csv("old.csv")
    options = ["--data.target", "good", "--data.ignore", json.dumps(IGNORED), "--trainer.max_epochs", "1"]
    assert main(["fit", "--data.path", "old.csv", *options]) == 0
    capsys.readouterr()
    table(5, 1).drop("good").write_parquet("new.parquet")
    assert main(["predict", "--ckpt_path", "best", "--data.path", "new.parquet"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 6
    assert captured.err == (
        "torchbp: the newest run's checkpoint is logs/old/version_0/checkpoints/best.ckpt\n"
        "torchbp: the data settings are those of logs/old/version_0/config.yaml\n"
    )


def test_columns_of_the_file_and_of_the_predictions_keep_apart(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    new = pl.DataFrame({"class": ["a", 'b,"c"'], "row": [7, 8], "age": [30, 40], "city": ["v", "w"]})
    new.write_csv("new.csv")
    assert main(["predict", "--ckpt_path", checkpoint, "--data.path", "new.csv"]) == 0
    rows = pl.read_csv(io.StringIO(capsys.readouterr().out))
    assert rows.columns == ["row", "class (input)", "row (input)", "class", "p_false", "p_true"]
    assert rows["class (input)"].to_list() == new["class"].to_list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--output", "out.xlsx"],
            "the output out.xlsx has the extension '.xlsx'; it must be one of .csv, .tsv, .parquet, or - ",
        ),
        (["--output", "nowhere/out.csv"], "nowhere/out.csv cannot be written: No such file or directory"),
        (["--output", "nowhere/out.parquet"], "nowhere/out.parquet cannot be written: No such file or directory"),
        (["--output", "folder.csv"], "folder.csv is a folder; it must be a file"),
        (["--data.path", "gone.csv"], "the data file gone.csv does not exist"),
        (["--data.path", "other.csv"], "other.csv has no column 'age'; it has 'b'"),
        (["--data.target", "city"], "the checkpoint's target is 'good', here it is 'city'"),
        (["--trainer.devices", "2", "--trainer.accelerator", "cpu"], "predictions are written by one process, not 2"),
        (["--data.batch_size", "0"], "batch_size is 0; it must be a positive integer or 'full'"),
    ],
)
def test_a_refusal_leaves_the_old_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table(60, 0).write_csv("old.csv")
    _, checkpoint = trained(TabularDataModule("old.csv", "good", ignore=IGNORED), 1)
    Path("other.csv").write_text("b\n1\n")
    Path("folder.csv").mkdir()
    Path("out.csv").write_text("precious")
    before = sorted(os.listdir())
    assert main(["predict", "--ckpt_path", checkpoint, "--data.path", "old.csv", "--output", "out.csv", *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(os.listdir()) == before
    assert Path("out.csv").read_text() == "precious"


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_an_interrupted_run_leaves_the_old_predictions_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], extension: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table(60, 0).write_csv("old.csv")
    _, checkpoint = trained(TabularDataModule("old.csv", "good", ignore=IGNORED), 1)
    Path(f"out.{extension}").write_text("precious")
    before, begun, step = sorted(os.listdir()), [], BPModule.predict_step

    def interrupted(self: BPModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            begun.extend(tmp_path.glob("*.partial*"))
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(BPModule, "predict_step", interrupted)
    monkeypatch.setattr("torchbp.data._csv.ROWS", 1)
    options = ["--ckpt_path", checkpoint, "--data.path", "old.csv", "--output", f"out.{extension}"]
    assert main(["predict", *options]) == 130
    assert begun  # some rows were written
    assert capsys.readouterr().err == "torchbp: error: interrupted\n"
    assert sorted(os.listdir()) == before
    assert Path(f"out.{extension}").read_text() == "precious"


def test_files_left_by_a_killed_process_are_removed_when_the_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.999999999.0123.partial").touch()
    (tmp_path / "out.parquet.999999999.0123.partial.abc").mkdir()
    (tmp_path / "out.parquet.999999999.0123.partial.abc/1.parquet").touch()
    (tmp_path / "about.parquet.999999999.0123.partial").touch()  # of another file
    with table_file(str(tmp_path / "out.parquet")) as write:
        write(pl.DataFrame({"row": [1]}))
    assert sorted(os.listdir(tmp_path)) == ["about.parquet.999999999.0123.partial", "out.parquet"]


def test_parquet_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.training.prediction.PART", 10)
    rows = pl.DataFrame({"row": range(93), "class": ["a", "b", "c"] * 31})
    with table_file(str(tmp_path / "out.parquet")) as write:
        for start in range(0, 93, 4):
            write(rows[start : start + 4])
        [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
        assert len(list(folder.iterdir())) == 7
    assert pl.read_parquet(tmp_path / "out.parquet").equals(rows)
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_classes_have_numbers_where_they_have_no_names() -> None:
    columns = prediction_columns(torch.tensor([[0.2, 0.7], [0.9, 0.1]]), "multiclass", ["0", "1"])
    assert columns["class"].to_list() == ["1", "0"]
    assert columns["p_1"].tolist() == pytest.approx([0.7, 0.1])


def test_a_configuration_that_differs_from_the_checkpoint_is_reported_and_not_used(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"path": "old.csv", "target": "good", "missing": "refuse", "seed": 5, "ignore": IGNORED}
    config = {"model": {"hidden_sizes": [3]}, "data": {"class_path": "TabularDataModule", "init_args": arguments}}
    Path("config.yaml").write_text(json.dumps(config))
    assert main(["test", "--ckpt_path", checkpoint, "--data.path", "old.csv"]) == 0
    expected = capsys.readouterr()
    assert main(["test", "--ckpt_path", checkpoint, "--config", "config.yaml"]) == 0
    shown, said = capsys.readouterr()
    assert shown == expected.out
    assert said == expected.err + (
        "torchbp: of the configuration, these are not used: missing refuse (the checkpoint's is impute), seed 5 (the "
        "checkpoint's is 0), hidden_sizes [3] (the checkpoint's is [16])\n"
    )


def test_numbers_far_from_0_are_predicted_and_exported_to_the_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    time_, other = 1_700_000_000 + draw.permutation(200), draw.random(200)
    frame = pl.DataFrame({"time": time_, "other": other, "y": 2e9 + (time_ - 1_700_000_000) / 100 + other})
    frame.write_csv("far.csv")
    data = TabularDataModule("far.csv", "y")
    _, path = trained(data, 60)
    frame.drop("y").write_parquet("new.parquet")
    for new in ("far.csv", "new.parquet"):
        assert main(["predict", "--ckpt_path", path, "--data.path", new, "--output", "out.parquet"]) == 0
        prediction = pl.read_parquet("out.parquet")["prediction"]
        assert prediction.to_numpy() == pytest.approx(frame["y"].to_numpy(), abs=1, rel=0)
        assert (prediction - prediction.mean()).std() > 0.5
    x = torch.from_numpy(frame.select("time", "other").cast(pl.Float64).to_numpy())
    assert main(["export", "--ckpt_path", path, "--output", "model.pt2"]) == 0
    assert main(["export", "--ckpt_path", path, "--output", "model.onnx"]) == 0
    of_pt2 = torch.export.load("model.pt2").module()(x)[:, 0].numpy()
    [of_onnx] = ReferenceEvaluator(onnx.load("model.onnx")).run(None, {"x": x.numpy()})
    assert of_pt2 == pytest.approx(prediction.to_numpy(), abs=1e-5, rel=0)
    assert of_onnx[:, 0] == pytest.approx(prediction.to_numpy(), abs=1e-5, rel=0)
