"""Sequences from the command line, without naming a data class: train, test, predict, export, resume."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from measure_sequences import measured
from test_sequences import ENDED, SUNNY, X, npz, padded, series, table, ts

from torchbp.cli import main
from torchbp.data import SequenceDataModule
from torchbp.training import BPModule

FAST = [
    "--trainer.max_epochs",
    "2",
    "--model.hidden_sizes",
    "[4]",
    "--model.lr",
    "0.1",
    "--trainer.enable_progress_bar",
    "false",
]
OF_TABLE = ["--data.target", "kind", "--data.series", "who", "--data.time", "when"]
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Said:
    """Runs a command in the test's folder; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        status = main(list(args))
        out, err = capfd.readouterr()
        return status, out, err

    return run


def fitted(said: Said, *options: str) -> tuple[str, BPModule]:
    status, out, err = said("fit", *options, *FAST)
    assert status == 0, err
    (checkpoint,) = Path().glob("logs/*/version_0/checkpoints/best.ckpt")
    return out, BPModule.load_from_checkpoint(checkpoint).eval()


def predicted(said: Said, *options: str) -> pl.DataFrame:
    status, out, err = said("predict", "--ckpt_path", "best", *options)
    assert status == 0, err
    return pl.read_csv(io.StringIO(out))


@torch.no_grad()
def outputs(module: BPModule, x: np.ndarray) -> np.ndarray:
    return module(torch.tensor(x, dtype=torch.float32)).numpy()


def test_a_table_of_steps_is_trained_on_and_another_predicted(tmp_path: Path, said: Said) -> None:
    out, module = fitted(said, "--data.path", str(table(tmp_path)), *OF_TABLE)
    assert (
        "some.csv: multiclass, 20 sequences of 1 to 5 steps, 2 channels: u, v; not used, because they are not numbers: note"
        in out
    )
    assert "│ train │   12 │ 6 │ 3 │ 3 │" in out
    status, out, err = said("test", "--ckpt_path", "best")
    assert status == 0, err
    assert "4 test rows" in out
    pl.read_csv(table(tmp_path)).drop("kind", "note").write_csv("new.csv")
    found = predicted(said, "--data.path", "new.csv")
    assert found["who"].to_list() == [f"s{number:02}" for number in range(20)]
    expected = outputs(module, padded())
    np.testing.assert_allclose(found.select("p_a", "p_b", "p_c").to_numpy(), expected, rtol=1e-4, atol=1e-6)
    assert found["class"].to_list() == np.array(["a", "b", "c"])[expected.argmax(1)].tolist()
    status, out, err = said("test", "--ckpt_path", "best", "--data.path", str(ts(tmp_path)))
    assert status == 1  # a .ts file has no table columns
    assert "target is for the columns of a table, .csv, .tsv or .parquet; " in err.splitlines()[-1]


def test_a_ts_file_beside_its_test_file(tmp_path: Path, said: Said) -> None:
    _, module = fitted(said, "--data.path", str(ts(tmp_path)), "--data.test_path", str(ts(tmp_path, "other.ts")))
    status, out, err = said("test", "--ckpt_path", "best", "--report", "report.json")
    assert status == 0, err
    assert "20 test rows" in out
    assert {one["column"] for one in json.loads(Path("report.json").read_text())["importance"]} == {"dim_0", "dim_1"}
    found = predicted(said, "--data.path", str(ts(tmp_path, "new.ts", labels=False)))
    np.testing.assert_allclose(found.select("p_a", "p_b", "p_c").to_numpy(), outputs(module, padded()), rtol=1e-4, atol=1e-6)


