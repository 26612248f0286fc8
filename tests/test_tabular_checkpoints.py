"""Tables that a network was trained on, and others that its checkpoint alone encodes in the same way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn import datasets
from test_tabular import GOOD, csv, in_training, loaded, mixed, wine, written
from training_runs import quiet_trainer

from torchbp.data import TabularDataModule
from torchbp.training import BPModule


def trained(data: TabularDataModule, folder: Path, epochs: int, **model: Any) -> tuple[BPModule, Any, str]:
    module = BPModule(data.num_features, data.num_outputs, task=data.task, **model)
    checkpoint = ModelCheckpoint(folder / "checkpoints", filename="best")
    trainer = quiet_trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoint])
    trainer.fit(module, datamodule=data)
    return module, trainer, checkpoint.best_model_path


@pytest.mark.parametrize(
    ("name", "model", "metric", "at_least"),
    [
        ("wine", {"lr": 2.0}, "accuracy/test", 0.9),
        ("breast_cancer", {"lr": 0.5}, "accuracy/test", 0.93),
        ("diabetes", {"lr": 0.05, "hidden_sizes": [8]}, "r2/test", 0.25),
    ],
)
def test_real_tables_are_learned(tmp_path: Path, name: str, model: dict[str, Any], metric: str, at_least: float) -> None:
    bunch = getattr(datasets, f"load_{name}")()
    classes = bunch.get("target_names")
    frame = pl.DataFrame(bunch.data, schema=list(bunch.feature_names))
    frame = frame.with_columns(outcome=bunch.target if classes is None else classes[bunch.target])
    data = TabularDataModule(csv(tmp_path, frame, name), "outcome")
    assert data.name == name
    assert list(data.class_names) == ([] if classes is None else sorted(classes))
    module, trainer, _ = trained(data, tmp_path, 20, **model)
    assert trainer.test(module, datamodule=data, verbose=False)[0][metric] >= at_least


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training run on the wine data."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    data = TabularDataModule(csv(folder, wine(), "wine"), "cultivar", missing="indicator", types={"proline": "numeric"})
    module, trainer, checkpoint = trained(data, folder, 3, lr=2.0)
    tested = trainer.test(module, datamodule=data, verbose=False)[0]
    return {"data": data, "module": module.eval(), "checkpoint": checkpoint, "tested": tested}


def test_a_checkpoint_predicts_rows_of_another_file_as_the_training_process_does(run: dict[str, Any], tmp_path: Path) -> None:
    # Few rows, in another order, without the target, with other columns and in another order of columns.
    rows = [170, 0, 77, 11, 3]
    with torch.no_grad():
        expected = run["module"](run["data"].rows.all()[0][rows])
    new = wine()[rows].drop("cultivar").with_columns(extra=pl.lit("?"))
    new = new.select(reversed(new.columns))
    new.write_parquet(tmp_path / "new.parquet")
    for path in (csv(tmp_path, new, "new"), tmp_path / "new.parquet"):
        data = TabularDataModule(path, "cultivar")
        module = BPModule.load_from_checkpoint(run["checkpoint"], weights_only=True)
        predicted = torch.cat(quiet_trainer().predict(module, datamodule=data, ckpt_path=run["checkpoint"]))
        assert torch.equal(predicted, expected)
        assert data.class_names == run["data"].class_names
        assert data.num_features == module.hparams["num_features"]
        alone = TabularDataModule.load_from_checkpoint(run["checkpoint"], path=path, weights_only=True)
        assert torch.equal(loaded(alone.predict_dataloader())[0], run["data"].rows.all()[0][rows])


def test_a_checkpoint_tests_its_own_test_split(run: dict[str, Any]) -> None:
    data = TabularDataModule.load_from_checkpoint(run["checkpoint"], path=run["data"].path, weights_only=True)
    module = BPModule.load_from_checkpoint(run["checkpoint"], weights_only=True)
    assert quiet_trainer().test(module, data, ckpt_path=run["checkpoint"], verbose=False)[0] == run["tested"]


def test_the_checkpoint_holds_nothing_but_plain_values(run: dict[str, Any]) -> None:
    state = torch.load(run["checkpoint"], weights_only=True)["TabularDataModule"]
    assert json.loads(json.dumps(state)) == json.loads(json.dumps(run["data"].state_dict()))
    assert run["data"].state_dict()["columns"]


def test_training_goes_on_with_the_encoding_of_its_checkpoint(run: dict[str, Any], tmp_path: Path) -> None:
    # This file alone would give other medians, one more category and so another width.
    changed = wine().with_columns(ash=pl.col("ash") + 5, colour=pl.col("colour").str.replace("pale", "faint"))
    data = TabularDataModule(csv(tmp_path, changed), "cultivar", missing="indicator")
    assert data.feature_names != run["data"].feature_names
    module = BPModule.load_from_checkpoint(run["checkpoint"], weights_only=True)
    quiet_trainer(max_epochs=4).fit(module, datamodule=data, ckpt_path=run["checkpoint"], weights_only=True)
    after, before = data.state_dict(), run["data"].state_dict()
    assert len(after.pop("trained_on")) > len(before.pop("trained_on")) > 0  # rows of both kinds
    assert after == before
    x, _ = loaded(data.train_dataloader())
    assert data.feature_names == run["data"].feature_names
    assert (x[:, data.feature_names.index("colour=pale")] == 0).all()
    assert not torch.equal(module.network.layers[0].weight, run["module"].network.layers[0].weight)


def test_new_rows_with_gaps_and_unseen_categories(tmp_path: Path) -> None:
    frame = mixed()
    data = TabularDataModule(csv(tmp_path, frame), "label")
    assert data.num_features
    train = in_training(data, frame)
    new = pl.DataFrame(
        {"uid": [1.0, 2], "age": [None, 5], "city": ["Rome", None], "member": [None, "TRUE"], "code": ["nan", "7"]}
    )
    again = TabularDataModule(csv(tmp_path, new, "new"), "label")
    again.load_state_dict(data.state_dict())
    with pytest.warns(UserWarning, match="column 'city' holds values that training did not see, in 1 row: 'Rome'"):
        [x] = loaded(again.predict_dataloader())
    got = dict(zip(again.feature_names, x.T.tolist(), strict=True))
    train_rows = frame.filter(pl.Series(train))
    cities = train_rows["city"].drop_nulls().to_list()
    most = max(sorted(set(cities)), key=cities.count)
    assert got == {
        "uid": [1, 2],
        "age": [np.nanmedian(train_rows["age"].cast(pl.Float64).to_numpy()), 5],
        **{f"city={city}": [0, float(city == most)] for city in "vwxyz"},
        "member": [0, 1],
        "code": [np.median(train_rows["code"].to_numpy()), 7],
    }


def test_numbers_among_texts_are_the_same_category_in_either_format(tmp_path: Path) -> None:
    data = TabularDataModule(written(tmp_path, GOOD.replace("r", "1").replace("s", "2")), "bought")
    assert data.feature_names == ["age", "city=1", "city=2", "city=t"]
    pl.DataFrame({"age": [3, 4, 5], "city": [2, 1, 3]}).write_parquet(tmp_path / "new.parquet")
    new = TabularDataModule(tmp_path / "new.parquet", "bought")
    new.load_state_dict(data.state_dict())
    with pytest.warns(UserWarning, match="column 'city' holds values that training did not see, in 1 row: '3'"):
        [x] = loaded(new.predict_dataloader())
    assert x.tolist() == [[3, 0, 1, 0], [4, 1, 0, 0], [5, 0, 0, 0]]


def test_what_stands_for_a_missing_value_is_what_it_was_in_training(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "?,r,no\n")
    data, again = TabularDataModule(path, "bought", null_values=["?"]), TabularDataModule(path, "bought")
    _ = data.rows  # fitted
    again.load_state_dict(data.state_dict())
    assert torch.equal(again.rows.all()[0], data.rows.all()[0])


def test_texts_that_look_like_numbers_stay_texts_in_another_file(tmp_path: Path) -> None:
    codes = ["01", "1.10", "1.1", "2A"] * 10
    rows = [f"{code},{'7x' if row % 3 else '07'}" for row, code in enumerate(codes)]
    (tmp_path / "trained.csv").write_text("\n".join(["code,y", *rows]))
    (tmp_path / "other.csv").write_text("code,y\n01,07\n1.10,07\n1.1,07\n")
    data = TabularDataModule(tmp_path / "trained.csv", "y", val_size=0, test_size=0)
    assert data.feature_names == ["code=01", "code=1.1", "code=1.10", "code=2A"]
    other = TabularDataModule(tmp_path / "other.csv", "y", val_size=0, test_size=0)
    other.load_state_dict(data.state_dict())
    x, y = other.rows.all()
    assert x.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert y.tolist() == [[1], [1], [1]]  # the rarer class is the positive one
