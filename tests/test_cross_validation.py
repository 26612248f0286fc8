"""Cross-validation from the command line: each fold equals a run of fit, and folds are split as requested."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from training_runs import CONFIGS

from torchbp.cli import main
from torchbp.data import BuiltinDataModule, TabularDataModule
from torchbp.data.folds import folds_of
from torchbp.training.checkpoint import newest_checkpoint


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(rows=72):
    """A table with gaps, a category so rare that few folds have it, groups of rows, and unsorted days."""
    draw = np.random.default_rng(0)
    city, x = draw.choice(list("uvw"), rows), draw.normal(size=rows).round(3)
    city[0] = "r"
    return pl.DataFrame(
        {
            "city": city,
            "x": [None if draw.random() < 0.1 else value for value in x],
            "who": draw.integers(0, 12, rows),
            "day": [f"2024-{month:02}-{day:02}" for month, day in draw.integers(1, 13, (rows, 2))],
            "kind": np.array(["a", "b", "c"])[np.digitize(x + (city == "u") + 0.1 * draw.normal(size=rows), [0, 1])],
            "level": 1e9 + 3 * x + draw.normal(size=rows),
        }
    )


def cross_validated(*options):
    assert main(["cross-validate", *options, "--output", "p.csv"]) == 0
    return pl.read_csv("p.csv")


BASE = ["--data.batch_size", "16", "--trainer.max_epochs", "6", "--data.ignore", "[who, day]", "--model.hidden_sizes", "[5]"]
MODELS = {
    "kind": ["--model.class_weight", "balanced", "--model.label_smoothing", "0.1", "--model.activation", "swish"],
    "level": ["--patience", "2", "--model.lr", "0.1"],
    "good": ["--model.pos_weight", "balanced", "--model.threshold", "f1", "--model.activation_per_unit", "true"],
}


@pytest.mark.filterwarnings("ignore:column 'city' holds values that training did not see")
@pytest.mark.parametrize("target", MODELS)
def test_a_fold_is_the_run_that_fit_is_on_the_same_rows(target, capfd):
    rows = table().with_columns(good=pl.col("level") > 1e9 + 1)
    rows = rows.drop({"kind", "level", "good"} - {target})
    rows.write_csv("t.csv")
    options = ["--data.target", target, *BASE, *MODELS[target]]
    ours = cross_validated("--data.path", "t.csv", *options, "--folds", "3", "--repeats", "2")
    assert ours.group_by("repeat", "fold").len().height == 6
    assert ours["row"].sort().to_list() == sorted([*range(1, 73)] * 2)
    data = TabularDataModule("t.csv", target, ignore=["who", "day"], batch_size=16).with_parts(None)
    fold = next(fold for fold in folds_of(data, 3, 2, 0.2) if (fold.repeat, fold.number) == (1, 2))
    parts = [("train", "val", "test")[part] for part in fold.part_of.tolist()]
    rows.with_columns(part=pl.Series(parts)).write_csv("f.csv")
    assert main(["fit", "--data.path", "f.csv", "--data.split", "part", "--every_epoch", "true", *options]) == 0
    assert main(["predict", "--ckpt_path", newest_checkpoint(None, "best"), "--data.path", "t.csv", "--output", "q.csv"]) == 0
    peer, ours = pl.read_csv("q.csv"), ours.filter(pl.col("repeat") == 1, pl.col("fold") == 2)
    peer = peer.filter(pl.col("row").is_in(ours["row"].to_list()))
    columns = [name for name in ours.columns if name.startswith("p")]
    np.testing.assert_allclose(ours.select(columns).to_numpy(), peer.select(columns).to_numpy(), atol=2e-4, rtol=0)
    if target != "level":
        assert ours["class"].to_list() == peer["class"].to_list()
    said = capfd.readouterr().out
    assert re.search(r"│ cost +│ +\d", said)


def test_groups_stay_on_one_side_and_classes_keep_their_shares():
    table().write_csv("t.csv")
    data = TabularDataModule("t.csv", "kind", types={"who": "ignored"}).with_parts(None)
    who, kind = table()["who"].to_numpy(), table()["kind"].to_numpy()
    for fold in folds_of(data, 4, 2, 0.25, groups="who"):
        groups = [set(who[fold.rows(part)]) for part in range(3)]
        assert all(groups)
        assert sum(map(len, groups)) == len(set(who))
    shares = [np.mean(kind[fold.rows(2)] == "a") for fold in folds_of(data, 4)]
    assert max(shares) - min(shares) < 0.1
    seen = np.concatenate([fold.rows(2) for fold in folds_of(data, 4, 2)])
    assert sorted(seen) == sorted([*range(72)] * 2)


@pytest.mark.parametrize("column", ["day", "x"])
def test_in_order_test_rows_come_last(column):
    table().with_columns(pl.col("x").fill_null(5)).write_csv("t.csv")
    data = TabularDataModule("t.csv", "kind").with_parts(None)
    values = pl.read_csv("t.csv")[column].to_numpy()
    folds = folds_of(data, 3, val_size=0.2, order=column)
    assert len(folds) == 3
    for fold in folds:
        train, val, test = (values[fold.rows(part)] for part in range(3))
        assert max(train) <= min(val) <= max(val) <= min(test)
    np.testing.assert_array_equal(np.sort(values[folds[-1].rows(2)]), np.sort(values)[-18:])


def test_what_does_not_fit_memory_side_by_side_is_run_in_groups():
    table().drop("level").write_csv("t.csv")
    options = ["--data.path", "t.csv", "--data.target", "kind", *BASE, "--folds", "4"]
    at_once = cross_validated(*options)
    in_groups = cross_validated(*options, "--data.memory", "4e-6")  # a fold takes 2,304 to 2,592 bytes
    np.testing.assert_allclose(at_once["p_a"], in_groups["p_a"], atol=1e-6)


def test_a_fold_that_diverges_is_in_no_mean_and_ends_none_of_the_others(capfd):
    draw = np.random.default_rng(0)
    x = draw.normal(size=60)
    x[0] = 1e4
    pl.DataFrame({"x": x, "y": 2 * x + draw.normal(size=60)}).write_csv("t.csv")
    options = ["--data.path", "t.csv", "--data.target", "y", "--data.standardize", "false", "--data.val_size", "0"]
    network = ["--model.lr", "0.1", "--model.hidden_sizes", "[]", "--model.clip", "null", "--trainer.max_epochs", "40"]
    rows = cross_validated(*options, *network, "--folds", "3")
    said = capfd.readouterr().out
    assert said.count("diverged, and is in no mean: its cost was") == 2
    assert "3 folds: 1 networks" in said
    assert len(rows) == 20


def test_on_standard_output_there_are_predictions_alone(capfd):
    table().drop("level").write_csv("t.csv")
    options = ["--data.path", "t.csv", "--data.target", "kind", *BASE, "--folds", "3", "--groups", "who", "--output", "-"]
    assert main(["cross-validate", *options]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("row,repeat,fold,class,p_a,p_b,p_c\n1,1,")
    assert "3 folds: 3 networks" in err


def test_a_configuration_of_a_run_is_taken(capfd):
    options = ["--config", str(CONFIGS / "breast_cancer.yaml"), "--trainer.max_epochs", "2", "--folds", "2"]
    assert main(["cross-validate", *options]) == 0
    assert "2 folds: 2 networks" in capfd.readouterr().out


def test_every_command_takes_a_runs_own_configuration(capfd):
    assert main(["fit", "--config", str(CONFIGS / "moons.yaml"), "--trainer.max_epochs", "1", "--patience", "3"]) == 0
    config = ["--config", "logs/moons/version_0/config.yaml"]
    path = ["--ckpt_path", newest_checkpoint(None, "best")]
    capfd.readouterr()
    assert main(["trace", *config]) == 0
    assert main(["cross-validate", *config, "--folds", "2"]) == 0
    assert main(["search", *config, "--trials", "1"]) == 0
    for command in ("validate", "test", "predict"):
        assert main([command, *config, *path]) == 0
    assert capfd.readouterr().err == ""


def test_help_is_of_what_there_is(capfd):
    assert main(["cross-validate", "--help"]) == 0
    said = capfd.readouterr().out
    for option in ("--folds", "--repeats", "--groups", "--order", "--output", "--model.hidden_sizes", "--data.target"):
        assert option in said
    for option in (
        "--trainer.devices",
        "--model.engine",
        "--ckpt_path",
        "--model.sequences",
        "--model.pooling",
        "--data.window",
    ):
        assert option not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "40"], "class 'b' has 18 rows; 40 folds need 40 of each class"),
        (["--groups", "whom"], "has no column 'whom'; it has 'who'"),
        (["--groups", "city"], "has no value in row 3"),
        (["--groups", "who", "--folds", "13"], "groups is 'who', which has 12 values; 13 folds need at least as many"),
        (["--trainer.max_epochs", "0"], "max_epochs is 0; it must be 1 or more"),
        (["--trainer.max_epochs", "-1"], "max_epochs is -1; it must be 1 or more"),
        (["--order", "who", "--folds", "90"], "the data has 72 rows; 90 folds need at least as many"),
        (["--order", "kind"], "order is 'kind', which holds texts such as"),
        (["--output", "t.csv"], "output is t.csv; it must be another file than the data's"),
        (["--data.test_size", "0.1"], "test_size is for torchbp fit; here each fold is tested in turn"),
        (["--data.split", "kind"], "column 'kind' is the target"),
        (["--data.val_path", "t.csv"], "val_path is 't.csv'; here the rows are split anew"),
        (["--trainer.devices", "2"], "devices is for torchbp fit"),
        (["--model.engine", "fused"], "engine is for torchbp fit"),
        (["--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler.gamma", "0.9"], "lr_scheduler is for torchbp fit"),
        (["--model.hidden_sizes", "[0]"], "0"),
        (["--foldz", "3"], "unrecognized arguments: --foldz 3"),
        (["--model.sequences", "last"], "unrecognized arguments: --model.sequences last"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options, message, capfd):
    rows = table()
    rows.with_columns(city=pl.when(pl.int_range(len(rows)) == 2).then(None).otherwise("city")).write_csv("t.csv")
    before = Path("t.csv").read_bytes()
    assert main(["cross-validate", "--data.path", "t.csv", "--data.target", "kind", *BASE, *options]) != 0
    [line] = [line for line in capfd.readouterr().err.splitlines() if "warning" not in line]
    assert message in line
    assert Path("t.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "folds is 1; it must be 2 or more"),
        (["--groups", "who", "--order", "day"], "groups is 'who' and order 'day'; rows are split by one of them"),
        (["--order", "day", "--repeats", "2"], "repeats is 2; rows in the order of 'day' can be split in one way only"),
        (["--output", "p.xlsx"], "the output p.xlsx has the extension '.xlsx'"),
    ],
)
def test_bad_options_are_refused_before_the_file_is_read(options, message, capfd):
    Path("t.csv").touch()  # reading it would end in another error: it is empty
    assert main(["cross-validate", "--data.path", "t.csv", "--data.target", "kind", *options]) == 1
    assert message in capfd.readouterr().err


def test_sequences_are_refused(capfd):
    table().write_csv("t.csv")
    assert main(["cross-validate", "--data.path", "t.csv", "--data.target", "level", "--data.window", "3"]) == 1
    assert "the data are sequences, which torchbp fit trains on" in capfd.readouterr().err


def test_other_data_have_no_columns_to_split_by():
    with pytest.raises(ValueError, match="the data has no column 'who': groups and order need a table"):
        folds_of(BuiltinDataModule("moons").with_parts(None), 3, groups="who")
