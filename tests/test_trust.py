"""Whether a run's scores and checkpoints can be trusted."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score, roc_auc_score

from torchbp.cli import main
from torchbp.data import TabularDataModule
from torchbp.training._metrics import metrics_of

LAST = "logs/t/version_0/checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: int = 60, seed: int = 0) -> None:
    """Two features, their sum in another unit, a quantity a thousand times as large, and three classes."""
    x = np.random.default_rng(seed).normal(size=(rows, 2))
    total = x.sum(1)
    kind = np.select([total < -0.7, total < 0.7], ["low", "middle"], "high")
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "total": total, "large": 1000 * total, "kind": kind}).write_csv(name)


def fit(*options: str, target: str = "total", path: str = "t.csv") -> int:
    others = [name for name in ("total", "large", "kind") if name not in target]
    return main(
        [
            "fit",
            "--data.path",
            path,
            "--data.target",
            target,
            "--data.ignore",
            str(others),
            "--trainer.max_epochs",
            "3",
            *options,
        ]
    )


def test_a_run_that_diverged_is_not_silently_best_or_last(capsys: pytest.CaptureFixture[str]) -> None:
    write("t.csv")
    diverges = ["--model.lr", "30", "--trainer.max_epochs", "50", "--model.activation", "identity"]
    assert fit(*diverges) == 1
    failed = Path("logs/t/version_0/failed.txt")
    assert re.match("FloatingPointError: .* (no longer finite|became)", failed.read_text())
    capsys.readouterr()
    # If it is the only run, it is used, with a warning that it failed.
    checkpoint = next(Path("logs/t/version_0/checkpoints").iterdir()).stem
    assert main(["test", "--ckpt_path", checkpoint]) == 0
    assert "is from a run that failed: FloatingPointError" in capsys.readouterr().err
    assert fit() == 0
    assert not Path("logs/t/version_1/failed.txt").exists()
    assert fit(*diverges) == 1
    for kind in ("best", "last"):
        capsys.readouterr()
        assert main(["test", "--ckpt_path", kind]) == 0
        error = capsys.readouterr().err
        assert "logs/t/version_2 is skipped; it failed: FloatingPointError" in error
        assert f"logs/t/version_1/checkpoints/{kind}.ckpt" in error


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_a_validation_cost_that_is_not_finite_ends_the_run(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The last step of the fourth epoch makes the weights so large that only the validation cost overflows."""
    write("t.csv")
    growing = ["--model.lr_scheduler", "MultiStepLR", "--model.lr_scheduler.milestones", "[7]"]
    growing += ["--model.lr_scheduler.gamma", "1e28", "--model.lr_scheduler_interval", "step"]
    options = ["--model.lr", "0.01", "--data.batch_size", "18", "--trainer.max_epochs", "9", "--patience", "20"]
    options += ["--every_epoch", "true"]  # on a slow machine, last would be written within an epoch too
    assert fit(*options, *growing, "--model.activation", "identity", "--model.engine", engine) == 1
    error = capsys.readouterr().err
    assert re.search("torchbp: error: the validation cost became (inf|nan) at step 8, .* is kept", error)
    assert Path("logs/t/version_0/failed.txt").read_text().startswith("FloatingPointError: the validation cost")
    assert torch.load(LAST, weights_only=True)["global_step"] == 6


def test_a_run_that_failed_before_its_first_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("t.csv")
    assert fit("--model.lr", "1e30") == 1
    assert fit() == 0
    capsys.readouterr()
    assert main(["test", "--ckpt_path", "best"]) == 0
    assert "it failed" not in capsys.readouterr().err  # it is older
    assert fit("--model.lr", "1e30") == 1
    capsys.readouterr()
    for kind in ("best", "last"):
        assert main(["test", "--ckpt_path", kind]) == 0
        error = capsys.readouterr().err
        assert "logs/t/version_2 has no checkpoint; it failed: FloatingPointError" in error
        assert f"logs/t/version_1/checkpoints/{kind}.ckpt" in error


def test_a_run_that_goes_on_and_ends_well_is_no_longer_marked() -> None:
    write("t.csv")
    assert fit() == 0
    mark = Path("logs/t/version_0/failed.txt")
    mark.write_text("OSError: No space left on device\n")
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "4"]) == 0
    assert not mark.exists()


def test_scores_that_the_rows_do_not_define_are_left_out() -> None:
    draw = torch.Generator().manual_seed(0)
    p, y = torch.rand(40, 3, generator=draw).softmax(1), torch.randint(0, 2, (40,), generator=draw)
    scores = metrics_of("multiclass", 3, "test")
    scores.update(p, y)
    values = scores.compute()
    for name, score in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        expected = np.mean([score(y == label, p[:, label]) for label in (0, 1)])
        assert values[f"{name}/test"].item() == pytest.approx(expected, abs=1e-6)
    assert scores.why_undefined(["p", "q", "r"]).endswith("of the other classes; no row, or every row, is of 'r'")
    for label in (0, 1):
        scores = metrics_of("binary", 1, "test")
        scores.update(p[:, 0], torch.full((40,), label))
        assert {*scores.compute()} == {"accuracy/test", "f1/test"}
        assert scores.why_undefined(["no", "yes"]) == "auroc/test and average_precision/test: n/a; all rows are of one class"
    scores = metrics_of("binary", 1, "test")
    scores.update(torch.zeros(40), torch.zeros(40).long())  # no row is positive, and none is predicted to be
    assert {*scores.compute()} == {"accuracy/test"}
    assert scores.why_undefined(["no", "yes"]).startswith("f1/test: n/a")
    scores = metrics_of("multilabel", 2, "test")
    scores.update(torch.stack([p[:, 0], torch.zeros(40)], 1), torch.stack([y, torch.zeros(40).long()], 1))
    assert scores.compute()["f1/test"].item() == pytest.approx(f1_score(y.numpy(), p[:, 0].numpy() > 0.5), abs=1e-6)
    scores = metrics_of("multilabel", 2, "test")
    labels = torch.stack([y, torch.ones(40).long()], 1)
    scores.update(p[:, :2], labels)
    assert scores.compute()["auroc/test"].item() == pytest.approx(roc_auc_score(y.numpy(), p[:, 0].numpy()), abs=1e-6)


