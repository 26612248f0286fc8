"""Arrays in NumPy's files, in memory and larger than the memory limit."""

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from training_runs import quiet_trainer, train_rows

from torchbp.data import ArrayDataModule
from torchbp.data._arrays import read
from torchbp.training import BPModule

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 2), dtype=np.uint8)
KINDS = np.arange(40) % 4


def npz(folder: Path, x: Any = IMAGES, y: Any = KINDS, **names: Any) -> Path:
    np.savez(folder / "arrays.npz", **({**names, "y": y} if names else {"x": x, "y": y}))
    return folder / "arrays.npz"


def npy(folder: Path, x: Any = IMAGES, y: Any = KINDS) -> tuple[Path, Path]:
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder / "x.npy", folder / "y.npy"


@pytest.mark.parametrize("memory", [1.0, 0.0])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64, ">f4", "fortran"])
def test_rows_are_the_arrays_flattened_and_divided(tmp_path: Path, memory: float, kind: Any) -> None:
    x = np.asfortranarray(IMAGES) if kind == "fortran" else IMAGES.astype(kind)
    data = ArrayDataModule(*npy(tmp_path, x), divide_by=255, memory=memory)
    rows, y = data.rows.all()
    assert data.rows.mapped == (memory == 0)
    assert rows.dtype == y.dtype == torch.float32
    np.testing.assert_allclose(rows, IMAGES.reshape(40, 6) / 255, rtol=1e-6)
    assert (data.task, data.num_features, data.num_outputs, list(data.class_names)) == ("multiclass", 6, 4, list("0123"))
    np.testing.assert_array_equal(y.argmax(1), KINDS)
    of_npz, _ = ArrayDataModule(npz(tmp_path, x), divide_by=255).rows.all()
    assert torch.equal(of_npz, rows)


