"""``torchbp search``: trials side by side equal single trials, and the best one's checkpoint is like any other."""

import numpy as np
import optuna
import polars as pl
import pytest
import torch
import yaml
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from torchbp._text import without_passwords
from torchbp.cli import main
from torchbp.data import TabularDataModule
from torchbp.sklearn import BPClassifier, BPRegressor, BPSearchCV
from torchbp.training.checkpoint import load_checkpoint, newest_checkpoint

STORAGE = "sqlite:///study.db"
BASE = ["search", "--data.path", "t.csv", "--data.target", "kind", "--trainer.max_epochs", "8", "--storage", STORAGE]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(90, 2))
    kind = np.array(["a", "b", "c"])[np.digitize(x[:, 0] + x[:, 1] ** 2, [0, 1])]
    pl.DataFrame({"p": x[:, 0], "q": x[:, 1], "city": draw.choice(list("uv"), 90), "kind": kind}).write_csv("t.csv")


def study():
    return optuna.load_study(study_name="torchbp", storage=STORAGE)


def test_trials_side_by_side_are_those_one_by_one(capfd):
    space = ["--space.hidden_sizes", "[[4], [6, 3]]", "--space.batch_size", "[16]", "--pruner", "none"]
    assert main([*BASE, *space, "--trials", "6", "--side_by_side", "3", "--model.activation", "tanh"]) == 0
    said = capfd.readouterr().out
    trials = study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    assert set(trials[0].params) == {"hidden_sizes", "batch_size", "lr_factor", "init_scale"}  # given settings are not searched
    shapes = [(trial.params["hidden_sizes"], trial.params["batch_size"]) for trial in trials]
    assert shapes == [shapes[0]] * 3 + [shapes[3]] * 3
    for trial in trials[1], trials[5]:
        p = trial.params
        pinned = [f"--space.lr_factor=[{p['lr_factor']!r}, {p['lr_factor']!r}]"]
        pinned += [f"--space.init_scale=[{p['init_scale']!r}, {p['init_scale']!r}]", "--study", "alone"]
        network = ["--model.activation", "tanh", "--model.hidden_sizes", p["hidden_sizes"], "--pruner", "none"]
        assert main([*BASE, *pinned, *network, "--data.batch_size", str(p["batch_size"]), "--trials", "1"]) == 0
        alone = optuna.load_study(study_name="alone", storage=STORAGE).trials[-1]
        assert trial.value == pytest.approx(alone.value, rel=1e-3)
    assert np.std([trial.value for trial in trials]) > 0.01
    # TensorBoard's HPARAMS page has each trial.
    best = min(trials, key=lambda trial: trial.value)
    board = EventAccumulator(f"logs/t/version_0/trial_{best.number}").Reload()
    plugin = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(plugin).hparams
    assert hparams["hidden_sizes"].string_value == best.params["hidden_sizes"]
    assert len(board.Scalars("cost/val")) == 8
    assert board.Scalars("best cost/val")[0].value == pytest.approx(best.value)
    assert f"│ {best.number} " in said
    assert "18 rows that no trial has seen" in said


def test_few_trials_try_several_shapes():
    assert main([*BASE, "--trials", "6", "--trainer.max_epochs", "1", "--space.hidden_sizes", "[[2], [3], [4]]"]) == 0
    shapes = [tuple(trial.params[name] for name in ("hidden_sizes", "activation", "batch_size")) for trial in study().trials]
    assert len(shapes) == 6
    assert len({*shapes}) >= 4


def test_few_candidates_have_several_shapes():
    X, y = load_iris(return_X_y=True)
    search = BPSearchCV(BPClassifier(max_iter=1, tol=0), n_trials=6, cv=2, refit=False, random_state=0).fit(X, y)
    shapes = {(*map(str, params.values()),)[:3] for params in search.cv_results_["params"]}
    assert [*search.cv_results_["params"][0]][3] == "learning_rate_init"
    assert len(shapes) >= 4


