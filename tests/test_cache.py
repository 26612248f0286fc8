"""The cache on disk: who may use, change and remove it, and what happens to it when something fails."""

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from test_large_tables import cached, interrupted, large, written
from training_runs import quiet_trainer

from torchbp._files import NotWrittenError
from torchbp.data import TabularDataModule, _table
from torchbp.data._cache import Source
from torchbp.training import BPModule


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 16 rows, so that a few hundred rows make many parts."""
    monkeypatch.setattr("torchbp.data._csv.ROWS", 16)
    monkeypatch.setattr("torchbp.data._table.FILE", 2)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tmp_path, "csv")


def x_of(data: TabularDataModule) -> torch.Tensor:
    """The data's features; collects garbage first, so that unused data modules release their caches."""
    gc.collect()
    return data.rows.all()[0]


def folders(table: Path) -> list[Path]:
    return sorted(path for path in (table.parent / "cache").glob("*") if path.is_dir())


def train_and_tear_down(data: TabularDataModule) -> None:
    quiet_trainer(max_epochs=1).fit(BPModule(data.num_features, data.num_outputs, task=data.task), datamodule=data)


def test_what_does_not_fit_the_disk_is_refused_before_it_is_written(tmp_path: Path) -> None:
    columns = 10
    rows = int((shutil.disk_usage(tmp_path).free / 4 / columns) ** 0.5) + 1
    names = [f"c{number}" for number in range(columns)]
    frame = pl.DataFrame({name: np.arange(rows) for name in names}).with_columns(y=np.arange(rows) % 2)
    frame.write_parquet(tmp_path / "table.parquet")
    data = TabularDataModule(
        tmp_path / "table.parquet",
        "y",
        types=dict.fromkeys(names, "categorical"),
        max_categories=rows,
        val_size=0,
        test_size=0,
        cache_dir=tmp_path / "cache",
    )
    with pytest.raises(
        NotWrittenError, match=r"would take .* GiB in the cache .* has .* GiB free; use another --data.cache_dir"
    ):
        _ = data.rows
    assert folders(tmp_path / "table.parquet") == []


@pytest.mark.parametrize("gib", [0.9, 1.1])
def test_targets_count_as_much_as_features(tmp_path: Path, gib: float) -> None:
    rows, targets = 100, 50
    frame = pl.DataFrame(np.random.default_rng(0).standard_normal((rows, 1 + targets)).round(3))
    frame.write_csv(tmp_path / "table.csv")
    size = rows * frame.width * 4 / 2**30
    data = TabularDataModule(tmp_path / "table.csv", frame.columns[1:], memory=gib * size, cache_dir=tmp_path / "cache")
    assert data.rows.mapped == (gib < 1)
    assert torch.equal(x_of(data), x_of(TabularDataModule(tmp_path / "table.csv", frame.columns[1:])))


def test_many_classes_are_encoded_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._schema.AT_ONCE", 200)
    frame = pl.DataFrame({"a": np.arange(120.0) ** 1.5, "y": np.arange(120) % 40})
    frame.write_parquet(tmp_path / "table.parquet")
    options: dict[str, Any] = {"memory": 0, "cache_dir": tmp_path / "cache", "val_size": 0, "test_size": 0}
    data = TabularDataModule(tmp_path / "table.parquet", "y", "multiclass", **options)
    assert torch.equal(data.rows.all()[1], torch.eye(40)[torch.arange(120) % 40])


def test_a_conversion_that_fails_leaves_nothing(table: Path) -> None:
    with pytest.raises(ValueError, match="missing='refuse' allows no missing value"):
        _ = large(table, missing="refuse").rows
    assert [path for path in folders(table) if "-rows-" in path.name] == []


def test_a_conversion_that_is_interrupted_leaves_only_what_is_to_be_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = _table.write_whole
    for keep in (False, True):
        monkeypatch.setattr(_table, "write_whole", interrupted(write))
        with pytest.raises(KeyboardInterrupt):
            _ = large(table, keep_cache=keep).rows
        assert bool(cached(table.parent)) == keep