def test_a_forecast_continues_after_the_files_end(tmp_path: Path, said: Said) -> None:
    options = ["--data.target", "spots", "--data.time", "year", "--data.window", "4", "--data.horizon", "2"]
    out, module = fitted(said, "--data.path", str(series(tmp_path)), *options)
    assert "sun.csv: regression, 45 windows of 4 steps, 1 channel: spots" in out
    longer = np.append(SUNNY, [1.0, 2, 3])
    found = predicted(said, "--data.path", str(series(tmp_path, longer)))
    assert found["last_year"].to_list() == list(range(1903, 1963))
    assert found["last_year"].dtype == pl.Int64  # 1903, in the file's format
    assert found.columns == ["row", "last_year", "prediction_spots+1", "prediction_spots+2"]
    status, out, err = said("test", "--ckpt_path", "best", "--data.path", "sun.csv")
    assert status == 0, err
    assert "58 test rows" in out
    assert "sun.csv is not the file that was trained on; all of its rows are tested" in err
    windows = np.lib.stride_tricks.sliding_window_view(longer, 4)[..., None]
    np.testing.assert_allclose(found.to_numpy()[:, 2:], outputs(module, windows), rtol=1e-4)


@pytest.mark.parametrize("bptt", [[], ["--model.bptt_steps", "3"]])
def test_a_prediction_for_each_step(tmp_path: Path, said: Said, bptt: list[str]) -> None:
    path = table(tmp_path, sums=X.sum(2).cumsum(1))
    options = ["--data.target", "sums", "--data.series", "who", "--data.time", "when", "--data.channels", "[u, v]"]
    _, module = fitted(said, "--data.path", str(path), *options, *bptt)
    status, _, err = said("test", "--ckpt_path", "best", "--report", "report.json")
    assert status == 0, err
    x, y = SequenceDataModule(path, "sums", "who", "when", ["u", "v"]).split_rows("test").all()
    there = ~y[..., 0].isnan()
    report = json.loads(Path("report.json").read_text())
    assert report["rows"] == there.sum()
    errors = outputs(module, x.numpy())[there] - y[there].numpy()
    assert report["metrics"]["mse"] == pytest.approx(float((errors**2).mean()), rel=1e-4)
    assert report["targets"][0]["rmse"] == pytest.approx(float((errors**2).mean() ** 0.5), rel=1e-4)
    found = predicted(said, "--data.path", str(path))
    number, step = (~ENDED).nonzero()
    assert found["who"].to_list() == [f"s{one:02}" for one in number]
    assert found["when"].to_list() == [f"{2020 + one}-03-04" for one in step]
    np.testing.assert_allclose(found["prediction"], outputs(module, padded())[~ENDED][:, 0], rtol=1e-4, atol=1e-5)


def test_one_long_series_is_cut_in_three(tmp_path: Path, said: Said) -> None:
    options = ["--data.target", "spots", "--data.time", "year", "--data.horizon", "1", "--model.bptt_steps", "10"]
    out, module = fitted(said, "--data.path", str(series(tmp_path)), *options)
    assert "sun.csv: regression, 3 sequences of 11 to 35 steps, 1 channel: spots" in out
    found = predicted(said, "--data.path", str(series(tmp_path)))
    assert found["last_year"].to_list() == list(range(1900, 1960))
    np.testing.assert_allclose(found["prediction"], outputs(module, SUNNY[None, :, None])[0, :, 0], rtol=1e-4)
    (rows,) = (line for line in out.split("the best of")[1].splitlines() if line.startswith("│ rows "))
    assert [int(cell) for cell in rows.split("│")[2:-1]] == [35, 11, 11, 11]  # forecasts


def test_a_run_goes_on_where_it_ended(tmp_path: Path, said: Said) -> None:
    path = str(npz(tmp_path, x=padded()))
    whole, _ = said("fit", "--data", "SequenceDataModule", "--data.path", path, *FAST, "--trainer.max_epochs", "4")[:2]
    first = said("fit", "--data", "SequenceDataModule", "--data.path", path, *FAST)[0]
    status, _, err = said("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4")
    assert (whole, first, status) == (0, 0, 0), err
    ends = [
        torch.load(f"logs/some/version_{version}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for version in (0, 1)
    ]
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=0)