def test_the_best_is_trained_again_and_its_checkpoint_is_as_any_other():
    assert main([*BASE, "--trials", "4", "--model.hidden_sizes", "[5]", "--space.batch_size", "[16]"]) == 0
    path = newest_checkpoint(None, "best")
    assert main(["predict", "--ckpt_path", path, "--data.path", "t.csv", "--output", "p.csv"]) == 0
    assert main(["export", "--ckpt_path", path, "--output", "m.pt2"]) == 0
    model = BPClassifier.from_checkpoint(path)
    table = pl.read_csv("t.csv")
    X = table.select("city", "p", "q")
    X = pl.DataFrame({name: (X["city"] == name[-1]) if "=" in name else X[name] for name in model.feature_names_in_})
    rows = pl.read_csv("p.csv")
    np.testing.assert_allclose(model.predict_proba(X.cast(pl.Float32)), rows.select("^p_.$").to_numpy(), atol=1e-5)
    # Its scaling is that of the training and validation rows: 72 of 90.
    data = TabularDataModule("t.csv", "kind")
    seen = torch.cat([data.rows.all()[0][data.split_numbers(part)] for part in ("train", "val")])
    torch.testing.assert_close(load_checkpoint(path)["state_dict"]["input_scaling.mean"], seen.mean(0))
    # The study continues, and keeps its trials.
    options = ["--model.hidden_sizes", "[5]", "--space.batch_size", "[16]", "--output", "o.ckpt"]
    assert main([*BASE, "--trials", "1", "--space.lr_factor", "[1e-6, 1e-6]", *options]) == 0
    assert len(study().trials) == 5
    assert load_checkpoint("o.ckpt")["hyper_parameters"]["lr"] > 1e-3


def test_trials_that_are_behind_are_pruned_and_reported(capfd):
    options = ["--trials", "12", "--side_by_side", "6", "--model.hidden_sizes", "[5]", "--space.batch_size", "[16]"]
    assert (
        main([*BASE, *options, "--trainer.max_epochs", "40", "--space.activation", "[relu]", "--space.lr_factor", "[1e-4, 2]"])
        == 0
    )
    states = [trial.state.name for trial in study().trials]
    pruned = states.count("PRUNED")
    assert pruned > 0
    assert f"the best of 12 trials; {pruned} were pruned, 0 diverged" in capfd.readouterr().out
    number = states.index("PRUNED")
    assert len(EventAccumulator(f"logs/t/version_0/trial_{number}").Reload().Scalars("cost/val")) < 40


def test_a_trial_without_a_learning_rate_does_not_end_the_search(capfd):
    network = ["--model.hidden_sizes", "[4]", "--model.activation", "tanh", "--data.batch_size", "16"]
    alone = ["--space.init_scale", "[1e9, 1e9]", "--side_by_side", "1", "--trials", "3"]
    assert main([*BASE, *alone, *network]) == 1
    said = "all 3 trials diverged; every cost is flat or not finite at the start; set --model.lr, or a smaller"
    assert said in capfd.readouterr().err
    assert main([*BASE, *network, "--trials", "2", "--model.lr", "1e38", "--study", "far"]) == 1
    assert "all 2 trials diverged; set a lower --model.lr\n" in capfd.readouterr().err
    assert [trial.state.name for trial in study().trials] == ["FAIL"] * 3


