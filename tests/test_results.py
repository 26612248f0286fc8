"""The printed results before and after a run, and of ``torchbp test``, compared with scikit-learn's on the same rows."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.inspection import permutation_importance
from sklearn.metrics import classification_report, confusion_matrix, f1_score, mean_absolute_error, r2_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchbp.cli import main
from torchbp.data.rows import Rows
from torchbp.training import BPModule
from torchbp.training._grids import class_scores, confusion_grid, confusion_of
from torchbp.training._importance import importances
from torchbp.training._metrics import metrics_of
from torchbp.training._threshold import best_threshold
from torchbp.training._verdict import History, is_no_better, verdict

CHECKPOINT = "logs/{}/version_0/checkpoints/best.ckpt"


@pytest.fixture
def rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """A table with 6 % positive rows, in the working folder."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    x, kind = generator.normal(size=600), generator.choice(["a", "b", "c"], 600)
    z = 1.5 * x + (kind == "c") - 3.2 + generator.normal(size=600)
    table = pl.DataFrame({"x": x, "noise": generator.normal(size=600), "kind": kind, "y": np.where(z > 0, "fraud", "legit")})
    table.write_csv("rare.csv")
    return table


def fit(*options: str) -> None:
    assert main(["fit", "--data.path", "rare.csv", "--data.target", "y", "--trainer.max_epochs", "6", *options]) == 0


def cells(text: str, name: str) -> list[str]:
    """The cells of the first row with this name in a printed table."""
    row = next(line for line in text.splitlines() if re.match(rf"│ {re.escape(name)} +│", line))
    return [cell.strip() for cell in row.strip("│").split("│")[1:]]


