"""Files as people write them: numbers, dates, gaps and classes, and how each is read."""

import io
import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from test_tabular import csv, loaded, written

from torchbp.data import TabularDataModule
from torchbp.data._written import MARKS, Mark, decimal_of, plain

WHOLE: dict[str, Any] = {"val_size": 0, "test_size": 0}


def table(folder: Path, columns: dict[str, Sequence[object]], separator: str = ",", name: str = "table.csv") -> Path:
    """A CSV file of the given values, quoted if they contain the separator."""
    rows = zip(*([str(value) for value in values] for values in columns.values()), strict=True)
    lines = [separator.join(f'"{text}"' if separator in text else text for text in row) for row in ([*columns], *rows)]
    return written(folder, "\n".join(lines) + "\n", name)


def x_of(data: TabularDataModule, name: str) -> list[float]:
    """A column of all rows, in its own units."""
    number = data.feature_names.index(name)
    return (data.rows.all()[0][:, number].double() + data.offsets[number]).tolist()


def shown(data: TabularDataModule) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(data.schema_table())
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1,234.5", ".", 1234.5),
        ("1,234,567", ".", 1234567),
        ("$12.50", ".", 12.5),
        ("-$12.50", ".", -12.5),
        ("$-12.50", ".", -12.5),
        ("US$ 3", ".", 3),
        ("(3.25)", ".", -3.25),
        ("45%", ".", 0.45),
        ("-1.5 %", ".", -0.015),
        ("3 EUR", ".", 3),
        ("1'234.5", ".", 1234.5),
        ("0,126", ",", 0.126),
        ("1.234,5", ",", 1234.5),
        ("1\u202f234,5 \u20ac", ",", 1234.5),
        ("\u22125", ".", -5),
        ("1,5e3", ",", 1500),
        *((text, ".", None) for text in ("0,126", "12,34", "1,2345", "(3", "-(3)-", "1.2.3", "3 kg", "$", "", "--3", "0,123")),
        *((text, ",", None) for text in ("0.126", "1.5", "1,234,567")),
    ],
)
def test_a_number_as_people_write_it(text: str, decimal: Mark, value: float | None) -> None:
    result = plain(pl.Series([text]), decimal)
    if value is None:
        assert result.to_list() in ([text], ["0.126"])
        assert text in ("0.126", "1.5", "1.2.3") or result.to_list() == [text]
    else:
        assert result.cast(pl.Float64).item() == pytest.approx(value)


def test_the_decimal_mark_is_that_which_makes_numbers_of_all() -> None:
    def found(*texts: str, preferred: Mark = ".") -> str | None:
        return decimal_of(pl.Series(texts), MARKS, preferred)

    assert found("0,126", "1,203") == ","
    assert found("206,287", "1,203") == "."
    assert found("206,287", "1,203", preferred=",") == ","
    assert found("$1.50", "$2.25") == "."
    assert found("1.234", "12.345", "7", preferred=",") == ","
    assert found("1.23", "12.345", preferred=",") is None
    assert found("a", "b", "$3") is None
    assert found("192.168.1.20", "10.0.0.1") is None


@pytest.mark.parametrize("separator", [";", ",", "\t"])
@pytest.mark.parametrize("given", [None, ","])
def test_decimal_commas_are_the_numbers_that_points_would_be(tmp_path: Path, separator: str, given: Any) -> None:
    draw = np.random.default_rng(0)
    small, large, whole = draw.random(60).round(3), draw.integers(1000, 10**6, 60), draw.integers(0, 9, 60)
    target = (small * 3 + whole).round(2)
    german = {
        "small": [str(value).replace(".", ",") for value in small],
        "large": [f"{value:,}".replace(",", ".") for value in large],
        "whole": whole,
        "y": [str(value).replace(".", ",") for value in target],
    }
    english = table(tmp_path, {"small": small, "large": large, "whole": whole, "y": target}, name="english.csv")
    path = table(tmp_path, german, separator)
    data = TabularDataModule(path, "y", separator=separator, decimal=given)
    expected = TabularDataModule(english, "y")
    for rows, wanted in zip(data.rows.all(), expected.rows.all(), strict=True):
        assert rows.equal(wanted)
    assert "written with a decimal comma" in shown(data)
    # Rows to predict are read with the training file's decimal mark; an English file gets a warning.
    new = table(tmp_path, {name: german[name][:3] for name in ("small", "large", "whole")}, separator, "new.csv")
    again = TabularDataModule(new, "y", separator=separator)
    again.load_state_dict(data.state_dict())
    assert loaded(again.predict_dataloader())[0].equal(data.rows.all()[0][:3])
    other = TabularDataModule(english, "y", decimal=".", **WHOLE)
    other.load_state_dict(data.state_dict())
    assert loaded(other.predict_dataloader())[0].equal(data.rows.all()[0])