def test_an_exported_program_takes_sequences_of_other_lengths(tmp_path: Path, said: Said) -> None:
    _, module = fitted(said, "--data.path", str(ts(tmp_path)))
    status, _, err = said("export", "--ckpt_path", "best", "--output", "model.pt2")
    assert status == 0, err
    program = torch.export.load("model.pt2").module()
    for x in (padded(), padded()[:3, :4], np.concatenate([X, padded()], 1)):
        found = program(torch.tensor(x, dtype=torch.float32)).numpy()
        np.testing.assert_allclose(found, outputs(module, x), rtol=1e-4, atol=1e-6)


def refusals(folder: Path) -> list[tuple[list[str], int, str]]:
    path, sun, arrays = str(table(folder)), str(series(folder)), str(npz(folder))
    fit = ["fit", "--data.path", path, "--data.target", "kind"]
    return [
        (
            [*fit, "--data.time", "when"],
            1,
            "series is null; for a table it must name the column that holds each row's sequence",
        ),
        ([*fit, "--data.series", "whom"], 1, "has no column 'whom'; it has 'who'"),
        ([*fit, "--data.series", "who", "--data.gaps", "drop"], 2, "gaps is drop; it must be one of 'refuse', 'previous'"),
        ([*fit, "--data.series", "who", "--data.dates", "cyclic"], 2, "dates"),
        (["fit", "--data.path", sun, "--data.window", "3"], 1, "target is null; for a table it must name one or more columns"),
        (["fit", "--data.path", sun, "--data.target", "spots", "--data.window", "x"], 2, "window is x; it must be int"),
        (["fit", "--data.path", "gone.ts"], 1, "the data file gone.ts does not exist"),
        (["fit", "--data.path", arrays, "--data.lengths", "ends"], 1, "has no array 'ends'; it has 'x', 'y'"),
        (
            ["fit", "--data", "some.ts"],
            2,
            "data is some.ts; it must be ArrayDataModule, BuiltinDataModule, SequenceDataModule, ",
        ),
    ]


def test_errors_are_reported_in_one_line(tmp_path: Path, said: Said) -> None:
    for args, wanted, message in refusals(tmp_path):
        status, _, err = said(*args)
        assert (status, len(err.splitlines())) == (wanted, 1), (args, err)
        assert message in err, (args, err)
    assert not Path("logs").exists()


def test_options_fixed_by_training_cannot_be_changed(tmp_path: Path, said: Said) -> None:
    sun = series(tmp_path)
    options = ["--data.target", "spots", "--data.time", "year", "--data.window", "4"]
    fitted(said, "--data.path", str(sun), *options)
    status, _, err = said("test", "--ckpt_path", "best", "--data.window", "5")
    assert status == 1
    assert "window is 5; a checkpoint keeps its settings, and its window is 4" in err.splitlines()[-1]
    gap = pl.read_csv(sun).with_columns(spots=pl.when(pl.col("year") == 1930).then(None).otherwise(pl.col("spots")))
    gap.write_csv("gap.csv")
    status, _, err = said("predict", "--ckpt_path", "best", "--data.path", "gap.csv")
    assert status == 1
    assert "channel 'spots' has no value at step 31 of sequence 1; every step needs one, or set --data.gaps previous" in err
    assert len(predicted(said, "--data.path", "gap.csv", "--data.gaps", "previous")) == 57


@pytest.mark.parametrize(
    ("name", "epochs", "within"),
    [
        ("digit_rows", 3, (0.94, 1)),
        ("italy_power_demand", 30, (0.93, 1)),
        ("japanese_vowels", 4, (0.93, 1)),
        ("sunspots", 10, (0, 25)),  # guessing last year's value: 29.9
    ],
)
def test_configurations_are_learned_as_torch_nn_rnn_learns_them(name: str, epochs: int, within: tuple[float, float]) -> None:
    ours, theirs, apart, _ = measured(name, 0, max_epochs=epochs)
    assert apart < 1e-5
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert within[0] < ours < within[1]