def test_fit_says_rows_baseline_scores_and_verdict(rare: pl.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    fit()
    out = capfd.readouterr().out
    before, after = out.split("epoch 1/6")
    assert "fraud (positive)" in before
    assert cells(before, "train") == ["360", *(str(int(360 * (rare["y"] == name).mean() + 0.5)) for name in ("legit", "fraud"))]
    assert f"baseline: always legit, accuracy {(rare['y'] == 'legit').mean():.2f}" in before
    assert cells(after, "rows")[:3] == ["360", "120", "120"]
    assert re.search(r"│ accuracy +│ 0\.9\d\d │ 0\.9\d\d │ 0\.9\d\d │ +0\.9\d\d │", after)
    assert any(word in after for word in ("fine:", "falling", "overfitting", "lowest in epoch", "no better"))
    assert not re.search(r"\d\.\d{5}", after)  # three significant digits
    board = EventAccumulator("logs/rare/version_0")
    board.Reload()
    assert board.Tags()["images"] == ["confusion_matrix/test"]
    assert "report/test/text_summary" in board.Tags()["tensors"]


def test_json_holds_scikit_learns_figures(rare: pl.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    fit("--model.threshold", "f1")
    path = CHECKPOINT.format("rare")
    threshold = torch.load(path, weights_only=True)["hyper_parameters"]["threshold"]
    assert isinstance(threshold, float)
    assert threshold != 0.5
    assert f"; fraud is predicted above a probability of {threshold:g}" in capfd.readouterr().out
    assert main(["test", "--ckpt_path", path, "--report", "r.json"]) == 0
    assert f"class fraud is predicted above a probability of {threshold:g}, the checkpoint's" in capfd.readouterr().err
    report = json.loads(Path("r.json").read_text())
    assert main(["predict", "--ckpt_path", path, "--data.path", "rare.csv", "--output", "p.csv"]) == 0
    predicted = pl.read_csv("p.csv")
    assert ((predicted["p_fraud"] > threshold) == (predicted["class"] == "fraud")).all()
    from torchbp.data import TabularDataModule

    test = np.flatnonzero(TabularDataModule("rare.csv", "y").part_of().numpy() == 2)
    true, taken = rare["y"].to_numpy()[test], predicted["class"].to_numpy()[test]
    assert report["confusion_matrix"] == confusion_matrix(true, taken, labels=["legit", "fraud"]).tolist()
    expected = classification_report(true, taken, output_dict=True, zero_division=0)
    for one in report["classes"]:
        assert one["precision"] == pytest.approx(expected[one["name"]]["precision"])
        assert one["recall"] == pytest.approx(expected[one["name"]]["recall"])
        assert one["f1"] == pytest.approx(expected[one["name"]]["f1-score"])
    assert report["metrics"]["accuracy"] == pytest.approx(expected["accuracy"])
    # Columns of the table, not their features; the most important first.
    assert next(one["column"] for one in report["importance"]) == "x"
    assert {one["column"] for one in report["importance"]} == {"x", "noise", "kind"}
    assert sum(one["rows"] for one in report["calibration"]) == report["rows"] == 120


def test_validate_shows_the_validation_rows_as_fit_did(rare: pl.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    fit("--model.threshold", "miss:3")
    by_fit = capfd.readouterr().out.split("epoch 1/6")[1]
    assert main(["validate", "--ckpt_path", CHECKPOINT.format("rare")]) == 0
    alone = capfd.readouterr().out
    assert "120 validation rows" in alone
    assert cells(alone, "fraud (positive)")[-1] == str(int(120 * (rare["y"] == "fraud").mean() + 0.5))
    for name in ("rows", "cost", "accuracy", "f1", "auroc"):
        assert cells(alone, name)[0] == cells(by_fit, name)[1]


def test_a_threshold_on_the_command_line_overrides_the_checkpoints(
    rare: pl.DataFrame, capfd: pytest.CaptureFixture[str]
) -> None:
    fit("--model.threshold", "0.3")
    path = CHECKPOINT.format("rare")
    predict = ["predict", "--ckpt_path", path, "--data.path", "rare.csv", "--output", "p.csv"]
    for options, threshold in (([], 0.3), (["--model.threshold", "0.01"], 0.01)):
        assert main([*predict, *options]) == 0
        predicted = pl.read_csv("p.csv")
        assert ((predicted["p_fraud"] > threshold) == (predicted["class"] == "fraud")).all()
    capfd.readouterr()
    assert main([*predict, "--model.threshold", "f1"]) == 1
    assert "threshold is f1; a rule is for fit only, for predict it must be a number" in capfd.readouterr().err
    assert main(["fit", "--data.path", "rare.csv", "--data.target", "y", "--model.threshold", "1.5"]) == 1
    assert "threshold is 1.5; it must be a number from 0 to 1; f1" in capfd.readouterr().err


@pytest.mark.parametrize("rule", ["f1", "miss:5"])
def test_the_chosen_threshold_is_the_best_of_all(rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = (torch.rand(200, generator=generator) * 20).round() / 20  # with ties
    y = (torch.rand(200, generator=generator) < p / 2).float()

    def worth(threshold: float) -> float:
        taken = p > threshold
        if rule == "f1":
            return float(f1_score(y.numpy(), taken.numpy(), zero_division=0))
        return -(5 * (y.bool() & ~taken).sum() + (~y.bool() & taken).sum()).item()

    chosen = best_threshold(p, y, rule)
    assert worth(chosen) == pytest.approx(max(map(worth, np.linspace(-0.01, 1, 500))))
    assert worth(chosen) > worth(0.5)


def test_importance_is_scikit_learns() -> None:
    module = BPModule(3, 1, [8], task="regression")
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = module(x) + 0.1 * torch.randn(300, 1, generator=torch.Generator().manual_seed(1))
    found = {one.column: one for one in importances(module, Rows(x, y))}

    class Estimator(BaseEstimator):
        def fit(self) -> None: ...
        def predict(self, values: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return module(torch.from_numpy(values)).numpy()

    expected = permutation_importance(Estimator(), x.numpy(), y.numpy(), scoring="r2", n_repeats=30, random_state=0)
    for number in range(3):
        error = 3 * (expected.importances_std[number] / 30**0.5 + found[f"x{number}"].score_deviation / 10**0.5)
        assert found[f"x{number}"].score == pytest.approx(expected.importances_mean[number], abs=error)
    assert len({round(one.score, 2) for one in found.values()}) == 3  # the columns differ by more than the tolerance


def test_each_target_has_its_own_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    a = generator.normal(size=200)
    pl.DataFrame(
        {"a": a, "price": 1e5 + 2e4 * (a + generator.normal(size=200)), "weight": generator.normal(size=200)}
    ).write_csv("two.csv")
    options = ["--data.path", "two.csv", "--data.target", "[price, weight]", "--trainer.max_epochs", "4"]
    assert main(["fit", *options]) == 0
    path = CHECKPOINT.format("two")
    assert main(["test", "--ckpt_path", path, "--report", "r.json"]) == 0
    assert main(["predict", "--ckpt_path", path, "--data.path", "two.csv", "--output", "p.csv"]) == 0
    from torchbp.data import TabularDataModule

    test = np.flatnonzero(TabularDataModule("two.csv", ["price", "weight"]).part_of().numpy() == 2)
    table, predicted = pl.read_csv("two.csv")[test], pl.read_csv("p.csv")[test]
    for one in json.loads(Path("r.json").read_text())["targets"]:
        true, found = table[one["name"]], predicted[f"prediction_{one['name']}"]
        assert one["mae"] == pytest.approx(mean_absolute_error(true, found), rel=1e-4)
        assert one["r2"] == pytest.approx(r2_score(true, found), abs=1e-4)
        assert one["mean"] == pytest.approx(true.mean(), rel=1e-4, abs=1e-4)


def test_reports_are_complete_and_run_no_code(rare: pl.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script>"
    rare.rename({"noise": evil}).with_columns(pl.col("y").replace("fraud", evil)).write_csv("rare.csv")
    fit()
    path = CHECKPOINT.format("rare")
    for name in ("r.html", "r.md"):
        assert main(["test", "--ckpt_path", path, "--report", name]) == 0
    page = Path("r.html").read_text()
    assert evil not in page
    assert "&lt;script&gt;" in page
    assert len(re.findall('src="data:image/png;base64,iVBOR', page)) == page.count("<img") == 5
    assert "http" not in page
    text = Path("r.md").read_text()
    heading = r"# binary: 120 test rows, \<script\>alert(1)\</script\> above a probability of 0.5"
    assert text.splitlines()[0] == heading
    assert evil not in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 5
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    capfd.readouterr()
    for name, message in (("r.pdf", "must be one of .html, .md, .json"), ("no/r.md", "the report's folder no does not exist")):
        assert main(["test", "--ckpt_path", path, "--report", name]) == 1
        assert message in capfd.readouterr().err


def test_without_matplotlib_one_line_says_what_to_install(
    rare: pl.DataFrame, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit()
    monkeypatch.setattr("torchbp.training._report.find_spec", lambda name: None)
    capfd.readouterr()
    assert main(["test", "--ckpt_path", CHECKPOINT.format("rare"), "--report", "r.html"]) == 1
    error = capfd.readouterr().err
    assert "pip install 'torchbp[report]'" in error
    assert error.count("error") == 1


def test_the_f1_of_each_class_has_the_mean_that_is_shown() -> None:
    true, taken = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 2, 1, 0])  # no row is of class 2 or 3, none is taken for 3
    found = [one.f1 for one in class_scores(confusion_of(torch.eye(4)[taken], torch.eye(4)[true], 0.5), "abcd")]
    expected = f1_score(true, taken, average=None)
    assert found == [*(pytest.approx(value) for value in expected), None]
    metrics = metrics_of("multiclass", 4, "test")
    metrics.update(torch.eye(4)[taken], true)
    assert metrics.compute()["f1/test"].item() == pytest.approx(np.mean(expected))


def test_of_many_classes_the_most_confused_pairs_are_shown() -> None:
    true = torch.arange(30).repeat(4)
    taken = true.clone()
    taken[:2] = 7  # one row of each of the classes 0 and 1
    taken[30] = 7  # one more of class 0
    confusion = confusion_of(torch.eye(30)[taken], torch.eye(30)[true], 0.5)
    assert confusion.tolist() == confusion_matrix(true, taken).tolist()
    assert confusion_grid(confusion, [f"c{number}" for number in range(30)]).rows == [["c0", "c7", "2"], ["c1", "c7", "1"]]


FALLING = [2.0 * 0.9**epoch for epoch in range(20)]


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (FALLING, FALLING, "the validation cost was still falling at the end"),
        (FALLING, [], "the training cost was still falling at the end"),
        (FALLING, FALLING[:8] + [FALLING[7] + 0.05 * epoch for epoch in range(12)], "overfitting since epoch 8"),
        (FALLING, [*FALLING[:18], 0.4, 0.36], "a smaller lr may help"),  # too soon to tell
        ([0.35] + [0.245, 0.244] * 5, [0.169] + [0.18] * 10, "a smaller lr may help"),  # the training cost has settled
        (FALLING[:5] + [FALLING[4]] * 15, FALLING[:5] + [FALLING[4]] * 15, "fine: the validation cost has settled"),
        (FALLING[:5] + [3.0] * 15, FALLING[:5] + [3.0] * 15, "a smaller lr may help"),
        ([cost - 3 for cost in FALLING], [cost - 3 for cost in FALLING], "the validation cost was still falling at the end"),
        ([-2.0] * 20, [-2.0] * 20, "fine: the validation cost has settled"),
        ([1.0, 0.5], [1.0, 0.5], "2 epochs are too few"),
    ],
)
def test_verdict(train: list[float], val: list[float], said: str) -> None:
    assert said in verdict(History(1, train, val))
    assert verdict(History(1, train, val), "always a").startswith("no better than the baseline (always a)")


def test_no_better_than_the_baseline() -> None:
    assert is_no_better({"accuracy": 0.97, "auroc": 0.52}, {"accuracy": 0.97}, 600, 0.03)
    assert not is_no_better({"accuracy": 0.97, "auroc": 0.9}, {"accuracy": 0.97}, 600, 0.03)
    assert not is_no_better({"accuracy": 0.98, "auroc": 0.5}, {"accuracy": 0.97}, 600, 0.03)
    assert is_no_better({"r2": -0.1}, {"r2": 0.0}, 100, 0.0)
    assert not is_no_better({"r2": 0.3}, {"r2": 0.0}, 100, 0.0)