def test_currencies_thousands_and_per_cent_are_numbers(tmp_path: Path) -> None:
    rows = range(50)
    columns = {
        "price": [f"${1000 + 7 * row:,}.50" for row in rows],
        "share": [f"{row}%" for row in rows],
        "loss": [f"({row}.25)" for row in rows],
        "y": [row % 2 for row in rows],
    }
    data = TabularDataModule(table(tmp_path, columns), "y")
    assert data.feature_names == ["price", "share", "loss"]
    assert x_of(data, "price") == [1000.5 + 7 * row for row in rows]
    assert x_of(data, "share") == pytest.approx([row / 100 for row in rows])
    assert x_of(data, "loss") == [-row - 0.25 for row in rows]
    assert "median 1171, written with a decimal point" in shown(data) or "written with a decimal point" in shown(data)


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_numbers_far_from_0_keep_what_differs(tmp_path: Path, extension: str) -> None:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "time": 1_700_000_000 + draw.permutation(60),
            "level": 1e9 + draw.random(60).round(4),
            "near": draw.random(60),
            "y": 1e9 + draw.random(60).round(4),
        }
    )
    path = tmp_path / f"table.{extension}"
    getattr(frame, f"write_{extension}")(path)
    data = TabularDataModule(path, "y")
    assert x_of(data, "time") == frame["time"].to_list()
    assert x_of(data, "level") == pytest.approx(frame["level"].to_list(), abs=1e-6, rel=0)
    assert data.offsets[data.feature_names.index("near")] == 0
    y = data.rows.all()[1].squeeze(1).double() + data.target_offsets[0]
    assert y.tolist() == pytest.approx(frame["y"].to_list(), abs=1e-6, rel=0)
    assert "which is subtracted" in shown(data)
    # The same for rows of another file to predict and to test.
    new = TabularDataModule(csv(tmp_path, frame[:7].drop("y"), "new"), "y")
    new.load_state_dict(data.state_dict())
    assert loaded(new.predict_dataloader())[0].equal(data.rows.all()[0][:7])
    other = TabularDataModule(csv(tmp_path, frame[:7], "other"), "y", **WHOLE)
    other.load_state_dict(data.state_dict())
    assert all(one.equal(rows[:7]) for one, rows in zip(other.rows.all(), data.rows.all(), strict=True))


def test_numbers_that_turn_out_to_be_far_from_0_are_read_anew(tmp_path: Path) -> None:
    # The first rows, which decide the types, are gaps and one value near 0 that is not in the training split.
    values = ["", "0"] + [""] * 2500 + [str(10**9 + row % 97) for row in range(500)]
    part = ["train", "val"] + ["train"] * 3000
    columns = {"a": values, "b": range(3002), "part": part, "y": [row % 2 for row in range(3002)]}
    data = TabularDataModule(table(tmp_path, columns), "y", split="part")
    assert x_of(data, "a")[2502:] == [10**9 + row % 97 for row in range(500)]