def test_a_trial_that_diverges_ends_none_of_the_others(capfd):
    table = pl.read_csv("t.csv").with_columns(level=3 * pl.col("p") + pl.col("q"))
    table.write_csv("t.csv")
    network = ["--model.hidden_sizes", "[]", "--model.activation", "tanh", "--data.batch_size", "16"]
    options = [
        "--data.target",
        "level",
        "--data.ignore",
        "[kind]",
        "--space.lr_factor",
        "[0.1, 1e6]",
        "--trainer.max_epochs",
        "30",
    ]
    assert main([*BASE, *options, *network, "--trials", "8"]) == 0
    states = [trial.state.name for trial in study().trials]
    assert 0 < states.count("FAIL") < 8
    assert f"{states.count('FAIL')} diverged" in capfd.readouterr().out
    pinned = ["--space.lr_factor", "[1e6, 1e6]", "--study", "far", "--trials", "2"]
    assert main([*BASE, *options, *network, *pinned]) == 1
    assert "all 2 trials diverged; set a lower --space.lr_factor" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.val_size", "0"], "no row is held out for validation"),
        (["--space.lr_factor", "[2, 1]"], "space.lr_factor is [2.0, 1.0]; it must be [A, B], from A above 0"),
        (["--space.lr_factor", "[]"], "space.lr_factor is []; it must be [A, B], from A above 0 to B of A or more"),
        (["--space.init_scale", "[.nan, 1]"], "space.init_scale is [nan, 1.0]; it must be [A, B]"),
        (["--space.init_scale", "[1, .inf]"], "space.init_scale is [1.0, inf]; it must be [A, B]"),
        (["--space.init_scale", "1"], "space.init_scale is 1; it must be a list, such as [A, B]"),
        (["--space.hidden_sizes+=[[7]]"], "space.hidden_sizes+ is not possible; give all choices, such as"),
        (["--space.hidden_sizes", "[]"], "space.hidden_sizes is empty; it must have a choice"),
        (["--space.hidden_sizes", "[[1.5]]"], "space.hidden_sizes is 1.5; it must be int"),
        (
            ["--space.hidden_sizes", "[[8], [100000000000]]"],
            "space.hidden_sizes has [100000000000], so that layer_sizes is [4, 100000000000, 3]; its 8e+11 parameters do",
        ),
        (["--space.batch_size", "[16, 16]"], "space.batch_size has 16 twice"),
        (["--trainer.max_epochs", "0"], "max_epochs is 0; it must be 1 or more"),
        (["--trainer.max_epochs", "null"], "max_epochs is None; it must be 1 or more"),
        (["--space.batch_size", "[]"], "space.batch_size is empty; it must have a choice"),
        (["--space.batch_size", "[16, 0]"], "space.batch_size has 0; it must be 1 or more"),
        (["--output", "best.onnx"], "output is best.onnx; it must be a .ckpt file in a folder that exists"),
        (["--storage", "nosql://x"], "storage is nosql://x; Optuna cannot open it"),
        (["--storage", "nosql://u:secret@h/db?password=secret"], "storage is nosql://u:***@h/db; Optuna cannot open it"),
        (["--storage", "nosql://u:sec@ret@h/db"], "storage is nosql://***; Optuna cannot open it"),
        (["--storge", "postgresql://u:secret@h/db"], "unrecognized arguments: --storge postgresql://u:***@h/db; torchbp"),
        (["--trials=mysql://u:secret@se@h/db?sslpass=secret&a=b"], "mysql://u:***@h/db?sslpass=***&a=b"),
        (["--storage", "study.db"], "for a file, say --storage sqlite:///study.db"),
        (["--model.threshold", "f1"], "threshold is f1"),
        (["--trials", "0"], "trials is 0; it must be a whole number above 0"),
        (["--seed_everything", "-1"], "seed_everything is -1; it must be a whole number of 0 or more"),
        (["--space.activation", "[sigmod]"], "activation is 'sigmod'; it must be one of"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options, message, capfd):
    assert main([*BASE, *options]) != 0
    [line] = capfd.readouterr().err.splitlines()
    assert message in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/db?user=u&PASSWORD=secret",
        "postgresql://h/db?user=u;password=secret",
        "mysql://u@x:secret@h/db",
        "mysql://u:'secret\"@h/db",
        "mysql://u:/secret@secret@h/db",
        "mongodb://h/db?token=secret&a=b",
    ],
)
def test_a_password_anywhere_in_a_url_is_hidden(url):
    assert "secret" not in (shown := without_passwords(f"storage is {url}; it"))
    assert shown.startswith(f"storage is {url.split('secret')[0].split(':', 2)[0]}://")
    assert shown.endswith("; it")


def test_a_printed_configuration_has_no_password(capfd):
    assert main([*BASE, "--storage", "postgresql://u:secret@h/db", "--study", "a:b@c", "--print_config"]) == 0
    printed = yaml.safe_load(capfd.readouterr().out)
    assert (printed["storage"], printed["study"]) == ("postgresql://u:***@h/db", "a:b@c")


def test_a_study_of_other_data_or_other_choices_is_not_gone_on_with(capfd):
    one = ["--trials", "1", "--model.hidden_sizes", "[3]", "--trainer.max_epochs", "2"]
    assert main([*BASE, *one]) == 0
    assert main([*BASE, *one]) == 0
    others = (
        (["--data.target", "city"], "has other validation rows or another cost"),
        (["--data.seed", "5"], "has other validation rows or another cost"),
        (["--model.output", "sigmoid"], "has other validation rows or another cost"),
        (
            ["--space.batch_size", "[8]"],
            "chooses batch_size from [16, 32, 64, 128]; set --space.batch_size to these, or another",
        ),
    )
    capfd.readouterr()
    for options, message in others:
        assert main([*BASE, *one, *options]) == 1
        [line] = capfd.readouterr().err.splitlines()
        assert f"the study 'torchbp' in {STORAGE} {message}" in line
    assert len(study().trials) == 2
    assert main([*BASE, *one, "--data.target", "city", "--study", "city"]) == 0


def test_a_search_that_goes_on_shows_the_best_trial_of_the_whole_study(capfd):
    base = [*BASE, "--model.hidden_sizes", "[3]", "--model.activation", "tanh", "--data.batch_size", "16", "--trials", "1"]
    assert main([*base, "--space.lr_factor", "[1, 1.01]"]) == 0
    capfd.readouterr()
    assert main([*base, "--space.lr_factor", "[1e-4, 1.01e-4]"]) == 0
    said = capfd.readouterr().out
    first, second = study().trials
    assert first.value < second.value
    assert "trial 0, the study's best, of another search; the best of 1 trials" in said
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    rows = [row for row in rows if row and row[0] in ("0", "1") and "tanh" in row]
    assert [row[0] for row in rows] == ["0", "1"]
    assert rows[0][3] == rows[0][7] == "–"  # its epochs and learning rate are not in the study


