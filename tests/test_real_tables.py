"""Real tables, with categories, gaps and a string target, learned from path and target alone.

Compared with scikit-learn's MLPClassifier in the usual pipeline, on the same split, with the same layers, epochs and batches,
and with its best learning rate of 0.01, 0.03, 0.1, 0.3 and 1.
"""

import importlib.util
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from torchbp.cli import main
from torchbp.data import TabularDataModule


def packaged(name: str) -> bytes:
    """A CSV file that ships in scikit-lego; importing that package would import pandas."""
    spec = importlib.util.find_spec("sklego")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    with zipfile.ZipFile(Path(spec.submodule_search_locations[0]) / f"data/{name}.zip") as archive:
        return archive.read(archive.namelist()[0])


def usual_pipeline(numeric: list[int], text: list[int], lr: float, seed: int) -> Pipeline:
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    network = MLPClassifier(
        (16,),
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=32,
        learning_rate="constant",
        learning_rate_init=lr,
        max_iter=100,
        momentum=0,
        n_iter_no_change=101,
        random_state=seed,
        tol=0,
    )
    columns = make_column_transformer(
        (SimpleImputer(strategy="median"), numeric),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot), text),
    )
    return make_pipeline(columns, StandardScaler(), network)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize(
    ("name", "target", "lr", "seeds"),
    [("penguins", "species", 0.1, 3), ("heroes", "role", 1.0, 3), ("arrests", "released", 1.0, 1)],
)
def test_accuracy_is_scikit_learns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    target: str,
    lr: float,
    seeds: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    content = packaged(name)
    Path("table.csv").write_bytes(content)
    frame = pl.read_csv(io.BytesIO(content), null_values="NA")
    y, features = frame[target].to_numpy(), frame.drop(target)
    numeric = [number for number, column in enumerate(features) if column.dtype.is_numeric()]
    text = [number for number in range(features.width) if number not in numeric]
    x = np.column_stack([column.to_numpy().astype(object) for column in features])
    x[np.array([column.is_null() for column in features]).T] = np.nan
    ours, theirs, tested = [], [], 0
    for seed in range(seeds):
        seeded = ["--seed_everything", str(seed), "--data.seed", str(seed)]
        # Without TensorBoard's files, which would take most of the time.
        assert main(["fit", "--data.path", "table.csv", "--data.target", target, "--trainer.logger", "false", *seeded]) == 0
        capsys.readouterr()
        assert main(["test", "--ckpt_path", f"checkpoints/version_{seed}/last.ckpt", "--data.path", "table.csv"]) == 0
        found = re.search(r"│ accuracy\s*│\s*([\d.]+)", capsys.readouterr().out)
        assert found
        ours.append(float(found[1]))
        part = TabularDataModule("table.csv", target, seed=seed).part_of().numpy()
        peer = usual_pipeline(numeric, text, lr, seed).fit(x[part == 0], y[part == 0])
        theirs.append(peer.score(x[part == 2], y[part == 2]))
        tested += int((part == 2).sum())
    # In a small table, two rows are more than 0.01.
    assert np.mean(ours) >= np.mean(theirs) - max(0.01, 2 / tested) - 1e-6, (ours, theirs)
