"""Studies that a stranger has changed: no network gets a size from them, and each is refused in one line."""

import os
import sqlite3

import numpy as np
import optuna
import polars as pl
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from torchbp.cli import main
from torchbp.sklearn import BPClassifier, BPSearchCV

STORAGE = "sqlite:///study.db"
BASE = ["search", "--data.path", "t.csv", "--data.target", "kind", "--trainer.max_epochs", "3", "--storage", STORAGE]
SIZES = CategoricalDistribution(["[16]", "[32]", "[64]", "[128]", "[32, 32]", "[64, 64]"])
GOOD = {
    "hidden_sizes": ("[16]", SIZES),
    "activation": ('"tanh"', CategoricalDistribution(['"sigmoid"', '"tanh"', '"relu"'])),
    "batch_size": (16, CategoricalDistribution([16, 32, 64, 128])),
    "lr_factor": (1.0, FloatDistribution(0.05, 4.0, log=True)),
    "init_scale": (1.0, FloatDistribution(0.3, 3.0, log=True)),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 2))
    pl.DataFrame({"p": x[:, 0], "q": x[:, 1], "kind": np.where(x[:, 0] + x[:, 1] > 0, "a", "b")}).write_csv("t.csv")


def study(**arguments):
    return optuna.create_study(study_name="torchbp", storage=STORAGE, **arguments)


def add(to, value=-1e9, epoch=1, **strange):
    params = {**GOOD, **strange}
    made = create_trial(
        state=TrialState.COMPLETE,
        value=value,
        params={name: one for name, (one, _) in params.items()},
        distributions={name: of for name, (_, of) in params.items()},
        user_attrs={"epoch": epoch},
    )
    to.add_trial(made)


def refused(capfd, message, *options):
    assert main([*BASE, "--trials", "1", *options]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("torchbp: error: ")
    assert message in line
    assert not os.path.exists("logs")


STRANGE = {
    "units": ({"hidden_sizes": ("[1000000000]", CategoricalDistribution(["[1000000000]"]))}, "chooses hidden_sizes from"),
    "units as a number": ({"hidden_sizes": (1e9, FloatDistribution(1, 1e10))}, "has hidden_sizes 1000000000.0; it must be"),
    "rows": ({"batch_size": (10**9, IntDistribution(1, 10**10))}, "has batch_size 1000000000; it must be one of [16, 32"),
    "rows as floats": ({"batch_size": (16.0, CategoricalDistribution([16.0, 32, 64, 128]))}, "has batch_size 16.0; it must"),
    "an import": ({"activation": ('"os:system"', CategoricalDistribution(['"os:system"']))}, "chooses activation from"),
    "a rate below 0": ({"lr_factor": (-1.0, FloatDistribution(-5, 5))}, "has lr_factor -1.0; it must be above 0"),
    "a rate beyond float32": ({"lr_factor": (1e300, FloatDistribution(1, 1e301, log=True))}, "has lr_factor 1e+300; it must"),
    "a rate that is a text": ({"lr_factor": ("x", CategoricalDistribution(["x"]))}, "has lr_factor 'x'; it must be above 0"),
    "a whole rate": ({"init_scale": (1, IntDistribution(1, 5))}, "has init_scale 1; it must be above 0"),
    "epochs": ({"epoch": 10**9}, "has 1000000000 as its best epoch; it must be from 0 to trainer.max_epochs, 3"),
    "epochs as a text": ({"epoch": "x"}, "has 'x' as its best epoch"),
    "epochs as a list": ({"epoch": [1]}, "has [1] as its best epoch"),
    "epochs as a truth": ({"epoch": True}, "has True as its best epoch"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_parameters_that_no_search_has_written_are_refused(name, capfd):
    strange, message = STRANGE[name]
    add(study(), **strange)
    refused(capfd, message)


@pytest.mark.parametrize(
    ("proposed", "message"),
    [
        ({"hidden_sizes": "[99999999999]"}, "has a trial that is not in --space"),
        ({"batch_size": 10**9}, "has a trial that is not in --space"),
        ({"lr_factor": -1.0}, "has a trial that is not in --space"),
        ({"lr_factor": "x"}, "has a trial that is not in --space"),
        ({"lr_factor": float("inf")}, "has lr_factor inf; it must be above 0"),
    ],
)
def test_trials_that_are_proposed_there_are_looked_at(proposed, message, capfd):
    one = study()
    one.enqueue_trial(proposed)
    refused(capfd, message)
    assert [trial.state.name for trial in one.trials] == ["FAIL"]


@pytest.mark.parametrize("arguments", [{"direction": "maximize"}, {"directions": ["minimize", "minimize"]}])
def test_a_study_that_looks_for_something_else_is_refused(arguments, capfd):
    study(**arguments)
    refused(capfd, "does not minimize; set another --study")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trial_params set distribution_json = '{'", "Optuna cannot open it (JSONDecodeError"),
        ("""trial_params set distribution_json = '{"name": "os.system", "attributes": {}}'""", "Unknown distribution class"),
        ("trial_params set param_value = 99", "Optuna cannot open it"),
        ("trial_user_attributes set value_json = '" + "[" * 10**5 + "'", "Optuna cannot open it (RecursionError"),
        ("trials set state = 'BAD'", "Optuna cannot open it (LookupError"),
        ("trial_values set value = 'x'", "has the cost 'x'"),
    ],
)
def test_a_storage_that_is_damaged_is_refused(change, message, capfd):
    add(study())
    with sqlite3.connect("study.db") as file:
        file.execute(f"update {change}")
    refused(capfd, message)


def test_what_an_earlier_search_found_is_taken():
    add(study(), init_scale=(9.0, FloatDistribution(0.1, 10.0, log=True)))
    assert main([*BASE, "--trials", "1", "--output", "o.ckpt"]) == 0


def test_candidates_that_are_proposed_there_are_looked_at():
    X = np.random.default_rng(0).normal(size=(60, 2))
    space = {"batch_size": IntDistribution(8, 16), "learning_rate_init": (0.01, 1.0)}
    for strange in ({"batch_size": 10**9}, {"learning_rate_init": 1e300}):
        one = optuna.create_study(direction="maximize", study_name=str(strange), storage=STORAGE)
        one.enqueue_trial(strange)
        search = BPSearchCV(BPClassifier((3,), max_iter=2), space, n_trials=1, storage=STORAGE, study_name=str(strange))
        [name] = strange
        message = f"the study proposes {name} .*; it must be from"
        with pytest.warns(UserWarning, match="out of range"), pytest.raises(ValueError, match=message):
            search.fit(X, X[:, 0] > 0)
        assert [trial.state.name for trial in one.trials] == ["FAIL"]
