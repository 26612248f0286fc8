"""Small Parquet files with large contents."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from torchbp.cli import main
from torchbp.data import TabularDataModule
from torchbp.data._cache import Source
from torchbp.data._parquet import sizes
from torchbp.data._table import Table

MIB = 2**20
ROWS = 4000


def bomb(folder: Path, size: int = 2**15) -> Path:
    """A file of less than 1 MiB with 4000 texts of ``size`` bytes, 125 MiB in all, of only two distinct values."""
    text = pl.Series("text", ["a" * size, "b" * size]).gather([row % 2 for row in range(ROWS)])
    rows = pl.DataFrame({"x": np.arange(ROWS) ** 0.5, "text": text, "y": np.arange(ROWS) // 2 % 2})
    rows.write_parquet(folder / "bomb.parquet")
    assert (folder / "bomb.parquet").stat().st_size < MIB
    return folder / "bomb.parquet"


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._table.most_bytes", lambda: 100 * MIB)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("categorical", [False, True])
def test_a_column_that_does_not_fit_memory_is_refused_unless_it_is_ignored(tmp_path: Path, categorical: bool) -> None:
    path = bomb(tmp_path)
    if categorical:
        pl.read_parquet(path).with_columns(pl.col("text").cast(pl.Categorical)).write_parquet(path)
    with pytest.raises(
        ValueError, match=r"column 'text' of .*bomb.parquet takes 0.244 GiB; .* may take 0.0977 GiB; leave it out"
    ):
        _ = TabularDataModule(path, "y").rows
    assert TabularDataModule(path, "y", ignore=["text"]).feature_names == ["x"]
    assert TabularDataModule(bomb(tmp_path, 1000), "y").num_features == 3


def test_categories_are_measured_without_a_text_for_each_row(tmp_path: Path) -> None:
    rows = pl.DataFrame({"x": np.arange(ROWS) ** 0.5, "y": np.arange(ROWS) // 2 % 2})
    rows.with_columns(text=pl.lit("a" * MIB).cast(pl.Categorical)).write_parquet(tmp_path / "bomb.parquet")  # 4 GiB
    code = """import resource, sys
from pathlib import Path
from torchbp.data._cache import Source
from torchbp.data._table import Table
import torchbp.data._table
torchbp.data._table.most_bytes = lambda: 2**30
table, before = Table([Path(sys.argv[1])], Source.of(Path(sys.argv[1]))), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parts = sum(map(len, table.parts(["text"])))
try:
    table.column("text")
except ValueError:
    pass
print(parts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "bomb.parquet"], capture_output=True, text=True, check=True)
    parts, kibibytes = map(int, done.stdout.split())
    assert parts == ROWS
    assert kibibytes < 2**20


def test_rows_that_are_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._table.most_bytes", lambda: 8 * ROWS - 1)
    with pytest.raises(ValueError, match=r"column 'y' .* or take fewer rows"):
        _ = TabularDataModule(bomb(tmp_path), "y").rows


def test_a_row_group_that_does_not_fit_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pl.DataFrame({"x": np.arange(ROWS) ** 0.5, "y": np.arange(ROWS) // 2 % 2})
    rows.write_csv("rows.csv")
    assert main(["fit", "--data.path", "rows.csv", "--data.target", "y", "--trainer.max_epochs", "1"]) == 0
    rows.with_columns(text=pl.Series([f"{row}" * 1000 for row in range(ROWS)])).write_parquet("new.parquet")
    monkeypatch.setattr("torchbp.data._table.most_bytes", lambda: MIB)
    capfd.readouterr()
    predict = ["predict", "--ckpt_path", "last", "--data.path", "new.parquet", "--output", "o.csv"]
    assert main(predict) == 1
    assert "torchbp: error: column 'text' of new.parquet takes 0.0" in capfd.readouterr().err
    assert not Path("o.csv").exists()


def test_the_sizes_are_those_that_the_file_has(tmp_path: Path) -> None:
    groups = [[f"{row}" * length for row in range(100)] for length in (10, 500, 20)]  # all different
    frame = pl.DataFrame({"a": np.arange(300), "b": [text for group in groups for text in group], "c": [["x"]] * 300})
    frame.write_parquet(tmp_path / "t.parquet", row_group_size=100)
    rows, texts = sizes(tmp_path / "t.parquet")
    assert rows == 300
    assert set(texts) == {"b", "c"}
    assert texts["b"] == pytest.approx(max(sum(map(len, group)) for group in groups), rel=0.05)


def test_parts_hold_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._table.TEXT", 1000)
    draw = np.random.default_rng(0)
    texts = [None if length == 0 else "x" * length for length in draw.integers(0, 400, 500)]
    texts[100] = texts[300] = "x" * 5000
    frame = pl.DataFrame({"a": np.arange(500), "b": texts, "c": texts[::-1]})
    frame.write_parquet(tmp_path / "t.parquet")
    table = Table([tmp_path / "t.parquet"], Source.of(tmp_path / "t.parquet"))
    parts = [*table.parts(["a", "b", "c"])]
    assert pl.concat(parts).equals(frame)
    assert len(parts) < 300
    for part in parts:
        assert sum(len(text or "") for text in (*part["b"], *part["c"])) <= 1000 or len(part) == 1