def test_a_test_says_which_classes_its_rows_lack(capsys: pytest.CaptureFixture[str]) -> None:
    write("t.csv")
    assert fit(target="kind") == 0
    pl.read_csv("t.csv").filter(pl.col("kind") != "middle").write_csv("two.csv")
    capsys.readouterr()
    assert main(["test", "--ckpt_path", "best", "--data.path", "two.csv"]) == 0
    assert "of the other classes; no row, or every row, is of 'middle'" in capsys.readouterr().out


def test_targets_of_several_units_have_an_error_each(capsys: pytest.CaptureFixture[str]) -> None:
    write("t.csv")
    assert fit(target='["total", "large"]') == 0
    capsys.readouterr()
    write("new.csv", seed=1)
    assert main(["test", "--ckpt_path", "best", "--data.path", "new.csv"]) == 0
    said = dict(re.findall(r"│ (\w[\w ]*?)\s*│\s*([\d.]+)", capsys.readouterr().out))
    assert "mae" not in said
    assert main(["predict", "--ckpt_path", "best", "--data.path", "new.csv", "--output", "p.csv"]) == 0
    new, predicted = pl.read_csv("new.csv"), pl.read_csv("p.csv")
    for name in ("total", "large"):
        expected = mean_absolute_error(new[name], predicted[f"prediction_{name}"])
        assert float(said[f"mae {name}"]) == pytest.approx(expected, abs=6e-4, rel=5e-3)


@pytest.mark.parametrize(("mean", "scale"), [(0, 1), (300, 1), (1000, 1), (10_000, 1), (0, 1e-5)])
def test_r2_of_targets_in_any_unit_is_scikit_learns(mean: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    y = mean + scale * torch.randn(400, 2, generator=generator)
    prediction = y + 0.3 * scale * torch.randn(400, 2, generator=generator)
    metrics = metrics_of("regression", 2, "test")
    for rows in torch.arange(400).split(150):
        metrics.update(prediction[rows], y[rows])
    assert metrics.compute()["r2/test"].item() == pytest.approx(
        r2_score(y.double().numpy(), prediction.double().numpy()), abs=1e-6
    )


@pytest.mark.parametrize("rows", [4, 6])
def test_a_table_of_few_rows_is_trained_and_tested(rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    write("t.csv", rows)
    assert fit() == 0
    assert main(["test", "--ckpt_path", "best"]) == 0
    out = capsys.readouterr().out
    assert "│ mae " in out
    assert "r2/test: n/a" in out
    assert Path("logs/t/version_0/checkpoints/best.ckpt").is_file()


def test_rows_trained_on_are_counted_in_a_file_that_was_saved_anew(capsys: pytest.CaptureFixture[str]) -> None:
    write("t.csv", 100)
    assert fit() == 0
    train = pl.read_csv("t.csv")[
        (TabularDataModule("t.csv", "total", ignore=["large", "kind"]).part_of() == 0).nonzero()[:, 0].numpy()
    ]
    write("new.csv", 7, seed=1)
    saved = pl.concat([pl.read_csv("t.csv").sample(fraction=1, shuffle=True, seed=0), pl.read_csv("new.csv")])
    Path("saved.csv").write_text(saved.write_csv().replace("\n", "\r\n"))
    for path, seen, rows in (("saved.csv", len(train), 107), ("new.csv", 0, 7)):
        capsys.readouterr()
        assert main(["test", "--ckpt_path", "best", "--data.path", path]) == 0
        error = capsys.readouterr().err
        assert (f"{seen} of its {rows} rows to test are equal to rows trained on" in error) == bool(seen)
    assert main(["fit", "--ckpt_path", LAST, "--data.path", "saved.csv", "--trainer.max_epochs", "4"]) == 0
    again = TabularDataModule("saved.csv", "total", ignore=["large", "kind"])
    held = pl.read_csv("saved.csv")[(again.part_of() == 2).nonzero()[:, 0].numpy()]
    known = len(held.join(train, on=["a", "b", "total"], how="inner"))
    assert 0 < known < len(held)
    assert f"{known} of its {len(held)} rows to test are equal to rows trained on" in capsys.readouterr().err


def test_a_part_of_many_rows_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    write("t.csv", 4000)
    monkeypatch.setattr("torchbp.data._fingerprints.REMEMBERED", 400)
    data = TabularDataModule("t.csv", "total", ignore=["large", "kind"], val_size=0.2, test_size=0.2)
    state = data.state_dict() or (data.rows, data.state_dict())[1]
    again = TabularDataModule("t.csv", "total", ignore=["large", "kind"], val_size=0, test_size=0)
    again.load_state_dict(state)
    seen, looked_at = again.seen_in_training("test")
    assert seen == 400
    assert seen / looked_at == pytest.approx(0.6, abs=0.1)