def test_what_another_run_uses_is_not_removed(table: Path) -> None:
    kept, not_kept, last = large(table), large(table, keep_cache=False), large(table, keep_cache=False)
    rows = x_of(kept), x_of(not_kept), x_of(last)
    made = cached(table.parent)
    train_and_tear_down(not_kept)
    assert cached(table.parent) == made
    assert torch.equal(x_of(last), rows[2])
    del kept  # a run that keeps the cache
    assert cached(table.parent) == made
    for path in folders(table):
        (path / "killed.lock").touch()  # as left by a killed process
    train_and_tear_down(last)
    assert os.listdir(table.parent / "cache") == []
    assert torch.equal(x_of(last), rows[2])  # made again


def test_a_run_that_does_not_end_well_removes_what_is_not_to_be_kept(table: Path) -> None:
    data = large(table, keep_cache=False)
    _ = data.rows
    assert cached(table.parent)
    del data
    gc.collect()  # as when a run ends
    assert os.listdir(table.parent / "cache") == []


@pytest.mark.parametrize("stamp", ["new", "old"])
def test_a_file_that_changes_while_it_is_read_is_not_cached(table: Path, monkeypatch: pytest.MonkeyPatch, stamp: str) -> None:
    write, before = _table.write_whole, table.stat()

    def change(*arguments: Any) -> None:
        write(*arguments)
        text = table.read_bytes()
        with table.open("r+b") as file:
            file.write(text.replace(b"0", b"1"))
        if stamp == "old":  # only the content shows the change
            os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))

    monkeypatch.setattr(_table, "write_whole", change)
    with pytest.raises(ValueError, match=r"table.csv was changed while it was read; run again when it is written"):
        _ = large(table).rows
    assert folders(table) == []


def test_a_file_that_changes_while_it_is_in_memory_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Source.of

    def change(path: Path) -> Source:
        monkeypatch.setattr(Source, "of", of)
        source = of(path)
        path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
        return source

    monkeypatch.setattr(Source, "of", change)
    with pytest.raises(ValueError, match="was changed while it was read"):
        _ = TabularDataModule(table, "label").rows


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, change, Path.unlink])
@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_a_damaged_cache_is_made_anew(table: Path, damage: Callable[[Path], None], kind: str) -> None:
    rows = x_of(large(table))
    for path in (table.parent / "cache").rglob(f"*.{kind}"):
        damage(path)
    assert torch.equal(x_of(large(table)), rows)
    again = cached(table.parent)
    assert torch.equal(x_of(large(table)), rows)
    assert cached(table.parent) == again


def test_a_cache_that_is_damaged_while_another_run_uses_it_is_refused(table: Path) -> None:
    one = large(table)
    _ = one.rows
    cut(next((table.parent / "cache").rglob("x.npy")))
    with pytest.raises(NotWrittenError, match="is damaged, and another run uses it; wait for its end"):
        _ = large(table).rows


def plant(path: Path, how: str) -> None:
    """Change the rows and make the folder one that another user could have written."""
    x = np.load(path / "x.npy", mmap_mode="r+")
    x += 1
    if how == "link":
        path.rename(path.parent.parent / "planted")
        path.symlink_to(path.parent.parent / "planted")
    elif how == "mode":
        path.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        pytest.skip("only root can give a folder away")


@pytest.mark.skipif(os.name != "posix", reason="there are no such owners and modes")
@pytest.mark.parametrize("how", ["link", "mode", "owner"])
def test_a_cache_that_another_user_can_write_is_not_used(table: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    rows = x_of(large(table))
    [folder] = [path for path in folders(table) if "-rows-" in path.name]
    monkeypatch.setattr("torchbp.data._cache._is_whole", lambda path: True)  # as if the forgery were perfect
    plant(folder, how)
    assert torch.equal(x_of(large(table)), rows)
    assert not folder.is_symlink()
    assert folder.stat().st_mode & 0o777 == 0o700
    if how == "link":
        assert sorted(os.listdir(table.parent / "planted")) == ["complete", "x.npy", "y.npy"]
