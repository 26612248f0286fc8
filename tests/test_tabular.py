"""Tables, compared with scikit-learn's encoders and with the values written to the file."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from sklearn import datasets
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor
from training_runs import train_rows

from torchbp.data import TabularDataModule

ROWS = "".join(f"{row * 0.7:.1f},{'rst'[row % 3]},{'no' if row % 2 else 'yes'}\n" for row in range(20))
GOOD = "age,city,bought\n" + ROWS


def mixed(rows: int = 120, seed: int = 0) -> pl.DataFrame:
    """A table with every kind of column; ``uid`` identifies each row, and no two categories are equally frequent."""
    draw = np.random.default_rng(seed)
    gaps, uneven = draw.random((rows, 3)) < 0.15, np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    return pl.DataFrame(
        {
            "": range(rows),
            "uid": draw.permutation(rows) + 0.5,
            "age": [None if gap else int(age) for gap, age in zip(gaps[:, 0], draw.integers(18, 90, rows), strict=True)],
            "city": [
                None if gap else city for gap, city in zip(gaps[:, 1], draw.choice(list("vwxyz"), rows, p=uneven), strict=True)
            ],
            "member": [None if gap else bool(is_) for gap, is_ in zip(gaps[:, 2], draw.random(rows) < 0.3, strict=True)],
            "code": draw.choice(range(5), rows, p=uneven),
            "key": [f"row {row}" for row in range(rows)],
            "unit": ["cm"] * rows,
            "nothing": pl.Series([None] * rows, dtype=pl.String),
            "label": draw.choice(["good", "bad", "ugly"], rows),
        }
    )


def wine() -> pl.DataFrame:
    """scikit-learn's wine data with named classes, gaps and a column of text."""
    bunch = datasets.load_wine()
    frame = pl.DataFrame(bunch.data, schema=bunch.feature_names)
    colour = [None if row % 11 == 0 else ("pale", "deep", "dark")[row % 3] for row in range(len(frame))]
    ash = [None if row % 7 == 0 else value for row, value in enumerate(frame["ash"])]
    return frame.with_columns(pl.Series("ash", ash), pl.Series("colour", colour), cultivar=bunch.target_names[bunch.target])


def csv(folder: Path, frame: pl.DataFrame, name: str = "table") -> Path:
    frame.write_csv(folder / f"{name}.csv")
    return folder / f"{name}.csv"


def written(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def loaded(loader: Any) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*loader, strict=True) if isinstance(parts[0], Tensor)]


def in_training(data: TabularDataModule, frame: pl.DataFrame) -> np.ndarray:
    """Which rows of the table are in the training split, found by ``uid``."""
    seen = train_rows(data)[0][:, data.feature_names.index("uid")]
    return np.isin(frame["uid"].to_numpy(), seen.numpy())


@pytest.mark.parametrize("max_categories", [50, 3])
@pytest.mark.parametrize("missing", ["impute", "indicator"])
def test_rows_are_scikit_learns(tmp_path: Path, missing: str, max_categories: int) -> None:
    frame = mixed()
    data = TabularDataModule(
        csv(tmp_path, frame), "label", missing=missing, types={"code": "categorical"}, max_categories=max_categories
    )
    train = in_training(data, frame)
    assert 0 < train.sum() < len(frame)

    def column(name: str) -> np.ndarray:
        values = frame[name].to_list()
        return np.array([[np.nan if value is None else value] for value in values], dtype=object)

    def one_hot() -> OneHotEncoder:
        return OneHotEncoder(max_categories=max_categories, handle_unknown="infrequent_if_exist", sparse_output=False)

    pipelines = {
        "uid": SimpleImputer(strategy="median"),
        "age": SimpleImputer(strategy="median"),
        "city": make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot()),
        "member": SimpleImputer(strategy="most_frequent"),
        "code": one_hot(),
    }
    expected = []
    for name, pipeline in pipelines.items():
        values = column(name).astype(float) if name in ("uid", "age", "member") else column(name)
        expected.append(np.asarray(pipeline.fit(values[train]).transform(values), dtype=np.float32))
        gaps = frame[name].is_null().to_numpy()
        if missing == "indicator" and gaps[train].any():
            expected.append(gaps[:, None].astype(np.float32))
    x, y = data.rows.all()
    np.testing.assert_array_equal(x.numpy(), np.hstack(expected))
    np.testing.assert_array_equal(y.argmax(1), np.unique(frame["label"], return_inverse=True)[1])
    assert len(data.feature_names) == data.num_features == x.shape[1]
    ignored = {column.name: column.seen for column in data.schema.columns if column.type == "ignored"}
    assert set(ignored) == {"", "key", "unit", "nothing"}