@pytest.mark.parametrize(
    ("y", "task", "outputs", "names"),
    [
        (np.arange(40) % 2 == 0, "binary", 1, ["False", "True"]),
        (np.arange(40) % 2 * 3 + 4, "binary", 1, ["4", "7"]),
        (np.array(["cat", "dog", "owl", "dog"] * 10), "multiclass", 3, ["cat", "dog", "owl"]),
        (np.arange(40)[:, None] % 3, "multiclass", 3, ["0", "1", "2"]),
        (np.arange(80).reshape(40, 2) % 3 // 2, "multilabel", 2, []),
        (np.arange(40) / 7, "regression", 1, []),
        (np.arange(80.0).reshape(40, 2), "regression", 2, []),
    ],
)
def test_the_task_follows_from_y(tmp_path: Path, y: np.ndarray, task: str, outputs: int, names: list[str]) -> None:
    data = ArrayDataModule(npz(tmp_path, y=y))
    assert (data.task, data.num_outputs, list(data.class_names)) == (task, outputs, names)
    rows = data.rows.all()[1].numpy()
    if names:
        found = np.array(names)[rows[:, 0].astype(int) if task == "binary" else rows.argmax(1)]
        np.testing.assert_array_equal(found, y.reshape(40).astype(str))
    else:
        np.testing.assert_array_equal(rows, y.reshape(40, -1).astype(np.float32))


def test_mapped_rows_train_each_row_once_an_epoch_in_a_new_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchbp.data.rows.CHUNK", 8)
    monkeypatch.setattr("torchbp.data.rows.WINDOW", 64)
    x = np.arange(1000.0)[:, None]
    data = ArrayDataModule(*npy(tmp_path, x, np.arange(1000) % 2), memory=0, batch_size=37)
    loader, orders = data.train_dataloader(), []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        orders.append(torch.cat([rows for rows, _ in loader]).flatten())
        assert Counter(orders[-1].tolist()) == Counter(train_rows(data)[0].flatten().tolist())
    assert not torch.equal(*orders)
    assert not torch.equal(orders[0], orders[0].sort().values)
    # Chunks are shuffled within windows: 64 successive rows come from few chunks; the windows lie anywhere in the file.
    near = [len({int(row) // 8 for row in window}) for window in orders[0].split(64)]
    assert max(near) <= 2 * 64 / 8 + 8  # rows from anywhere would come from about 50 chunks
    means = torch.stack([window.mean() for window in orders[0].split(64)[:-1]])
    assert 200 < means.mean() < 800
    again = ArrayDataModule(*npy(tmp_path, x, np.arange(1000) % 2), memory=0, batch_size=37).train_dataloader()
    assert torch.equal(torch.cat([rows for rows, _ in again]).flatten(), orders[0])


def test_each_process_reads_its_own_part_of_a_file(tmp_path: Path) -> None:
    x = np.arange(1001.0)[:, None]
    data = ArrayDataModule(*npy(tmp_path, x, np.arange(1001) % 2), memory=0, val_size=0, test_size=0)
    order = data.split_rows("train").order(torch.Generator().manual_seed(0), 3)
    parts = [order[rank::3] for rank in range(3)]
    assert {len(part) for part in parts} == {334}
    for low, part, high in zip((0, 334, 668), parts, (334, 668, 1001), strict=True):
        assert low <= part.min()
        assert part.max() < high
    assert set(order.tolist()) == set(range(1001))


def test_mapped_rows_are_learned_as_those_in_memory(tmp_path: Path) -> None:
    x, y = load_digits(return_X_y=True)
    paths = npy(tmp_path, x.reshape(-1, 8, 8).astype(np.uint8), y)
    found = {}
    for memory in (0.0, 1.0):
        torch.manual_seed(0)
        data = ArrayDataModule(*paths, memory=memory)
        module = BPModule(data.num_features, data.num_outputs, (32,), data.task, lr=5.0, engine="fused")
        run = quiet_trainer(max_epochs=10)
        run.fit(module, datamodule=data)
        found[memory] = run.test(module, datamodule=data, verbose=False)[0]["accuracy/test"]
        assert torch.allclose(module.input_scaling.mean, train_rows(data)[0].mean(0), atol=1e-4)
    assert min(found.values()) > 0.93


def test_a_checkpoint_predicts_without_y_and_names_the_classes(tmp_path: Path) -> None:
    data = ArrayDataModule(npz(tmp_path, y=np.array(["cat", "dog", "owl", "dog"] * 10)))
    state = data.rows and data.state_dict()
    np.save(tmp_path / "new.npy", IMAGES[:3])
    new = ArrayDataModule(tmp_path / "new.npy")
    new.load_state_dict(state)
    assert new.class_names == ["cat", "dog", "owl"]
    [[x]] = new.predict_dataloader()
    np.testing.assert_array_equal(x, IMAGES[:3].reshape(3, 6))


def saved(folder: Path, name: str, content: Any) -> str:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        np.save(folder / name, content, allow_pickle=True)
    return name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: {"path": "gone.npz"}, "the data file gone.npz does not exist"),
        (lambda f: {"path": "x.txt"}, "x.txt has the extension '.txt'; it must be one of .npz, .npy"),
        (lambda f: {"path": saved(f, "x.npz", b"no archive")}, "x.npz cannot be read as NPZ"),
        (lambda f: {"path": saved(f, "x.npy", b"")}, "target is None; for x.npy it must be the .npy file of y"),
        (lambda f: {"path": saved(f, "x.npy", b""), "target": "x.npy"}, "x.npy cannot be read as NPY: No data left in file"),
        (lambda f: {"path": npz(f, a=IMAGES, y=KINDS)}, "has no array 'x'; it has 'a', 'y'"),
        (lambda f: {"path": npz(f), "y": "labels"}, "has no array 'labels'; it has 'x', 'y'"),
        (lambda f: {"path": npz(f), "target": "y.npy"}, "target is y.npy; in an .npz file the target is the array 'y'"),
        (lambda f: {"path": npz(f, x=IMAGES[:7])}, "x has shape (7, 3, 2) and y (40,); they must have the same number of rows"),
        (
            lambda f: {"path": npz(f, x=IMAGES[:0], y=KINDS[:0])},
            "type uint8 and shape (0, 3, 2); it must be numbers, at least one row",
        ),
        (lambda f: {"path": npz(f, x=IMAGES.astype(complex))}, "type complex128 and shape (40, 3, 2); it must be numbers"),
        (lambda f: {"path": npz(f, y=np.zeros((40, 2, 2)))}, "type float64 and shape (40, 2, 2); it must be numbers, (N) or"),
        (lambda f: {"path": npz(f, x=np.full((40, 2), np.nan))}, "x holds nan in row 0, column 0; all values must be finite"),
        (lambda f: {"path": npz(f, y=np.full(40, 3))}, "single class"),
        (lambda f: {"path": npz(f), "task": "binary"}, "y has 4 classes, 0, 1, 2, 3; task binary has two"),
        (lambda f: {"path": npz(f, y=np.array(["a", "b"] * 20)), "task": "regression"}, "y holds names, such as 'a'"),
        (lambda f: {"path": npz(f), "task": "ranking"}, "task is 'ranking'; it must be one of"),
        (lambda f: {"path": npz(f), "divide_by": 0}, "divide_by is 0; it must be a finite number other than 0"),
        (lambda f: {"path": npz(f), "memory": -1}, "memory is -1; it must be 0 GiB or more"),
        (
            lambda f: {"path": npz(f, y=np.arange(40) % 3 * 1.5), "task": "multilabel"},
            "y reaches from 0 to 3; for task multilabel",
        ),
    ],
)
def test_bad_arrays_get_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        _ = ArrayDataModule(**make(tmp_path)).rows
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_array_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (tmp_path / "owned").mkdir, ()

    np.save(tmp_path / "x.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x.npy cannot be read as NPY: .*Python objects in dtype"):
        _ = ArrayDataModule(tmp_path / "x.npy", tmp_path / "x.npy").rows
    assert not (tmp_path / "owned").exists()


def with_header(path: Path, shape: tuple[int, ...]) -> None:
    """An .npz file whose x declares this shape but has no data."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())


@pytest.mark.parametrize("shape", [(2**60, 3), (2**70,)])
def test_an_array_that_no_memory_holds_is_refused_by_its_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with_header(tmp_path / "a.npz", shape)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as NPZ: "):
        read(tmp_path / "a.npz", "x")


def test_a_small_file_of_large_arrays_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000), np.float32))
    assert read(tmp_path / "a.npz", "x").shape == (1000, 1000)
    monkeypatch.setattr("torchbp.data._arrays.most_bytes", lambda: 10**6)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as NPZ: its arrays take 0.00373 GiB; .* 0.00186 GiB"):
        read(tmp_path / "a.npz", "x")


@pytest.mark.parametrize(
    ("width", "classes", "message"),
    [
        (1000, 2, r"x in .*bytes\.npz, of shape \(1000, 1000\): its numbers in float32 take 0.00373 GiB"),
        (2, 500, r"targets of 1,000 rows with a column for each of 500 classes take 0.00186 GiB"),
    ],
)
def test_bytes_whose_numbers_do_not_fit_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, classes: int, message: str
) -> None:
    np.savez(tmp_path / "bytes.npz", x=np.ones((1000, width), np.uint8), y=np.arange(1000) % classes)
    monkeypatch.setattr("torchbp.data._memory.most_bytes", lambda: 1_100_000)
    with pytest.raises(ValueError, match=message):
        _ = ArrayDataModule(tmp_path / "bytes.npz").rows