@pytest.mark.parametrize(
    ("format", "order"),
    [
        ("%Y-%m-%d", "year-month-day"),
        ("%Y-%m-%d %H:%M:%S", "year-month-day"),
        ("%Y-%m-%dT%H:%M:%SZ", "year-month-day"),
        ("%m/%d/%Y", "month/day/year"),
        ("%d/%m/%Y %H:%M", "day/month/year"),
        ("%d.%m.%Y", "day.month.year"),
        ("%d-%b-%Y", "day-Mon-year"),
    ],
)
def test_dates_become_days(tmp_path: Path, format: str, order: str) -> None:
    when = [datetime(2020, 1, 1) + timedelta(days=7 * row, hours=row % 24 if "H" in format else 0) for row in range(60)]
    columns = {"when": [moment.strftime(format) for moment in when], "y": [row % 2 for row in range(60)]}
    data = TabularDataModule(table(tmp_path, columns), "y")
    expected = [(moment - datetime(1970, 1, 1)) / timedelta(days=1) for moment in when]
    assert x_of(data, "when") == pytest.approx(expected, abs=2e-3, rel=0)
    assert f"written {order}" in shown(data)
    bad = TabularDataModule(table(tmp_path, {"when": ["soon"]}, name="bad.csv"), "y")
    bad.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=f"the date column 'when' holds 'soon' in row 1; dates are written {order}"):
        list(bad.predict_dataloader())


def test_dates_and_booleans_are_the_same_in_a_parquet_file(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "day": [date(2021, 1, 1) + timedelta(days=row % 50) for row in range(60)],
            "moment": [datetime(2021, 1, 1, 7) + timedelta(hours=5 * row) for row in range(60)],
            "is": [row % 3 == 0 for row in range(60)],
            "kind": [row % 4 == 0 for row in range(60)],
            "y": [row % 5 == 0 for row in range(60)],
        }
    )
    frame.write_parquet(tmp_path / "table.parquet")
    options: dict[str, Any] = {"types": {"kind": "categorical"}, "dates": "cyclic"}
    of_csv = TabularDataModule(csv(tmp_path, frame), "y", **options)
    of_parquet = TabularDataModule(tmp_path / "table.parquet", "y", **options)
    for rows, expected in zip(of_parquet.rows.all(), of_csv.rows.all(), strict=True):
        assert rows.equal(expected)
    for one, other in ((of_csv, of_parquet), (of_parquet, of_csv)):
        again = TabularDataModule(other.path, "y", **options)
        again.load_state_dict(one.state_dict())
        assert again.rows.all()[0].equal(one.rows.all()[0])
        assert again.rows.all()[1].equal(one.rows.all()[1])
    x = dict(zip(of_csv.feature_names, of_csv.rows.all()[0][3].tolist(), strict=True))
    moment = frame["moment"][3]
    day = 2 * math.pi * (moment.hour / 24)
    assert (x["moment sine of day"], x["moment cosine of day"]) == pytest.approx((math.sin(day), math.cos(day)), abs=1e-5)
    week = 2 * math.pi * ((moment - datetime(1970, 1, 1)) / timedelta(days=7) % 1)
    assert x["moment sine of week"] == pytest.approx(math.sin(week), abs=1e-5)
    assert "day sine of day" not in x


def test_the_positive_class_is_true_or_the_rarer_or_that_named(tmp_path: Path) -> None:
    def classes(labels: Sequence[object], **options: Any) -> list[str]:
        path = table(tmp_path, {"x": [row * row for row in range(60)], "y": (list(labels) * 60)[:60]})
        data = TabularDataModule(path, "y", **options)
        assert f"{data.class_names[1]} (positive)" in shown(data)
        assert data.rows.all()[1].mean() == pytest.approx(
            (list(labels) * 60)[:60].count(data.class_names[1]) / 60
            if isinstance(labels[0], str)
            else data.rows.all()[1].mean()
        )
        return list(data.class_names)

    assert classes(["legit", "fraud", "legit"]) == ["legit", "fraud"]
    assert classes(["legit", "fraud", "fraud"]) == ["fraud", "legit"]
    assert classes(["legit", "fraud", "legit"], positive="legit") == ["fraud", "legit"]
    assert classes([0, 1, 1]) == ["0", "1"]
    assert classes(["yes", "no", "yes"]) == ["no", "yes"]
    assert classes(["T", "F", "T"]) == ["F", "T"]
    assert classes([0, 1, 1], positive="0") == ["1", "0"]
    assert classes([4, 2, 2]) == ["2", "4"]