def test_rows_outside_the_training_split_change_nothing_that_is_fitted(tmp_path: Path) -> None:
    frame = mixed()
    data = TabularDataModule(csv(tmp_path, frame), "label", types={"code": "categorical"})
    train = pl.Series(in_training(data, frame))
    other = pl.when(train)
    changed = frame.with_columns(
        other.then("age").otherwise(10_000).alias("age"),
        other.then("city").otherwise(pl.lit("elsewhere")).alias("city"),
        other.then("member").otherwise(None).alias("member"),
        other.then("code").otherwise(99).alias("code"),
        other.then("unit").otherwise(pl.lit("inch")).alias("unit"),
        other.then("nothing").otherwise(pl.lit("something")).alias("nothing"),
    )
    again = TabularDataModule(csv(tmp_path, changed, "changed"), "label", types={"code": "categorical"})
    assert again.num_features == data.num_features
    assert again.state_dict() == data.state_dict()
    assert torch.equal(train_rows(again)[0], train_rows(data)[0])
    rows = again.rows.all()[0][~train.to_numpy()]
    cities = [number for number, name in enumerate(data.feature_names) if name.startswith("city=")]
    assert (rows[:, data.feature_names.index("age")] == 10_000).all()
    assert len(cities) == 5
    assert (rows[:, cities] == 0).all()


def test_csv_tsv_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    for frame, target in ((mixed(), "label"), (wine(), "cultivar")):
        paths = [csv(tmp_path, frame), tmp_path / "table.tsv", tmp_path / "table.parquet", tmp_path / "semicolon.csv"]
        frame.write_csv(paths[1], separator="\t")
        frame.with_columns(pl.col(pl.String).cast(pl.Categorical)).write_parquet(paths[2])
        frame.write_csv(paths[3], separator=";")
        one, *others = (TabularDataModule(path, target, separator=";" if path.stem == "semicolon" else None) for path in paths)
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(one.rows.all(), other.rows.all(), strict=True))
            assert one.state_dict() == other.state_dict()


def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    one, other = (TabularDataModule(written(tmp_path, GOOD + end), "bought") for end in ("", "\n\r\n\n"))
    assert len(one.rows.all()[0]) == len(other.rows.all()[0]) == 20
    with pytest.raises(ValueError, match="the target 'bought' has no value in row 21"):
        _ = TabularDataModule(written(tmp_path, GOOD + "\n" + ROWS), "bought").rows
    with pytest.raises(ValueError, match="the target 'bought' has no value in row 21"):  # it has commas, so it is a row
        _ = TabularDataModule(written(tmp_path, GOOD + ",,\n\n"), "bought").rows