def test_candidates_side_by_side_are_those_of_cross_val_score():
    X, y = load_iris(return_X_y=True)
    base = BPClassifier(max_iter=4, tol=0, random_state=0)
    space = {"hidden_layer_sizes": [(3,), (4, 3)], "learning_rate_init": (0.001, 1.0)}
    cv = KFold(3, shuffle=True, random_state=1)
    search = BPSearchCV(base, space, n_trials=5, side_by_side=3, cv=cv, scoring="neg_log_loss", random_state=0).fit(X, y)
    results = search.cv_results_
    for number, params in enumerate(results["params"]):
        alone = cross_val_score(base.set_params(**params), X, y, cv=cv, scoring="neg_log_loss")
        side_by_side = [results[f"split{split}_test_score"][number] for split in range(3)]
        np.testing.assert_allclose(side_by_side, alone, rtol=1e-5)
    best = int(np.argmax(results["mean_test_score"]))
    assert (search.best_index_, search.best_params_) == (best, results["params"][best])
    assert results["rank_test_score"][best] == 1
    assert sorted(results["rank_test_score"]) == [1, 2, 3, 4, 5]
    assert search.study_.best_value == search.best_score_ == results["mean_test_score"][best]
    whole = BPClassifier(max_iter=4, tol=0, random_state=0, **search.best_params_).fit(X, y)
    np.testing.assert_array_equal(search.predict_proba(X), whole.predict_proba(X))
    assert search.score(X, y) < 0
    np.testing.assert_array_equal(search.predict_log_proba(X), np.log(whole.predict_proba(X)))
    assert search.classes_.tolist() == [0, 1, 2]
    assert search.refit_time_ > 0
    search.set_params(n_trials=1).fit(pl.DataFrame(X, schema=list("abcd")), y)
    assert search.feature_names_in_.tolist() == list("abcd")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("scoring", [None, "neg_mean_absolute_error"])
def test_scores_of_training_rows_and_of_what_diverged_are_those_of_gridsearchcv(scoring):
    X, y = load_diabetes(return_X_y=True)
    space = {"learning_rate_init": optuna.distributions.CategoricalDistribution([0.01, 0.02, 1e6]), "hidden_layer_sizes": [()]}
    base = BPRegressor(max_iter=20, tol=0, random_state=0)
    options = {"cv": 3, "scoring": scoring, "refit": False, "return_train_score": True, "error_score": -1e3}
    search = BPSearchCV(base, space, n_trials=6, random_state=0, **options).fit(X, y)
    grid = [{name: [value] for name, value in params.items()} for params in search.cv_results_["params"]]
    peer = GridSearchCV(base, grid, **options).fit(X, y)
    assert -1e3 in search.cv_results_["mean_train_score"]
    for name in [name for name in peer.cv_results_ if name.endswith("_score")]:
        np.testing.assert_allclose(search.cv_results_[name], peer.cv_results_[name], rtol=1e-5)
    space["learning_rate_init"] = optuna.distributions.CategoricalDistribution([1e6, 1e7])
    with pytest.raises(ValueError, match="every one of 2 candidates diverged"):  # as GridSearchCV: all the fits failed
        search.set_params(n_trials=2, param_distributions=space).fit(X, y)
    with pytest.raises(FloatingPointError, match=r"the cost is .*; give a smaller learning_rate_init than 1e"):
        search.set_params(error_score="raise").fit(X, y)
    with pytest.raises(ValueError, match="error_score is None; it must be 'raise' or a number"):
        search.set_params(error_score=None).fit(X, y)


def test_a_candidate_that_diverges_has_the_last_rank():
    X, y = load_diabetes(return_X_y=True)
    space = {"learning_rate_init": optuna.distributions.CategoricalDistribution([0.01, 1e6]), "hidden_layer_sizes": [()]}
    base = BPRegressor(max_iter=60, tol=0, random_state=0)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        search = BPSearchCV(base, space, n_trials=6, cv=3, random_state=0).fit(X, y)
    assert search.best_params_["learning_rate_init"] == 0.01
    assert (
        np.isnan(search.cv_results_["mean_test_score"]).sum() == (search.cv_results_["param_learning_rate_init"] == 1e6).sum()
    )
    assert search.score(X, y) > 0.3
    assert not hasattr(search, "predict_proba")
    with pytest.raises(ValueError, match="learning_rate_init is 3; it must be a list of choices"):
        BPSearchCV(base, {"learning_rate_init": 3}).fit(X, y)
    with pytest.raises(ValueError, match="n_trials is 'many'; it must be a whole number of 1 or more"):
        BPSearchCV(base, n_trials="many").fit(X, y)
