from collections import Counter

import numpy as np
import pytest
import torch
from sklearn import datasets

from torchbp.data import BuiltinDataModule, Rows, RowsDataModule
from torchbp.data.base import check_rows
from torchbp.data.rows import evenly_spaced

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def splits(data: RowsDataModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [tuple(torch.cat(parts) for parts in zip(*getattr(data, loader)(), strict=True)) for loader in LOADERS]


@pytest.mark.parametrize(
    ("name", "rows", "features", "outputs", "task"),
    [
        ("xor", 4, 2, 1, "binary"),
        ("moons", 1000, 2, 1, "binary"),
        ("breast_cancer", 569, 30, 1, "binary"),
        ("digits", 1797, 64, 10, "multiclass"),
        ("diabetes", 442, 10, 1, "regression"),
    ],
)
def test_builtin_shapes(name: str, rows: int, features: int, outputs: int, task: str) -> None:
    data = BuiltinDataModule(name)
    x, y = data.rows.all()
    assert x.shape == (rows, features)
    assert y.shape == (rows, outputs)
    assert (data.num_features, data.num_outputs, data.task) == (features, outputs, task)
    assert len(data.class_names) in (0, max(outputs, 2))
    for x, y in data.rows.all(), next(iter(splits(data))):
        assert x.dtype == y.dtype == torch.float32


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "diabetes"])
def test_builtin_values_are_scikit_learns(name: str) -> None:
    x, y = BuiltinDataModule(name).rows.all()
    expected_x, expected_y = getattr(datasets, f"load_{name}")(return_X_y=True)
    np.testing.assert_array_equal(x.numpy(), expected_x.astype(np.float32))
    np.testing.assert_array_equal((y.argmax(1) if name == "digits" else y[:, 0]).numpy(), expected_y)


def test_split_is_whole_disjoint_and_stratified() -> None:
    data = BuiltinDataModule("digits", val_size=0.2, test_size=0.1)
    parts = splits(data)
    assert [len(x) for x, _ in parts] == pytest.approx([1797 - 359 - 180, 359, 180], abs=5)
    rows = Counter(tuple(row) for x, _ in parts for row in x.tolist())
    assert rows == Counter(tuple(row) for row in data.rows.all()[0].tolist())
    share = data.rows.all()[1].mean(0)
    for _, y in parts:
        torch.testing.assert_close(y.mean(0), share, atol=0.01, rtol=0)


def test_split_depends_on_the_seed_alone() -> None:
    one, same, other = (splits(BuiltinDataModule("breast_cancer", seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for first, second in zip(one, same, strict=True) for a, b in zip(first, second, strict=True))
    assert not torch.equal(one[2][0], other[2][0])


def test_batches_are_shuffled_anew_each_epoch_and_alike_for_one_seed() -> None:
    data, again = BuiltinDataModule("moons", batch_size=64), BuiltinDataModule("moons", batch_size=64)
    orders = []
    for module in (data, again):
        loader = module.train_dataloader()
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            orders.append(torch.cat([x for x, _ in loader]))
    assert torch.equal(orders[0], orders[2])
    assert torch.equal(orders[1], orders[3])
    assert not torch.equal(orders[0], orders[1])


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 4), (3, [3, 1]), ("full", [4])])
def test_batch_sizes(batch_size: int | str, sizes: list[int]) -> None:
    data = BuiltinDataModule("xor", batch_size=batch_size)
    assert [len(x) for x, _ in data.train_dataloader()] == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "iris"}, "name is 'iris'; it must be one of xor, moons"),
        ({"name": "xor", "batch_size": 0}, "batch_size is 0; it must be a positive integer or 'full'"),
        ({"name": "xor", "batch_size": "all"}, "batch_size is 'all'"),
        ({"name": "moons", "val_size": 0.6, "test_size": 0.4}, "val_size is 0.6 and test_size 0.4"),
        ({"name": "moons", "val_size": -0.1}, "val_size is -0.1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BuiltinDataModule(**arguments)


X, Y = torch.rand(4, 2), torch.tensor([[0.0], [1], [0], [1]])


@pytest.mark.parametrize(
    ("x", "y", "task", "message"),
    [
        (torch.empty(0, 2), torch.empty(0, 1), "binary", "no rows"),
        (X, Y[:3], "binary", r"x has shape \(4, 2\) and y \(3, 1\)"),
        (X.log().masked_fill(X == X, float("nan")), Y, "binary", "x holds nan in row 0, column 0"),
        (X, torch.tensor([[0.0], [1], [float("inf")], [0]]), "regression", "y holds inf in row 2, column 0"),
        (X, 2 * Y, "binary", r"y reaches from 0 to 2; for task binary it must lie in \[0, 1\]"),
        (X, torch.zeros(4, 1), "binary", "single class"),
        (X, torch.eye(3)[[1, 1, 1, 1]], "multiclass", "single class"),
        (X, torch.tensor([[0.0, 1], [1, 1], [0, 1], [1, 1]]), "multilabel", "single class"),
    ],
)
def test_bad_rows(x: torch.Tensor, y: torch.Tensor, task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rows(Rows(x, y), task)


def test_too_few_rows_to_stratify() -> None:
    class Tiny(RowsDataModule):
        task, name = "binary", "tiny"

        def load(self) -> Rows:
            return Rows(X[:3], Y[:3])

    with pytest.raises(ValueError, match=r"the data has 2 rows; train and val \(a val_size of 0.3\) and test"):
        Tiny(val_size=0.3, test_size=0.3).split_rows("train")


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 1797, 2**24 + 4, 3 * 10**9])
def test_evenly_spaced_rows_reach_from_the_first_to_the_last(count: int) -> None:
    index = evenly_spaced(count, 512)
    assert len(index) == min(count, 512)
    if count:
        assert index[0] == 0
    if count > 1:
        assert index[-1] == count - 1
        gaps = index.diff()
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
