"""Tables that cannot be learned from or predicted are refused in one line."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tabular import GOOD, csv, loaded, mixed, written

from torchbp.data import TabularDataModule
from torchbp.data._tabular import NULL_VALUES


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (b"", {}, "is empty; it needs column names and rows"),
        ("\n\n", {}, "empty"),
        ("age,city,bought\n", {}, "has no rows; at least one is needed"),
        (GOOD, {"target": "baught"}, "has no column 'baught'; it has 'bought', 'age', 'city'"),
        (GOOD, {"types": {"Age": "numeric"}}, "has no column 'Age'; it has 'age', 'city', 'bought'"),
        (GOOD, {"ignore": ["salary"]}, "has no column 'salary'; it has 'age', 'city', 'bought'"),
        (GOOD, {"types": {"city": "numeric"}}, "the numeric column 'city' holds 'r' in row 1; only numbers are allowed"),
        (GOOD, {"types": {"city": "boolean"}}, "the boolean column 'city' holds 'r' in row 1; true and false"),
        (GOOD + "old,r,no\n", {"types": {"age": "numeric"}}, "the numeric column 'age' holds 'old' in row 21; only numbers"),
        (GOOD + "-inf,r,no\n", {}, "the numeric column 'age' holds -inf in row 21; numbers must be finite"),
        (GOOD + "1e39,r,no\n", {}, "the numeric column 'age' holds inf in row 21; numbers must be finite"),
        (
            GOOD + ",r,no\n",
            {"missing": "refuse"},
            "column 'age' has no value in row 21; missing='refuse' allows no missing value",
        ),
        (
            GOOD + "NaN,r,no\n",
            {"missing": "refuse"},
            "column 'age' has no value in row 21; missing='refuse' allows no missing value",
        ),
        (
            GOOD + "3,r,\n",
            {},
            "the target 'bought' has no value in row 21; every row needs one, or set --data.missing_target drop",
        ),
        (GOOD, {"target": "city", "task": "binary"}, "the target 'city' has 3 classes, 'r', 's', 't'; task binary has two"),
        (GOOD, {"target": "city", "task": "regression"}, "the target 'city' holds 'r' in row 1; only numbers are allowed"),
        (GOOD, {"target": "city", "task": "multilabel"}, "the target 'city' holds 'r' in row 1; true and false"),
        (
            GOOD,
            {"target": ["city", "bought"], "task": "binary"},
            "task binary needs one target column, not 2: 'city', 'bought'",
        ),
        (GOOD.replace("yes", "no"), {}, "the target 'bought' has a single class, 'no'; at least two are needed"),
        ("a,^b$,bought\n1,2,3\n", {}, "has a column named '^b$', which reads as a pattern of names; give it another one"),
        ("a,b,bought,a\n1,2,3,4\n", {}, "has 2 columns named 'a'; each name must be unique"),
        (
            "a,bought\n1,2\n3,4,5\n",
            {},
            "table.csv has 3 values in row 2 and names 2 columns; values are separated by ','",
        ),
        (
            "a;bought\n0,5;1,5\n",
            {},
            "table.csv has 3 values in row 1 and names 1 column; if its values are separated by ';', set --data.separator ';'",
        ),
        ("a,b,bought\n1,2,3\n3,4,5,6\n", {"ignore": ["b"]}, "table.csv has 4 values in row 2 and names 3 columns"),
        (
            b"a,bought\n1,x\n2,\xe9\n",
            {},
            "cannot be read as CSV: row 2 has b'\\xe9\\n', which is not UTF-8; set --data.encoding, for example cp1252",
        ),
        (b"a,bought\n1,2\n", {"encoding": "latin-99"}, "encoding is 'latin-99'; it must be one that Python knows"),
        ("bought\n1\n2\n3\n", {}, "has no column to learn from; ignored: there is none besides the target"),
        (GOOD, {"ignore": ["age", "city"]}, "has no column to learn from"),
        ("age,bought\n" + "7,a\n7,b\n" * 9, {}, "has no column to learn from; ignored: 'age' (constant: 7)"),
        (
            "age,bought,part\n" + "0.1,a,train\n0.1,b,train\n" * 9 + "0.2,a,val\n0.3,b,test\n",
            {"split": "part"},
            "has no column to learn from; ignored: 'age' (constant: 0.1)",
        ),
        ("age,bought\n1,a\n2,b\n", {}, "class 'a' has 1 row; train and val (a val_size of 0.2)"),
        (
            "age,bought\n" + "1,a\n2,b\n" * 5 + "3,c\n",
            {},
            "class 'c' has 1 row; train and val (a",
        ),
        (
            "age,bought\n" + "1,2000\n2,2001\n" * 5 + "3,2002\n",
            {},
            "merge makes these one class; if the target is a quantity, set --data.task regression",
        ),
        (GOOD.replace("age", "when") + "1,r,maybe so\n", {"task": "regression"}, "the target 'bought' holds 'yes' in row 1"),
        ("age,bought\n" + "".join(f"{row},{row}k\n" for row in range(20)), {}, "20 distinct texts in 20 rows, '0k' in row 1"),
        (GOOD, {"types": {"age": "integer"}}, "types has 'integer' for 'age'; it must be one of numeric, boolean, categorical"),
        (GOOD, {"types": {"bought": "ignored"}}, "column 'bought' is the target; it cannot be in types or ignore too"),
        (GOOD, {"task": "clustering"}, "task is 'clustering'; it must be one of binary, multilabel"),
        (GOOD, {"missing_target": "skip"}, "missing_target is 'skip'; it must be one of refuse, drop"),
        (GOOD, {"rare_classes": "skip"}, "rare_classes is 'skip'; it must be one of refuse, drop, merge"),
        (GOOD, {"dates": "skip"}, "dates is 'skip'; it must be one of ordinal, cyclic"),
        (GOOD, {"decimal": ";"}, "decimal is ';'; it must be '.' or ','"),
        (GOOD, {"positive": "maybe"}, "positive is 'maybe'; the classes of the target 'bought' are 'no', 'yes'"),
        (
            GOOD,
            {"positive": "r", "target": "city"},
            "positive is 'r'; it is for task binary, and the task is multiclass",
        ),
        (
            "a;b, in m;bought\n1;2;x\n",
            {},
            "it has ' in m;bought', 'a;b'; if its values are separated by ';', set --data.separator ';'",
        ),
        (GOOD.replace(",", ";"), {}, "it has 'age;city;bought'; if its values are separated by ';', set --data.separator ';'"),
        (GOOD, {"missing": "drop"}, "missing is 'drop'; it must be one of impute, indicator, refuse"),
        (GOOD, {"max_categories": 1}, "max_categories is 1; it must be at least 2"),
        (GOOD, {"separator": "::"}, "separator is '::'; it must be one ASCII character"),
        (GOOD, {"target": []}, "target is []; it must name at least one column, each once"),
        (GOOD.replace("r", ""), {"types": {"city": "numeric"}}, "the numeric column 'city' holds 's' in row 2"),
    ],
)
def test_bad_input_gets_one_line(tmp_path: Path, text: str | bytes, arguments: dict[str, Any], message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below, as it stands)
        _ = TabularDataModule(path, **{"target": "bought", **arguments}).num_features
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_a_text_among_numbers_is_refused_whatever_the_split(tmp_path: Path, extension: str, seed: int) -> None:
    ages = [f"{age:.1f}" for age in range(59)]
    frame = pl.DataFrame({"age": [*ages[:6], "it's", *ages[6:]], "x": range(0, 120, 2), "y": [0, 1] * 30})
    getattr(frame, f"write_{extension}")(tmp_path / f"table.{extension}")

    def made(**options: Any) -> TabularDataModule:
        return TabularDataModule(tmp_path / f"table.{extension}", "y", seed=seed, **options)

    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below, as it stands)
        _ = made().rows
    assert str(error.value) == (
        """column 'age' holds "it's" in row 7, and numbers elsewhere; if that is a missing value, set """
        """'--data.null_values+=it'"'"'s'; if they are names, --data.types '{"age": "categorical"}'"""
    )
    assert made(null_values=[*NULL_VALUES, "it's"]).feature_names == ["age", "x"]
    assert len(made(types={"age": "categorical"}).feature_names) > 30


def test_texts_among_few_numbers_or_many_texts_are_names(tmp_path: Path) -> None:
    children, ticket = ["0", "1", "2", "3 or more"] * 15, [f"A/{row}" if row % 5 == 0 else str(row) for row in range(60)]
    path = csv(tmp_path, pl.DataFrame({"children": children, "ticket": ticket, "y": [0, 1] * 30}))
    columns = {column.name: column.type for column in TabularDataModule(path, "y").schema.columns}
    assert columns == {"children": "categorical", "ticket": "ignored"}


def test_bad_files_get_one_line(tmp_path: Path) -> None:
    def message(path: Path, kind: type[Exception] = ValueError) -> str:
        with pytest.raises(kind) as error:
            _ = TabularDataModule(path, "y").task
        assert "\n" not in str(error.value)
        return str(error.value)

    assert message(tmp_path / "gone.csv", FileNotFoundError).endswith("gone.csv does not exist")
    (tmp_path / "folder.csv").mkdir()
    assert message(tmp_path / "folder.csv", FileNotFoundError).endswith("folder.csv is a folder")
    excel = "has the extension '.xlsx'; it must be one of .csv, .tsv, .parquet"
    assert excel in message(written(tmp_path, GOOD, "table.xlsx"))
    assert "cannot be read as PARQUET" in message(written(tmp_path, GOOD, "table.parquet"))
    pl.DataFrame({"y": [0, 1] * 10, "x": [[1]] * 20}).write_parquet(tmp_path / "nested.parquet")
    assert "ignored: 'x' (List(Int64) is not supported)" in message(tmp_path / "nested.parquet")
    pl.DataFrame({"a|b": [0, 1] * 10, "x": [1] * 20}).write_parquet(tmp_path / "names.parquet")
    assert message(tmp_path / "names.parquet").endswith("names.parquet has no column 'y'; it has 'a|b', 'x'")
    assert message(written(tmp_path, '"a, b",c\n1,2\n', "names.csv")).endswith(
        "names.csv has no column 'y'; it has 'a, b', 'c'"
    )
    pl.DataFrame().write_parquet(tmp_path / "none.parquet")
    assert "has no columns" in message(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("city\nr\n", {}, "has no column 'age'; it has 'city'"),
        ("age,city\n3,r\nold,s\n", {}, "the numeric column 'age' holds 'old' in row 2; only numbers are allowed"),
        ("age,city\n3,r\n", {"target": "sold"}, "the checkpoint's target is 'bought', here it is 'sold'"),
        ("age,city\n3,r\n", {"task": "regression"}, "the checkpoint's task is binary, here it is regression"),
        ("age,city\n", {}, "has no rows"),
    ],
)
def test_bad_rows_to_predict_get_one_line(tmp_path: Path, text: str, arguments: dict[str, Any], message: str) -> None:
    data = TabularDataModule(written(tmp_path, GOOD, "good.csv"), "bought", types={"city": "categorical"})
    assert data.num_features == 4
    new = TabularDataModule(written(tmp_path, text), **{"target": "bought", **arguments})
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below, as it stands)
        new.load_state_dict(data.state_dict()) or list(new.predict_dataloader())
    assert message in str(error.value)


def test_rows_to_predict_are_of_supported_types(tmp_path: Path) -> None:
    data = TabularDataModule(written(tmp_path, GOOD), "bought")
    _ = data.rows  # fitted
    pl.DataFrame({"age": [[1.0]], "city": ["r"]}).write_parquet(tmp_path / "new.parquet")
    new = TabularDataModule(tmp_path / "new.parquet", "bought")
    new.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=r"column 'age' is of type List\(Float64\); text, booleans, numbers and dates"):
        list(new.predict_dataloader())


def test_a_class_unknown_to_training_is_refused(tmp_path: Path) -> None:
    data = TabularDataModule(written(tmp_path, GOOD, "good.csv"), "bought")
    assert data.task == "binary"
    new = TabularDataModule(written(tmp_path, GOOD + "1,r,maybe\n"), "bought")
    new.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match="the target 'bought' holds 'maybe' in row 21; the classes are 'no', 'yes'"):
        new.test_dataloader()


cells = st.sampled_from(["", "1", "2.5", "-3e8", "yes", "no", "TRUE", "a", "b", "NA", "nan", "inf", '"', '"x,\ny"', " 7 ", "é"])
tables = st.tuples(st.integers(1, 4), st.lists(st.lists(cells, min_size=1, max_size=5), max_size=30)).map(
    lambda drawn: "\n".join([",".join("abcy"[-drawn[0] :]), *(",".join(row[: drawn[0]]) for row in drawn[1])]).encode()
)


@pytest.mark.filterwarnings("ignore:.*fewer values than there are columns", "ignore:.* taken for ")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(tables, st.binary(max_size=60), st.binary(max_size=60).map(b"a,b,y\n1,x,0\n2,z,1\n".__add__)))
def test_any_file_is_refused_in_one_line_or_usable(tmp_path: Path, content: bytes) -> None:
    data = TabularDataModule(written(tmp_path, content), "y", val_size=0, test_size=0, missing="indicator")
    refusal = None
    try:
        features, outputs = data.num_features, data.num_outputs
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert len(refusal.splitlines()) == 1
        return
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader):
        for x, y in loader():
            assert x.shape == (len(x), features)
            assert y.shape == (len(x), outputs)
            assert x.isfinite().all()
            assert y.isfinite().all()
    state = json.loads(json.dumps(data.state_dict()))
    again = TabularDataModule(data.path, "y")
    again.load_state_dict(state)
    assert torch.equal(loaded(again.predict_dataloader())[0], data.rows.all()[0])


def test_a_split_without_rows_to_test_on_is_refused(tmp_path: Path) -> None:
    part = pl.Series("part", ["train", "train", "val"] * 40)
    data = TabularDataModule(csv(tmp_path, mixed().with_columns(part)), "label", split="part")
    assert (len(data.split_rows("train")), len(data.split_rows("val"))) == (80, 40)
    assert data.has_validation
    with pytest.raises(ValueError, match="no row is held out for the test"):
        data.test_dataloader()