@pytest.mark.parametrize(
    ("values", "task", "names"),
    [
        (["no", "yes", "yes"], "binary", ["no", "yes"]),
        ([True, False, False], "binary", ["false", "true"]),
        (["True", "False", "False"], "binary", ["False", "True"]),
        (["Yes", "yes", "No", "no", "Yes"], "binary", ["No", "Yes"]),
        ([1, 3, 3], "binary", ["3", "1"]),
        ([2.5, 1.5, 1.5], "binary", ["1.5", "2.5"]),
        ([10, 9, 100], "multiclass", ["9", "10", "100"]),
        (["10", "9", "b"], "multiclass", ["10", "9", "b"]),
        ([0.5, 1.0, 2.0], "regression", []),
    ],
)
def test_task_and_classes_follow_from_the_target(tmp_path: Path, values: list, task: str, names: list[str]) -> None:
    frame = pl.DataFrame({"x": np.linspace(0, 1, 30), "y": (values * 10)[:30]})
    for path in (csv(tmp_path, frame), tmp_path / "table.parquet"):
        frame.write_parquet(tmp_path / "table.parquet")
        data = TabularDataModule(path, "y")
        assert data.task == task
        # In CSV, polars writes true and false; Parquet stores booleans.
        spelled = [name.title() for name in names] if path.suffix == ".parquet" and values[0] is True else names
        assert data.class_names == spelled
        y = data.rows.all()[1]
        if task == "regression":
            assert y.squeeze(1).tolist() == frame["y"].to_list()
        else:
            code = y.squeeze(1).long() if task == "binary" else y.argmax(1)
            assert [names[number].lower() for number in code] == [str(value).lower() for value in frame["y"]]
        assert data.num_outputs == y.shape[1] == (len(names) if task == "multiclass" else 1)


def test_integers_are_classes_when_few_and_a_quantity_when_many(tmp_path: Path) -> None:
    few, many = ({"x": np.linspace(0, 1, 300), "y": np.arange(300) % kinds} for kinds in (7, 60))
    assert TabularDataModule(csv(tmp_path, pl.DataFrame(few)), "y").task == "multiclass"
    assert TabularDataModule(csv(tmp_path, pl.DataFrame(few)), "y", task="regression").rows.all()[1].unique().tolist() == [
        *range(7)
    ]
    assert TabularDataModule(csv(tmp_path, pl.DataFrame(many)), "y").task == "regression"
    assert TabularDataModule(csv(tmp_path, pl.DataFrame(many)), "y", task="multiclass", val_size=0).num_outputs == 60


def test_several_targets(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 2, 50), draw.integers(0, 2, 50)
    path = csv(tmp_path, pl.DataFrame({"x": draw.random(50), "a": a, "b": b == 1, "c": draw.random(50)}))
    labels = TabularDataModule(path, ["a", "b"], ignore=["c"])
    assert (labels.task, labels.class_names, labels.num_features) == ("multilabel", ["a", "b"], 1)
    np.testing.assert_array_equal(labels.rows.all()[1], np.column_stack([a, b]))
    quantities = TabularDataModule(path, ["a", "c"])
    assert (quantities.task, quantities.num_outputs, quantities.feature_names) == ("regression", 2, ["x", "b"])


def test_schema_table_shows_every_column(tmp_path: Path) -> None:
    frame = mixed().rename({"key": "[red]key"})
    console = Console(width=200, file=io.StringIO())
    console.print(TabularDataModule(csv(tmp_path, frame), "label").schema_table())
    lines = console.file.getvalue().splitlines()
    for words in (["label", "target"], ["age", "numeric", "%", "median"], ["city", "categorical"], ["member", "boolean"]):
        assert any(all(word in line for word in words) for line in lines), words
    for words in (["[red]key", "identifier"], ["unit", "constant: 'cm'"], ["nothing", "no value"], ["counts the rows"]):
        assert any(all(word in line for word in ["ignored", *words]) for line in lines), words


def test_files_for_the_splits_take_the_place_of_parts(tmp_path: Path) -> None:
    paths = {
        name: csv(tmp_path, mixed(rows, seed), name) for seed, (name, rows) in enumerate({"a": 120, "b": 30, "c": 20}.items())
    }
    data = TabularDataModule(paths["a"], "label", val_path=paths["b"], test_path=paths["c"])
    assert [len(data.split_rows(name)) for name in ("train", "val", "test")] == [120, 30, 20]
    alone = TabularDataModule(paths["b"], "label", val_size=0, test_size=0)
    alone.load_state_dict(data.state_dict())
    for rows, expected in zip(data.split_rows("val").all(), alone.rows.all(), strict=True):
        assert rows.equal(expected)


