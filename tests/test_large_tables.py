"""Tables larger than the memory limit: read once, kept on disk, continued after an interruption, and trained like any other."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from test_tabular import csv, mixed
from training_runs import quiet_trainer

from torchbp.data import TabularDataModule, _table
from torchbp.data._cache import NpyFile
from torchbp.data._schema import Schema
from torchbp.training import BPModule


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 16 rows, so that a few hundred rows make many parts."""
    monkeypatch.setattr("torchbp.data._csv.ROWS", 16)
    monkeypatch.setattr("torchbp.data._table.ROWS", 16)
    monkeypatch.setattr("torchbp.data._table.FILE", 2)


def written(folder: Path, kind: str, rows: int = 300, seed: int = 0) -> Path:
    frame = mixed(rows, seed)
    if kind == "csv":
        return csv(folder, frame)
    frame.write_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def large(path: Path, **arguments: Any) -> TabularDataModule:
    return TabularDataModule(path, "label", memory=0, cache_dir=path.parent / "cache", **arguments)


def cached(folder: Path) -> dict[str, int]:
    """The files of the cache with their modification times."""
    paths = [path for path in (folder / "cache").rglob("*") if path.suffix in (".parquet", ".npy")]
    return {str(path): path.stat().st_mtime_ns for path in paths}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_it_is_the_same_table(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    held, on_disk = TabularDataModule(path, "label", missing="indicator"), large(path, missing="indicator")
    for split in ("train", "val", "test"):
        for one, other in zip(held.split_rows(split).all(), on_disk.split_rows(split).all(), strict=True):
            assert torch.equal(one, other)
    assert held.state_dict() == on_disk.state_dict()
    assert (held.rows.mapped, on_disk.rows.mapped) == (False, True)


def test_a_table_of_no_rows_is_refused_as_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,label\n")
    with pytest.raises(ValueError, match="has no rows; at least one is needed"):
        _ = large(path).rows


def test_the_cache_is_made_once_for_one_content_and_schema(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    _ = large(path).rows
    first = cached(tmp_path)
    assert sum(name.endswith(".npy") for name in first) == 2
    path.touch()  # only the modification time differs, not the content
    _ = large(path).rows
    assert cached(tmp_path) == first
    _ = large(path, missing="indicator").rows  # other features from the same columns
    second = cached(tmp_path)
    assert first.items() < second.items()
    assert {name for name in second if name.endswith(".parquet")} == {name for name in first if name.endswith(".parquet")}
    csv(tmp_path, mixed(300, 1))
    changed = large(path)
    assert torch.equal(changed.rows.all()[0], TabularDataModule(path, "label").rows.all()[0])
    assert len(cached(tmp_path)) > len(second)


def test_columns_that_turn_out_to_be_text_are_read_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data._csv.INFERRED", 20)
    lines = [f"{row * 0.5},{row % 7 if row < 100 else 'six'},{row % 2}" for row in range(150)]
    lines[60] = "3.5, 6 ,1"
    (tmp_path / "table.csv").write_text("\n".join(["a,b,label", *lines]))
    held, on_disk = TabularDataModule(tmp_path / "table.csv", "label"), large(tmp_path / "table.csv")
    _ = held.rows, on_disk.rows  # fitted
    assert [column.type for column in on_disk.schema.columns] == ["numeric", "categorical"]
    assert {"b=six", "b=6"} < set(on_disk.feature_names)
    assert held.state_dict() == on_disk.state_dict()


@pytest.mark.parametrize(
    ("null_values", "missing"),
    [
        (["", "NA"], {901: "", 1500: "NA", 1900: "NA"}),  # the first text comes after rows that were already read
        (["-1"], {901: "", 1900: "-1"}),
        (["-1", "NA"], {3: "NA", 901: "-1", 1900: "-1"}),
    ],
)
def test_missing_values_are_found_wherever_they_come(tmp_path: Path, null_values: list[str], missing: dict[int, str]) -> None:
    long = "v" * 10_000  # more text than is parsed at once
    lines = [f"{missing.get(row, row * 0.5)},{long if row % 2 else 'u'},{row // 2 % 2}" for row in range(4000)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,label", *lines]))
    options: dict[str, Any] = {"null_values": null_values, "missing": "indicator"}
    for data in (TabularDataModule(tmp_path / "table.csv", "label", **options), large(tmp_path / "table.csv", **options)):
        assert len(data.rows) == 4000
        x = data.rows.all()[0]
        assert data.schema.columns[0].type == "numeric"
        assert x[:, data.feature_names.index("a missing")].nonzero().flatten().tolist() == sorted(missing)
        told = torch.arange(4000) * 0.5
        assert torch.equal(x[[*missing], 0], torch.full((len(missing),), data.schema.columns[0].fill))  # type: ignore[arg-type]
        assert (x[:, 0] != told).sum() == len(missing)


def test_what_is_missing_is_part_of_what_a_cache_holds(tmp_path: Path) -> None:
    lines = [f"{-999 if row % 5 == 0 else row * 0.5},{row % 2}" for row in range(100)]
    (tmp_path / "table.csv").write_text("\n".join(["a,label", *lines]))
    for null_values, missing in ((["-999"], 0.2), ([], 0.0), (["-999"], 0.2)):
        data = large(tmp_path / "table.csv", null_values=null_values, val_size=0, test_size=0)
        assert data.schema.columns[0].missing == pytest.approx(missing)


def interrupted(of: Any) -> Any:
    """The same function, interrupted after four calls."""
    count = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > 4:
            raise KeyboardInterrupt
        return of(*args, **kwargs)

    return call


def test_reading_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write, encode = written(tmp_path, "csv"), _table.write_whole, Schema.x
    monkeypatch.setattr(_table, "write_whole", interrupted(write))
    with pytest.raises(KeyboardInterrupt):
        _ = large(path).rows
    monkeypatch.setattr(_table, "write_whole", write)
    parts = cached(tmp_path)
    assert len(parts) == 4
    monkeypatch.setattr(Schema, "x", interrupted(encode))
    with pytest.raises(KeyboardInterrupt):
        _ = large(path).rows
    assert parts.items() < cached(tmp_path).items()  # the existing files have not been written again
    starts = []
    monkeypatch.setattr(Schema, "x", lambda self, rows, first=0: starts.append(first) or encode(self, rows, first))
    data = large(path)
    assert data.rows.mapped
    assert starts[0] == 4 * 16  # x of four parts was written
    monkeypatch.setattr(Schema, "x", encode)
    assert torch.equal(data.rows.all()[0], TabularDataModule(path, "label").rows.all()[0])


def test_parts_that_miss_rows_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = written(tmp_path, "csv"), _table.write_whole
    monkeypatch.setattr(_table, "write_whole", interrupted(write))
    with pytest.raises(KeyboardInterrupt):
        _ = large(path).rows
    monkeypatch.setattr(_table, "write_whole", write)
    *_, before, last = sorted(cached(tmp_path))
    rows = pl.read_parquet(last)
    pl.concat([pl.read_parquet(before)[-1:], rows[:-1]]).write_parquet(last)
    assert torch.equal(large(path).rows.all()[0], TabularDataModule(path, "label").rows.all()[0])


def test_a_file_that_was_cut_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    file = NpyFile(tmp_path / "x.npy", (10, 3))
    file.append(rows[:7])
    file.close()
    os.truncate(tmp_path / "x.npy", (tmp_path / "x.npy").stat().st_size - 5)
    file = NpyFile(tmp_path / "x.npy", (10, 3))
    assert file.rows == 6
    file.seek(5)
    file.append(rows[5:])
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), rows)


def test_a_cache_that_is_not_to_be_kept_is_removed_when_training_is_over(tmp_path: Path) -> None:
    for keep in (False, True):
        data = large(written(tmp_path, "csv"), keep_cache=keep)
        quiet_trainer(max_epochs=1).fit(BPModule(data.num_features, data.num_outputs, task=data.task), datamodule=data)
        assert bool(cached(tmp_path)) == keep
        assert len(data.rows) == 300  # it can be read again


def test_training_from_disk_descends_as_training_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "csv")
    found = []
    for data in (TabularDataModule(path, "label", batch_size="full"), large(path, batch_size="full")):
        torch.manual_seed(0)
        module = BPModule(data.num_features, data.num_outputs, task=data.task, engine="fused")
        run = quiet_trainer(max_epochs=5, precision="64-true")
        run.fit(module, datamodule=data)
        found.append([*module.parameters()])
    for one, other in zip(*found, strict=True):  # batches of the whole split have the same rows in any order
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# Converts in forks of a process that has imported everything; all except the last are killed at random moments.
KILLED = """
import os, random, signal, sys, time
import torchbp.data._csv, torchbp.data._table, torchbp.data._schema
torchbp.data._csv.ROWS = torchbp.data._table.ROWS = 64
torchbp.data._table.FILE = 2
from torchbp.data import TabularDataModule
def slow(of):
    return lambda *args, **kwargs: (time.sleep(0.01), of(*args, **kwargs))[1]
torchbp.data._table.write_whole = slow(torchbp.data._table.write_whole)
torchbp.data._cache.NpyFile.append = slow(torchbp.data._cache.NpyFile.append)
draw = random.Random(0)
for kill in (True, True, True, False):
    if not (process := os.fork()):
        _ = TabularDataModule("table.csv", "label", memory=0, cache_dir="cache").rows
        os._exit(0)
    if kill:
        time.sleep(draw.uniform(0.1, 0.4))
        os.kill(process, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="conversions are forked")
def test_a_conversion_that_is_killed_again_and_again_ends_as_it_should(tmp_path: Path) -> None:
    path = csv(tmp_path, mixed(2000))
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True)
    *killed, last = map(int, done.stdout.split())
    assert killed.count(-signal.SIGKILL) >= 2, done.stderr
    assert last == 0
    data = TabularDataModule(path, "label", memory=0, cache_dir=tmp_path / "cache")
    before = cached(tmp_path)
    assert torch.equal(data.rows.all()[0], TabularDataModule(path, "label").rows.all()[0])
    assert cached(tmp_path) == before


# Pages of a mapped file do not count: the system takes them back when it needs them.
MEASURED = """
import json, re, sys, threading, time
import torchbp.training.command
from torchbp.cli import main
import sklearn.tree, torch.utils.tensorboard.summary, lightning.pytorch.callbacks.progress
def memory(): return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = peak = memory()
def watch():
    global peak
    while True:
        peak = max(peak, memory())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
data = ["--data.path", "table.csv", "--data.target", "label", "--data.memory", "0.1", "--data.batch_size", "4096"]
trainer = ["--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
status = main(["fit", *data, *trainer, "--model.engine", "fused"])
print(json.dumps({"status": status, "grown": peak - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux")
def test_memory_is_bounded(tmp_path: Path) -> None:
    block, rows = 50_000, 3_000_000
    draw = np.random.default_rng(0)
    x = draw.standard_normal((block, 27)).round(2)
    lines = pl.DataFrame(x, schema=[f"f{i}" for i in range(27)]).with_columns(label=(x[:, 0] + x[:, 1] > 0).astype(int))
    text = lines.write_csv(include_header=False)
    with (tmp_path / "table.csv").open("w") as file:
        file.write(",".join(lines.columns) + "\n")
        for _ in range(rows // block):
            file.write(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["status"] == 0, done.stderr
    assert int(re.search(r"accuracy/val 0\.(\d\d)", done.stdout)[1]) > 90
    # 320 MiB of float32 and 450 of text; in memory, the run grows by more than 500.
    assert result["grown"] < 400, result
