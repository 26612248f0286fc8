"""Sequences that cannot be learned from or predicted are refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sequences import ENDED, KINDS, LENGTHS, SUNNY, X, npz, padded, series, table, ts

from torchbp.data import SequenceDataModule


def with_gap(*place: int, value: float = np.nan) -> np.ndarray:
    x = X.copy()
    x[place] = value
    return x


def refused(message: str, path: Path | str, *, kind: type[Exception] = ValueError, **arguments: Any) -> None:
    with pytest.raises(kind) as error:
        SequenceDataModule(path, **arguments).split_rows("test")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


OPTIONS = [
    ({"gaps": "drop"}, "gaps is 'drop'; it must be one of refuse, previous"),
    ({"sequences": "all"}, "sequences is 'all'; it must be one of last, each"),
    ({"task": "clustering"}, "task is 'clustering'; it must be one of binary"),
    ({"window": 0}, "window is 0; it must be from 1 to 100,000"),
    ({"horizon": -1}, "horizon is -1; it must be from 1 to 100,000"),
    ({"horizon": 10**9}, "horizon is 1000000000; it must be from 1 to 100,000"),
    ({"test_size": 0.3, "test_path": "t.npz"}, "test_size is 0.3; with test_path 't.npz' that part is not drawn"),
    ({"val_size": 0.6, "test_size": 0.5}, "val_size is 0.6 and test_size 0.5; they must be at least 0 and below 1 together"),
    ({"target": "kind"}, "target is for the columns of a table, .csv, .tsv or .parquet; "),
    ({"series": "who"}, "series is for the columns of a table"),
    ({"window": 3}, "window or horizon is for the columns of a table"),
    ({"lengths": "ends"}, "has no array 'ends'; it has 'x', 'y'"),
    ({"x": "z"}, "has no array 'z'; it has 'x', 'y'"),
    ({"sequences": "each"}, "y in"),
]


@pytest.mark.parametrize(("arguments", "message"), OPTIONS)
def test_bad_options(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    refused(message, npz(tmp_path), **arguments)


ARRAYS = [
    ({"x": X[:, 0, 0]}, "has type float64 and shape (20,); it must be numbers, (N, T, channels) or (N, T), not empty"),
    ({"x": KINDS}, "has type <U1 and shape (20,); it must be numbers"),
    ({"x": X[:, :0]}, "shape (20, 0, 2); it must be numbers"),
    ({"y": KINDS[:7]}, "has type <U1 and shape (7,); it must be numbers or names, (20, ...) like x"),
    ({"y": X[:, :3]}, "has shape (20, 3, 2) and x (20, 5, 2); y must be (N) or (N, outputs)"),
    ({"lengths": LENGTHS[:3]}, "has type int64 and shape (3,); it must be integers, (20,)"),
    ({"lengths": LENGTHS / 1}, "has type float64 and shape (20,); it must be integers"),
    ({"lengths": LENGTHS + 1}, "holds 6; for x of shape (20, 5, 2) it must be from 1 to 5"),
    ({"lengths": LENGTHS * (LENGTHS > 1)}, "sequence 3 has no step; each needs at least one"),
    ({"x": np.where(np.arange(20)[:, None, None] == 4, np.nan, X)}, "sequence 5 has no step; each needs at least one"),
    (
        {"x": with_gap(1, 2, 1)},
        "channel 'x1' has no value at step 3 of sequence 2; every step needs one, or set --data.gaps",
    ),
    ({"x": with_gap(1, 2, 1, value=np.inf)}, "channel 'x1' holds inf at step 3 of sequence 2; numbers must be finite"),
    ({"x": with_gap(1, 2, 1, value=-1e39)}, "channel 'x1' holds -1e+39 at step 3 of sequence 2; numbers must be finite"),
    ({"y": np.where(np.arange(20) == 6, np.nan, X[:, 0, 0])}, "the target 'y' has no value for sequence 7; each needs one"),
    ({"y": with_gap(1, 2, value=np.nan)[..., 0]}, "the target 'y' has no value for step 3 of sequence 2; each needs one"),
    ({"y": np.array(["a"] * 20)}, "the target 'y' has a single class, 'a'; at least two are needed"),
    ({"y": np.array(["a", "b"] * 9 + ["c", "c"])}, "class 'c' has 2 sequences; train and val (a val_size of 0.2)"),
    ({"y": [object()] * 20}, "cannot be read as NPZ: Object arrays cannot be loaded when allow_pickle=False"),
]


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    refused(message, npz(tmp_path, **arrays))


def test_nothing_to_fill_by(tmp_path: Path) -> None:
    message = "channel 'x1' has no value in sequence 2; at least one is needed to fill the others"
    refused(message, npz(tmp_path, x=with_gap(1, slice(None), 1)), gaps="previous")


OF_TABLE: dict[str, Any] = {"target": "kind", "series": "who", "time": "when"}
TABLES = [
    ({"target": None}, "target is null; for a table it must name one or more columns, each once"),
    ({"separator": "::"}, "separator is '::'; it must be one ASCII character, not a quote or a line break; or tab"),
    ({"decimal": "x"}, "decimal is 'x'; it must be '.' or ','"),
    (
        {"series": None},
        "series is null; for a table it must name the column that holds each row's sequence; or set --data.w",
    ),
    ({"series": "whom"}, "has no column 'whom'; it has 'who', "),
    ({"time": "then"}, "has no column 'then'; it has 'when', "),
    ({"target": "kinds"}, "has no column 'kinds'; it has 'kind', "),
    ({"channels": ["u", "w"]}, "has no column 'w'"),
    ({"channels": []}, "channels is []; it must name at least one column, each once"),
    ({"channels": ["note"]}, "the column 'note' holds 'n0' in row 1; only numbers are allowed"),
    ({"channels": ["u", "kind"]}, "column 'kind' is the target; it cannot be in channels too"),
    ({"time": "kind"}, "column 'kind' is the target; it cannot be in time too"),
    ({"time": "note"}, "the column 'note' holds 'n0' in row 1; times are numbers or dates"),
    ({"target": "u", "sequences": "last"}, "in series 's00'; a series has one value, or set --data.sequences each"),
    ({"window": 3}, "series is 'who'; a forecast, with window or horizon, needs a single series"),
    ({"task": "binary"}, "the target 'kind' has 3 classes, 'a', 'b', 'c'; task binary has two"),
]


@pytest.mark.parametrize(("arguments", "message"), TABLES)
def test_bad_options_of_a_table(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    refused(message, table(tmp_path), **{**OF_TABLE, **arguments})


ROWS = [
    ("a,1,2.5,yes\na,1,3,yes\n", "rows 1 and 2 of one series have the same 't', 1; each step needs its own time"),
    ("a,1,2.5,yes\n,2,3,yes\n", "the column 's' names no series in row 2; each row needs one"),
    ("a,1,2.5,yes\na,,3,yes\n", "the column 't' has no time in row 2; each row needs one"),
    (
        "a,1,2.5,yes\na,2,x,yes\n" + "a,3,4.5,yes\n",
        "has no column of numbers besides target, series and time: 'u' are not numbers",
    ),
    ("a,1,2.5,yes\na,2,,yes\n", "channel 'u' has no value at step 2 of series 'a'; every step needs one"),
    ("a,1,2.5,yes\nb,2,3,\n", "the target 'y' has no value for series 'b'; each needs one"),
    ("a,1,2.5,yes,9\n", "has 5 values in row 1 and names 4 columns"),
    ("", "has no rows; at least one is needed"),
]


@pytest.mark.parametrize(("rows", "message"), ROWS)
def test_bad_rows(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "t.csv").write_text("s,t,u,y\n" + rows)
    refused(message, tmp_path / "t.csv", target="y", series="s", time="t")


def test_a_text_among_numbers(tmp_path: Path) -> None:
    rows = [f"a,{step},{step}.5,{step}" for step in range(40)]
    rows[7] = "a,7,about 7,7"
    (tmp_path / "t.csv").write_text("\n".join(["s,t,u,y", *rows]))
    refused("column 'u' holds 'about 7' in row 8, and numbers elsewhere", tmp_path / "t.csv", target="y", series="s", time="t")


FORECASTS = [
    ({"window": 30}, "train has 24 of the series' 40 steps; a window of 30 and a horizon of 1 take 31", SUNNY[:40]),
    ({"window": 12}, "val has 12 of the series' 60 steps; a window of 12 and a horizon of 1 take 13", SUNNY),
    ({"window": 70}, "the series has 60 steps; a window of 70 and a horizon of 1 take 71", SUNNY),
    ({"window": 3, "task": "binary"}, "task is binary; a forecast predicts numbers, so the task must be regression", SUNNY),
    (
        {"window": 3},
        "channel 'spots' has no value at step 5 of sequence 1; every step needs one",
        np.where(SUNNY[4] == SUNNY, np.nan, SUNNY),
    ),
]


@pytest.mark.parametrize(("arguments", "message", "values"), FORECASTS)
def test_bad_forecasts(tmp_path: Path, arguments: dict[str, Any], message: str, values: np.ndarray) -> None:
    refused(message, series(tmp_path, values), target="spots", time="year", **arguments)


def test_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._memory.most_bytes", lambda: 10**4)
    message = "234 sequences, padded to 22 steps, take 3.84e-05 GiB; with this machine's memory they may"
    refused(message, series(tmp_path, np.arange(300.0)), target="spots", time="year", window=22)


HEAD = "@problemName s\n@timeStamps false\n@univariate false\n@classLabel true 1 2\n@data\n"
LARGE_TS = {
    "a long channel beside many": ",".join("1" * 2000) + 20 * ":1" + ":1\n",
    "a long label beside many": 3 * "1:2\n" + f"1:{20_000 * '1'}\n",
    "many empty channels": 50 * ":" + "1\n",
}


@pytest.mark.parametrize("kind", LARGE_TS)
def test_a_small_file_of_series_that_would_take_more_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("torchbp.data._memory.most_bytes", lambda: 7 * 10**4)
    monkeypatch.setattr("sktime.datasets.load_from_tsfile_to_dataframe", None)  # not called
    (tmp_path / "large.ts").write_text(HEAD + LARGE_TS[kind])
    refused("characters take ", tmp_path / "large.ts")


def test_small_numbers_that_take_more_than_memory_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._memory.most_bytes", lambda: 10**4)
    np.savez_compressed(tmp_path / "bits.npz", x=np.ones((2, 5000), bool), y=np.arange(2))
    refused("of shape (2, 5000): its numbers in float64 take 7.45e-05 GiB", tmp_path / "bits.npz")


@pytest.mark.parametrize(
    ("window", "horizon", "message"), [(40, 1, "sequences, padded to 40 steps"), (2, 30, "forecasts of 30 numbers")]
)
def test_windows_are_counted_before_they_take_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, horizon: int, message: str
) -> None:
    monkeypatch.setattr("torchbp.data._memory.most_bytes", lambda: 2 * 10**4)
    monkeypatch.setattr(np, "concatenate", None)  # not called before
    path = series(tmp_path, np.arange(300.0))
    refused(message, path, target="spots", time="year", window=window, horizon=horizon)


def test_bad_files(tmp_path: Path) -> None:
    refused("gone.npz does not exist", tmp_path / "gone.npz", kind=FileNotFoundError)
    refused("gone.ts does not exist", tmp_path / "gone.ts", kind=FileNotFoundError)
    refused("has the extension '.txt'; it must be one of .npz, .ts, .csv, .tsv, .parquet", tmp_path / "some.txt")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    refused("bad.npz cannot be read as NPZ", tmp_path / "bad.npz")
    for text in ("", "nonsense", "@data\n1,2:a\n", ts(tmp_path).read_text().replace("@data\n", "@data\n1,x:2,3:a\n")):
        (tmp_path / "bad.ts").write_text(text)
        refused("bad.ts cannot be read as TS: ", tmp_path / "bad.ts")
    refused("sequences is each; ", ts(tmp_path), sequences="each")
    refused("has no targets; without them one can only predict", ts(tmp_path, labels=False))


def test_sktime_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sktime.datasets", None)
    refused("needs sktime, which is not installed; pip install '.[sequences]'", ts(tmp_path), kind=ModuleNotFoundError)


def test_another_file_than_that_trained_on(tmp_path: Path) -> None:
    trained = SequenceDataModule(npz(tmp_path, x=padded()))
    _ = trained.rows

    def load(state: dict[str, Any], **arguments: Any) -> None:
        data = SequenceDataModule(**{"path": tmp_path / "some.npz", **arguments})
        data.load_state_dict(state)
        _ = data.rows

    def message(state: dict[str, Any] | None = None, **arguments: Any) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below, as it stands)
            load(trained.state_dict() if state is None else state, **arguments)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert message(sequences="each") == "the checkpoint's sequences is last, here: each"
    assert message(task="binary") == "the checkpoint's task is multiclass, here: binary"
    assert "the checkpoint's target is 'y', here it is 'kind'" in message(path=table(tmp_path), **OF_TABLE)
    other = message(path=table(tmp_path), series="who", target="y", channels=["u", "v"])
    assert other == "the checkpoint's channels are ['x0', 'x1'], here: ['u', 'v']"
    assert "the checkpoint's state of the sequences is {}; it must be" in message({})
    assert "another number of offsets" in message({**trained.state_dict(), "offsets": []})
    npz(tmp_path, x=X[..., :1])
    assert message().endswith("some.npz has 1 channel; the network takes 2")
    npz(tmp_path, y=np.where(KINDS == "a", "d", KINDS))
    assert message() == "the target 'y' holds 'd' in row 1; the classes are 'a', 'b', 'c'"
    npz(tmp_path, y=np.stack([KINDS, KINDS], 1))
    assert "has 2 targets; the network has learned 1: 'y'" in message()


def test_the_number_of_steps_may_differ(tmp_path: Path) -> None:
    trained = SequenceDataModule(npz(tmp_path))
    _ = trained.rows
    data = SequenceDataModule(npz(tmp_path, x=np.concatenate([X, X], 1)))
    data.load_state_dict(trained.state_dict())
    assert data.rows.shapes[0] == (20, 10, 2)
    assert ENDED.any()
