"""Sequences and forecasts, compared with NumPy: values, padding, splits, and what a checkpoint stores of them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits
from sklearn.utils.class_weight import compute_class_weight
from training_runs import CONFIGS, config

from torchbp.data import BuiltinDataModule, SequenceDataModule
from torchbp.nn import Standardize
from torchbp.training._class_weights import balanced_classes, balanced_positives
from torchbp.training._evaluation import baseline_of

LENGTHS = np.array([3, 5, 1, 4] * 5)
X = np.random.default_rng(0).normal(3, 2, (20, 5, 2))
ENDED = np.arange(5) >= LENGTHS[:, None]
KINDS = np.array(["a", "b", "a", "c"] * 5)


def padded(x: np.ndarray = X) -> np.ndarray:
    return np.where(ENDED[..., None], np.nan, x)


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "some.npz", **{"x": X, "y": KINDS, **arrays})
    return folder / "some.npz"


def table(folder: Path, extension: str = "csv", shuffled: bool = True, **columns: Any) -> Path:
    """The sequences as a table with one step per row: channels u and v, and the target kind."""
    number, step = (~ENDED).nonzero()
    frame = pl.DataFrame(
        {
            "who": [f"s{one:02}" for one in number],
            "when": [f"{2020 + one}-03-04" for one in step],
            "u": X[number, step, 0],
            "note": [f"n{one}" for one in step],
            "v": X[number, step, 1],
            "kind": KINDS[number],
            **{name: values[number, step] for name, values in columns.items()},
        }
    )
    if shuffled:  # except each first row, which decides the order of the sequences
        rest = np.random.default_rng(0).permutation(np.flatnonzero(step > 0))
        frame = frame[[*np.flatnonzero(step == 0).tolist(), *rest.tolist()]]
    path = folder / f"some.{extension}"
    getattr(frame, f"write_{'parquet' if extension == 'parquet' else 'csv'}")(path)
    return path


def ts(folder: Path, name: str = "some.ts", labels: bool = True) -> Path:
    """The sequences in the format of the time-series archives."""
    head = [
        "@problemName some",
        "@timeStamps false",
        "@missing false",
        "@univariate false",
        "@dimensions 2",
        "@equalLength false",
    ]
    head.append("@classLabel true a b c" if labels else "@classLabel false")
    lines = []
    for x, length, kind in zip(X, LENGTHS, KINDS, strict=True):
        channels = [",".join(map(str, x[:length, channel])) for channel in (0, 1)]
        lines.append(":".join([*channels, *([kind] if labels else [])]))
    (folder / name).write_text("\n".join([*head, "@data", *lines, ""]))
    return folder / name


def each_way(folder: Path) -> dict[str, SequenceDataModule]:
    of_table: dict[str, Any] = {"target": "kind", "series": "who", "time": "when"}
    return {
        "lengths": SequenceDataModule(npz(folder, lengths=LENGTHS)),
        "nan": SequenceDataModule(npz(folder, x=padded())),
        "ts": SequenceDataModule(ts(folder)),
        "csv": SequenceDataModule(table(folder), **of_table),
        "parquet": SequenceDataModule(table(folder, "parquet"), **of_table),
    }


@pytest.mark.parametrize("way", ["lengths", "nan", "ts", "csv", "parquet"])
def test_every_file_gives_the_same_padded_sequences(tmp_path: Path, way: str) -> None:
    data = each_way(tmp_path)[way]
    x, y = data.rows.all()
    assert x.dtype == y.dtype == torch.float32
    np.testing.assert_allclose(x, padded(), rtol=1e-6)
    np.testing.assert_array_equal(y, KINDS[:, None] == np.array(["a", "b", "c"]))
    assert (data.sequences, data.task, data.num_features, data.num_outputs) == ("last", "multiclass", 2, 3)
    assert list(data.class_names) == ["a", "b", "c"]
    assert data.feature_names == (["u", "v"] if way in ("csv", "parquet") else data.feature_names)


def test_a_univariate_series_may_lack_its_channel(tmp_path: Path) -> None:
    data = SequenceDataModule(npz(tmp_path, x=X[..., 0], y=X[..., 0].sum(1)))
    x, y = data.rows.all()
    np.testing.assert_allclose(x, X[..., :1], rtol=1e-6)
    np.testing.assert_allclose(y[:, 0], X[..., 0].sum(1), rtol=1e-6)
    assert (data.task, data.sequences, data.num_features, data.num_outputs) == ("regression", "last", 1, 1)


@pytest.mark.parametrize("way", ["npz", "csv"])
def test_a_target_at_each_step_is_nan_after_the_end(tmp_path: Path, way: str) -> None:
    sums = X.sum(2).cumsum(1)
    if way == "npz":
        data = SequenceDataModule(npz(tmp_path, y=sums, lengths=LENGTHS))
    else:
        data = SequenceDataModule(table(tmp_path, sums=sums), "sums", "who", "when", ["u", "v"])
    x, y = data.rows.all()
    np.testing.assert_allclose(x, padded(), rtol=1e-6)
    np.testing.assert_allclose(y, np.where(ENDED, np.nan, sums)[..., None], rtol=1e-6)
    assert (data.task, data.sequences, data.num_outputs) == ("regression", "each", 1)


def test_classes_at_each_step_and_several_targets(tmp_path: Path) -> None:
    kinds = np.array(["p", "q", "r"])[(X[..., 0] > 2).astype(int) + (X[..., 0] > 4)]
    data = SequenceDataModule(npz(tmp_path, y=kinds, lengths=LENGTHS))
    _, y = data.rows.all()
    assert (data.task, data.sequences, data.num_outputs) == ("multiclass", "each", 3)
    np.testing.assert_array_equal(y[~torch.from_numpy(ENDED)], kinds[~ENDED][:, None] == np.array(["p", "q", "r"]))
    assert y[torch.from_numpy(ENDED)].isnan().all()
    two = SequenceDataModule(npz(tmp_path, y=X[:, :, :2], lengths=LENGTHS))
    assert (two.sequences, two.num_outputs, two.targets) == ("each", 2, ["y0", "y1"])
    last = SequenceDataModule(npz(tmp_path, y=X[:, :, 0]), sequences="last")  # five outputs, one per step of the horizon
    assert (last.sequences, last.num_outputs) == ("last", 5)


def test_weights_and_baseline_count_the_steps_that_are_there(tmp_path: Path) -> None:
    kinds = (X[..., 0] > 2).astype(int) + (X[..., 0] > 4)
    rows = SequenceDataModule(npz(tmp_path, y=kinds, lengths=LENGTHS)).split_rows("predict")
    there = kinds[~ENDED]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=there)
    np.testing.assert_allclose(balanced_classes(rows), expected, rtol=1e-6)
    np.testing.assert_allclose(balanced_positives(rows), [(there != kind).sum() / (there == kind).sum() for kind in range(3)])
    shares = np.bincount(there) / len(there)
    np.testing.assert_allclose(baseline_of(rows, "multiclass", "012").constant, shares, rtol=1e-6)


def test_sequences_are_split_whole_of_each_class_the_same_share(tmp_path: Path) -> None:
    data = SequenceDataModule(npz(tmp_path, lengths=LENGTHS), seed=3)
    parts = [data.split_rows(part).all() for part in ("train", "val", "test")]
    assert [len(x) for x, _ in parts] == [12, 4, 4]
    rows = torch.cat([x for x, _ in parts]).nan_to_num()
    assert len(rows.unique(dim=0)) == 20
    np.testing.assert_allclose(rows.sum(0), np.nan_to_num(padded()).sum(0), rtol=1e-5)
    for _, y in parts:
        assert (y.sum(0) / len(y)).tolist() == pytest.approx([0.5, 0.25, 0.25])
    again = SequenceDataModule(npz(tmp_path, lengths=LENGTHS), seed=3)
    assert torch.equal(again.split_rows("train").all()[0].nan_to_num(), parts[0][0].nan_to_num())
    other = SequenceDataModule(npz(tmp_path, lengths=LENGTHS), seed=4)
    assert not torch.equal(other.split_rows("train").all()[0].nan_to_num(), parts[0][0].nan_to_num())


def test_other_files_to_validate_and_to_test(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = npz(tmp_path / "other", x=X[:5, :4], y=KINDS[:5])
    data = SequenceDataModule(ts(tmp_path), test_path=other)
    assert [len(data.split_rows(part)) for part in ("train", "val", "test")] == [16, 4, 5]
    x, y = data.split_rows("test").all()
    np.testing.assert_allclose(x, X[:5, :4], rtol=1e-6)
    np.testing.assert_array_equal(y, KINDS[:5, None] == np.array(["a", "b", "c"]))
    assert data.val_size == 0.2
    assert data.test_size == 0


def test_the_scaling_of_the_training_split_is_numpys_without_padding(tmp_path: Path) -> None:
    data = SequenceDataModule(npz(tmp_path, lengths=LENGTHS))
    scaling = Standardize(2)
    scaling.fit(x for x, _ in data.split_rows("train").chunks(8))
    train = data.part_of().numpy() == 0  # type: ignore[union-attr]
    steps = X[train][~ENDED[train]]
    np.testing.assert_allclose(scaling.mean, steps.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scaling.scale, steps.std(0), rtol=1e-6)


def test_missing_values_take_the_last_before_them(tmp_path: Path) -> None:
    x = padded()
    x[1, 2, 0] = x[1, 3, 0] = x[3, 0, 1] = x[0, 2, :] = np.nan
    wanted = padded()
    wanted[1, 2:4, 0], wanted[3, 0, 1], wanted[0, 2] = X[1, 1, 0], X[3, 1, 1], X[0, 1]
    data = SequenceDataModule(npz(tmp_path, x=x, lengths=LENGTHS), gaps="previous")
    np.testing.assert_allclose(data.rows.all()[0], wanted, rtol=1e-6)
    # Without lengths, a last step that is all NaN is after the end.
    wanted[0, 2] = np.nan
    np.testing.assert_allclose(SequenceDataModule(npz(tmp_path, x=x), gaps="previous").rows.all()[0], wanted, rtol=1e-6)


def test_channels_far_from_0_keep_what_differs(tmp_path: Path) -> None:
    x = X + np.array([1.7e9, 0])
    data = SequenceDataModule(npz(tmp_path, x=x, y=1e9 + X[:, 0, 0]))
    assert data.offsets == [pytest.approx(1.7e9, abs=20), 0]
    assert data.target_offsets == [pytest.approx(1e9, abs=20)]
    rows, y = data.rows.all()
    np.testing.assert_allclose(rows.double().numpy() + data.offsets, x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(y[:, 0].double().numpy() + data.target_offsets[0], 1e9 + X[:, 0, 0], rtol=0, atol=1e-5)


SUNNY = np.random.default_rng(1).normal(50, 20, 60).round(1)


def series(folder: Path, values: np.ndarray = SUNNY, **columns: Any) -> Path:
    frame = pl.DataFrame({"year": 1900 + np.arange(len(values)), "spots": values, **columns})
    frame[::-1].write_csv(folder / "sun.csv")  # the time column sorts it
    return folder / "sun.csv"


@pytest.mark.parametrize(("window", "horizon"), [(4, 1), (3, 2), (1, 1)])
def test_windows_equal_numpys_and_none_sees_another_parts_target(tmp_path: Path, window: int, horizon: int) -> None:
    data = SequenceDataModule(series(tmp_path), "spots", time="year", window=window, horizon=horizon)
    assert (data.task, data.sequences, data.num_features, data.num_outputs) == ("regression", "last", 1, horizon)
    stretches = {"train": SUNNY[:36], "val": SUNNY[36:48], "test": SUNNY[48:]}
    for part, stretch in stretches.items():
        x, y = data.split_rows(part).all()  # type: ignore[arg-type]
        whole = sliding_window_view(stretch, window + horizon)
        np.testing.assert_allclose(x[..., 0], whole[:, :window], rtol=1e-6)
        np.testing.assert_allclose(y, whole[:, window:], rtol=1e-6)
    all_of_it = SequenceDataModule(
        series(tmp_path), "spots", time="year", window=window, horizon=horizon, val_size=0, test_size=0
    )
    assert len(all_of_it.split_rows("train")) == len(all_of_it.split_rows("test")) == 60 - window - horizon + 1


def test_without_a_window_each_part_is_a_sequence_and_each_step_forecasts_the_next(tmp_path: Path) -> None:
    data = SequenceDataModule(series(tmp_path), "spots", time="year", horizon=2, val_size=0.1, test_size=0.3)
    assert (data.sequences, data.num_outputs, data.targets) == ("each", 2, ["spots+1", "spots+2"])
    for part, stretch in {"train": SUNNY[:36], "val": SUNNY[36:42], "test": SUNNY[42:]}.items():
        x, y = data.split_rows(part).all()  # type: ignore[arg-type]
        steps = len(stretch) - 2
        np.testing.assert_allclose(x[0, :steps, 0], stretch[:-2], rtol=1e-6)
        np.testing.assert_allclose(y[0, :steps], np.stack([stretch[1:-1], stretch[2:]], 1), rtol=1e-6)
        assert x[0, steps:].isnan().all()
        assert y[0, steps:].isnan().all()


def test_a_forecast_from_other_channels(tmp_path: Path) -> None:
    rain = np.arange(60.0) ** 2
    path = series(tmp_path, rain=rain)
    data = SequenceDataModule(path, "spots", time="year", channels=["rain", "spots"], window=5)
    x, y = data.split_rows("train").all()
    np.testing.assert_allclose(x[7], np.stack([rain[7:12], SUNNY[7:12]], 1), rtol=1e-6)
    np.testing.assert_allclose(y[7], SUNNY[12:13], rtol=1e-6)


def test_to_predict_there_is_a_window_up_to_the_end(tmp_path: Path) -> None:
    data = SequenceDataModule(series(tmp_path), "spots", time="year", window=4, horizon=2)
    ((x, keys),) = data.predict_dataloader()
    np.testing.assert_allclose(x[..., 0], sliding_window_view(SUNNY, 4), rtol=1e-6)
    assert keys["last_year"].to_list() == list(range(1903, 1960))


def test_what_is_predicted_is_named(tmp_path: Path) -> None:
    of_table: dict[str, Any] = {"series": "who", "time": "when", "channels": ["u", "v"]}
    ((x, keys),) = SequenceDataModule(table(tmp_path), "kind", **of_table).predict_dataloader()
    np.testing.assert_allclose(x, padded(), rtol=1e-6)
    assert keys.to_dict(as_series=False) == {"who": [f"s{one:02}" for one in range(20)]}
    ((x, keys),) = SequenceDataModule(table(tmp_path, sums=X.sum(2)), "sums", **of_table).predict_dataloader()
    number, step = (~ENDED).nonzero()
    assert keys["who"].to_list() == [f"s{one:02}" for one in number]
    assert keys["when"].to_list() == [f"{2020 + one}-03-04" for one in step]


def test_a_checkpoint_makes_the_same_of_other_files_without_targets(tmp_path: Path) -> None:
    trained = SequenceDataModule(table(tmp_path), "kind", "who", "when")
    assert trained.state_dict() == {}
    _ = trained.rows
    state = trained.state_dict()
    frame = pl.read_csv(table(tmp_path)).drop("kind").with_columns(extra=pl.lit(1.0))
    frame.select(reversed(frame.columns)).write_csv(tmp_path / "new.csv")
    data = SequenceDataModule(tmp_path / "new.csv", "kind", "who", "when")
    data.load_state_dict(state)
    ((x, _),) = data.predict_dataloader()
    np.testing.assert_allclose(x, padded(), rtol=1e-6)
    assert (data.task, data.num_outputs, data.sequences) == ("multiclass", 3, "last")
    assert data.state_dict() == state


def test_a_ts_file_without_labels_can_be_predicted(tmp_path: Path) -> None:
    trained = SequenceDataModule(ts(tmp_path))
    _ = trained.rows
    data = SequenceDataModule(ts(tmp_path, "new.ts", labels=False))
    data.load_state_dict(trained.state_dict())
    ((x, _),) = data.predict_dataloader()
    np.testing.assert_allclose(x, padded(), rtol=1e-6)


def test_numbers_as_people_write_them_and_truths_are_channels(tmp_path: Path) -> None:
    lines = ["who;when;price;open;kind"]
    for number, step in zip(*(~ENDED).nonzero(), strict=True):
        price = f"{1000 * X[number, step, 0]:,.2f}".translate(str.maketrans(",.", ".,"))
        lines.append(f"s{number};{step + 1}.4.2021;{price};{'yes' if X[number, step, 1] > 3 else 'no'};{KINDS[number]}")
    (tmp_path / "some.csv").write_text("\n".join(lines))
    data = SequenceDataModule(tmp_path / "some.csv", "kind", "who", "when", separator=";")
    assert data.feature_names == ["price", "open"]
    x, _ = data.rows.all()
    np.testing.assert_allclose(x[..., 0], (1000 * padded()[..., 0]).round(2), rtol=1e-6)
    np.testing.assert_array_equal(x[..., 1].nan_to_num(-1), np.where(ENDED, -1, X[..., 1] > 3))


def test_digits_row_by_row_are_scikit_learns() -> None:
    digits = load_digits()
    data = BuiltinDataModule("digit_rows")
    x, y = data.rows.all()
    np.testing.assert_array_equal(x, digits.images)
    np.testing.assert_array_equal(y.argmax(1), digits.target)
    assert (data.num_features, data.num_outputs, data.task, data.sequences) == (8, 10, "multiclass", "last")


def test_the_adding_problem_adds_two_of_the_numbers() -> None:
    data = BuiltinDataModule("adding", seed=2)
    x, y = (values.numpy() for values in data.rows.all())
    numbers, marked = x[..., 0], x[..., 1] == 1
    assert marked[:, :15].sum(1).tolist() == marked[:, 15:].sum(1).tolist() == [1] * 2000
    np.testing.assert_allclose(y[:, 0], numbers[marked].reshape(-1, 2).sum(1), rtol=1e-6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert (data.num_features, data.num_outputs, data.task, data.sequences) == (2, 1, "regression", "last")
    assert not torch.equal(BuiltinDataModule("adding", seed=3).rows.all()[0], data.rows.all()[0])


def test_the_sunspots_that_are_shipped_are_forecast_from_22_years() -> None:
    settings = config("sunspots")["data"]["init_args"]
    table = pl.read_csv(CONFIGS / "sunspots.csv")
    assert table["YEAR"].to_list() == list(range(1700, 2009))
    data = SequenceDataModule(**{**settings, "path": CONFIGS / "sunspots.csv"})
    x, y = data.split_rows("train").all()
    spots = table["SUNACTIVITY"].to_numpy()
    np.testing.assert_allclose(x[0, :, 0], spots[:22], rtol=1e-6)
    np.testing.assert_allclose(y[:, 0], spots[22:185], rtol=1e-6)