def test_classes_that_differ_by_case_alone_are_one_only_if_they_are_truths(tmp_path: Path) -> None:
    labels = ["Yes", "yes", "No", "YES", "no", "Yes"] * 10
    data = TabularDataModule(table(tmp_path, {"x": [row * row for row in range(60)], "y": labels}), "y")
    assert data.class_names == ["No", "Yes"]
    assert data.rows.all()[1].squeeze(1).tolist() == [float(label.lower() == "yes") for label in labels]
    letters = table(tmp_path, {"x": [row * row for row in range(60)], "y": ["a", "A", "b"] * 20})
    with pytest.warns(UserWarning, match="the target 'y' holds '[aA]' and '[aA]', which are read as two classes"):
        assert TabularDataModule(letters, "y").class_names == ["A", "a", "b"]


@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_rows_without_a_target_are_left_out_if_so_told(tmp_path: Path, memory: float) -> None:
    lines = [f"{row * 1.5},{row % 4},{row % 3}" for row in range(60)]
    text = "a,b,y,,\n" + "".join(f"{line},,\n" for line in [*lines[:20], "7,1,", *lines[20:], "Total,,"]) + ",,,,\n" * 3
    whole = TabularDataModule(written(tmp_path, "a,b,y\n" + "\n".join(lines) + "\n", "whole.csv"), "y")
    options: dict[str, Any] = {"missing_target": "drop", "memory": memory, "cache_dir": tmp_path / "cache"}
    data = TabularDataModule(written(tmp_path, text), "y", **options)
    assert "5 rows without a target left out" in " ".join(shown(data).split())
    parts = [data.split_rows(part) for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [len(whole.split_rows(part)) for part in ("train", "val", "test")]
    kept = sorted(row for part in parts for row in part.all()[0].tolist())
    assert kept == sorted(whole.rows.all()[0].tolist())
    assert {column.name: column.type for column in data.schema.columns} == {
        **{"a": "numeric", "b": "numeric"},
        **{"": "ignored", "Unnamed: 4": "ignored"},
    }
    every = TabularDataModule(written(tmp_path, text), "y", **options, **WHOLE)
    assert [len(every.split_rows(part)) for part in ("train", "val", "test")] == [60, 60, 60]
    assert every.split_rows("test").all()[1].isfinite().all()
    assert [column.seen for column in every.schema.columns] == [
        column.seen for column in TabularDataModule(whole.path, "y", **WHOLE).schema.columns
    ] + ["no value"] * 2


def test_classes_of_too_few_rows_are_refused_left_out_or_merged(tmp_path: Path) -> None:
    labels = (["a", "b"] * 25) + ["c", "c", "d", "d", "e"]
    path = table(tmp_path, {"x": [row * row for row in range(55)], "y": labels})
    with pytest.raises(
        ValueError,
        match=r"class '[cde]' has .* --data.rare_classes drop leaves out the rows of rare classes, merge makes these one",
    ):
        _ = TabularDataModule(path, "y").rows
    dropped = TabularDataModule(path, "y", rare_classes="drop")
    assert dropped.task == "binary"
    assert "5 rows of rare classes left out" in " ".join(shown(dropped).split())
    assert sum(len(dropped.split_rows(part)) for part in ("train", "val", "test")) == 50
    merged = TabularDataModule(path, "y", rare_classes="merge")
    assert merged.class_names == ["a", "b", "other"]
    assert merged.rows.all()[1].sum(0).tolist() == [25, 25, 5]
    for data, rows in ((dropped, 2), (merged, 3)):
        again = TabularDataModule(table(tmp_path, {"x": [1, 2, 3], "y": ["a", "b", "z"]}, name="new.csv"), "y", **WHOLE)
        again.load_state_dict(data.state_dict())
        assert len(again.split_rows("test")) == rows


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_text_of_another_encoding(tmp_path: Path, encoding: str) -> None:
    text = "größe,y\n" + "".join(f"{'éü'[row % 2]},{row % 3}\n" for row in range(60))
    data = TabularDataModule(
        written(tmp_path, text.encode(encoding)), "y", encoding="latin-1" if encoding == "latin-1" else None
    )
    assert data.feature_names == ["größe=é", "größe=ü"]


def test_names_of_columns_are_as_they_are_written(tmp_path: Path) -> None:
    rows = "".join(f"{row * 1.5},{'pq'[row % 2]},{row * row},{row % 7},{row % 3}\n" for row in range(60))
    path = written(tmp_path, '"wei""ght",*,^a,"two\nlines",y\n' + rows)
    data = TabularDataModule(path, "y", ignore=["*"])
    assert data.feature_names == ['wei"ght', "^a", "two\nlines"]
    again = TabularDataModule(path, "y")
    again.load_state_dict(data.state_dict())
    [(x, rest)] = list(again.predict_dataloader())
    assert x.equal(data.rows.all()[0])
    assert rest.columns == ["*"]


def test_numbers_that_begin_with_0_are_names(tmp_path: Path) -> None:
    columns = {"zip": [f"0{row % 4}210" for row in range(60)], "x": [row * row for row in range(60)]}
    data = TabularDataModule(table(tmp_path, {**columns, "y": [f"0{row % 3}" for row in range(60)]}), "y")
    assert data.feature_names == [*(f"zip=0{number}210" for number in range(4)), "x"]
    assert data.class_names == ["00", "01", "02"]


def test_numbers_with_a_few_texts_among_them_are_warned_of(tmp_path: Path) -> None:
    for texts in (["unknown"], ["<0.01", ">5"]):
        values = [texts[row % len(texts)] if row % 7 == 0 else f"{row % 90}.5" for row in range(200)]
        path = table(tmp_path, {"x": range(0, 400, 2), "v": values, "y": [row % 2 for row in range(200)]})
        with pytest.warns(UserWarning, match=r"column 'v' is 86% numbers and is read as names because of .*null_values\+="):
            assert len(TabularDataModule(path, "y").feature_names) > 50


def test_rows_that_are_too_short_are_counted(tmp_path: Path) -> None:
    rows = [f"{row},{row * row},{row % 2},{row % 3 or ''}\n" for row in range(40)]
    gaps = written(tmp_path, "a,b,y,c\n" + "".join(rows))
    assert len(TabularDataModule(gaps, "y").rows) == 40
    rows[7], rows[20] = "7,49,1\n", '"20",400,0\n'
    short = written(tmp_path, "a,b,y,c\n" + "".join(rows), "short.csv")
    with pytest.warns(UserWarning, match="has 2 rows with fewer values than there are columns, row 8 first"):
        assert TabularDataModule(short, "y").rows.all()[0][:, 0].tolist() == [row * row for row in range(40)]


def test_a_wide_table_is_shown_in_short(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({f"x{number}": draw.random(30) for number in range(300)}).with_columns(y=pl.Series([0, 1] * 15))
    text = shown(TabularDataModule(csv(tmp_path, frame), "y"))
    assert len(text.splitlines()) < 70
    assert "and 250 more" in text
    assert "250 numeric" in text


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_that_is_not_drawn_has_no_size(tmp_path: Path, part: str) -> None:
    path = table(tmp_path, {"x": range(30), "y": [0, 1, 0] * 10})
    with pytest.raises(ValueError, match=f"{part}_size is 0.3; with {part}_path '.*' that part is not drawn"):
        TabularDataModule(path, "y", **{f"{part}_path": path, f"{part}_size": 0.3})
    with pytest.raises(ValueError, match=f"{part}_size is 0.3; with split 'x' that part is not drawn"):
        TabularDataModule(path, "y", split="x", **{f"{part}_size": 0.3})


@pytest.mark.parametrize("how", ["split", "val_path"])
def test_rows_without_a_quantity_are_in_no_part_however_it_is_made(tmp_path: Path, how: str) -> None:
    part = ["train", "val", "test"] * 20
    columns = {"x": range(0, 120, 2), "part": part, "y": ["" if row % 6 < 3 else row * 1.5 for row in range(60)]}
    path = table(tmp_path, columns)
    options: dict[str, Any] = {"split": "part"} if how == "split" else {"val_path": path, "ignore": ["part"]}
    data = TabularDataModule(path, "y", missing_target="drop", **options)
    rows = {name: data.split_rows(name) for name in ("train", "val", "test")}  # type: ignore[arg-type]
    assert all(part.all()[1].isfinite().all() for part in rows.values())
    expected = {"train": 10, "val": 10, "test": 10} if how == "split" else {"train": 24, "val": 30, "test": 6}
    assert {name: len(part) for name, part in rows.items()} == expected