def test_a_column_names_the_split(tmp_path: Path) -> None:
    part = pl.Series("part", ["Train", "valid", "test", "training"] * 30)
    data = TabularDataModule(csv(tmp_path, mixed().with_columns(part)), "label", split="part")
    for name, expected in (("train", [0, 3]), ("val", [1]), ("test", [2])):
        uid = data.split_rows(name).all()[0][:, data.feature_names.index("uid")]
        assert sorted(uid.tolist()) == sorted(mixed()["uid"].gather([r for r in range(120) if r % 4 in expected]).to_list())
    assert not any(feature.startswith("part") for feature in data.feature_names)


def test_the_classes_are_those_of_what_a_column_calls_training_rows(tmp_path: Path) -> None:
    part = ["train", "train", "val", "test", "train", "val"] * 20

    def classes(label: list[str], part: list[str] = part) -> list[str]:
        frame = pl.DataFrame({"x": np.arange(120) ** 2, "part": part, "label": label})
        return list(TabularDataModule(csv(tmp_path, frame), "label", split="part").class_names)

    assert classes(["a", "b", "a", "b", "c", "c"] * 20) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="the target 'label' holds 'c' in row 6; the classes are 'b', 'a'"):
        classes(["a", "b", "a", "b", "b", "c"] * 20)
    with pytest.raises(ValueError, match="the target 'label' holds 'x' in row 4; the classes are 0, 1"):
        classes(["0", "1", "0", "x", "1", "0"] * 20)
    with pytest.raises(ValueError, match="the target 'label' has a single class, 'a'; at least two are needed"):
        classes(["a", "b"] * 60, ["train", "val"] * 60)


@pytest.mark.parametrize("parts", [{"val_path": "b", "test_size": 0}, {"test_path": "b", "val_size": 0}], ids=str)
def test_beside_a_file_for_one_part_nothing_held_out_is_nothing(tmp_path: Path, parts: dict[str, Any]) -> None:
    paths = {name: csv(tmp_path, mixed(60, seed), name) for seed, name in enumerate("ab")}
    data = TabularDataModule(paths["a"], "label", **{name: paths.get(value, value) for name, value in parts.items()})
    of_file, of_none = ("val", "test") if "val_path" in parts else ("test", "val")
    assert [len(data.split_rows(name)) for name in ("train", of_file, of_none)] == [60, 60, 0]
    assert data.has_validation == ("val_path" in parts)


def test_numbers_that_are_names_or_missing_are_the_same_in_every_format(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "kind": draw.choice([0.1, 0.7, 2.5], 90).astype(np.float32),
            "size": np.where(draw.random(90) < 0.2, -999, draw.random(90)),
            "count": np.where(draw.random(90) < 0.2, -999, draw.integers(0, 50, 90)),
            "y": draw.choice([0.1, 0.2], 90).astype(np.float32),
        }
    )
    options: dict[str, Any] = {
        "types": {"kind": "categorical"},
        "null_values": ["-999"],
        "missing": "indicator",
        "task": "binary",
    }
    frame.write_parquet(tmp_path / "table.parquet")
    one = TabularDataModule(csv(tmp_path, frame), "y", **options)
    other = TabularDataModule(tmp_path / "table.parquet", "y", **options)
    assert one.feature_names == other.feature_names
    assert one.feature_names[:3] == ["kind=0.1", "kind=0.7", "kind=2.5"]
    assert one.class_names == other.class_names == ["0.1", "0.2"]
    for rows, expected in zip(other.rows.all(), one.rows.all(), strict=True):
        assert rows.equal(expected)
    other.load_state_dict(one.state_dict())
    assert other.rows.all()[0].equal(one.rows.all()[0])
