"""Files to refuse, and the check of a refusal: one line on standard error, and no file changed."""

import os
import pickle
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from training_runs import CONFIGS

from torchbp.cli import main

ROWS = "".join(f"{row * 0.7:.1f},{'rst'[row % 3]},{'no' if row % 2 else 'yes'}\n" for row in range(40))
GOOD = "age,city,bought\n" + ROWS
SPLIT = "age,part,bought\n" + "".join(f"{row},{['train', 'val', 'test'][row % 3]},{row % 4 // 2}\n" for row in range(40))
TEXTS: dict[str, str | bytes] = {
    "good.csv": GOOD,
    "empty.csv": "",
    "header.csv": "age,city,bought\n",
    "junk.csv": bytes(range(256)) * 20,
    "returns.csv": GOOD.replace("\n", "\r"),
    "utf16.csv": GOOD.encode("utf-16"),
    "latin.csv": GOOD.replace("r,", "é,").encode("latin-1"),
    "excel.csv": b"PK\x03\x04" + bytes(60),
    "ragged.csv": GOOD + "1,r,no,extra\n",
    "short.csv": GOOD + "1\n",
    "twice.csv": GOOD.replace("age", "city"),
    "semicolons.csv": GOOD.replace(",", ";"),
    "table.xlsx": GOOD,
    "noextension": GOOD,
    "text.parquet": GOOD,
    "gap.csv": GOOD + ",r,no\n",
    "infinite.csv": GOOD + "inf,r,no\n",
    "beyond.csv": GOOD + "1e39,r,no\n",
    "words.csv": GOOD + "old,r,no\n",
    "single.csv": GOOD.replace("yes", "no"),
    "rare.csv": GOOD + "1,r,maybe\n",
    "blind.csv": "age,city\n1,r\n",
    "other.csv": "a,b\n1,2\n",
    "split.csv": SPLIT,
    "badsplit.csv": SPLIT.replace("val", "holdout"),
    "notrain.csv": SPLIT.replace("train", "val"),
    "junk.npz": "no archive",
    "junk.npy": "",
    "list.yaml": "- 1\n- 2\n",
    "broken.yaml": "a: [1,\nb: }",
    "empty.yaml": "",
    "words.yaml": "model:\n  lr: fast\n",
    "binary.yaml": bytes(range(256)),
    "nodata.yaml": "model:\n  lr: 1.0\n",
    "unknown.yaml": (CONFIGS / "xor.yaml").read_text() + "nope: 3\n",
    "misspelt.yaml": (CONFIGS / "xor.yaml").read_text().replace("lr:", "lrr:"),
    "text.ckpt": "no checkpoint",
    "o.csv": "precious",
    "o.parquet": "precious",
    "o.pt2": "precious",
}
X, Y = np.arange(120.0).reshape(40, 3) ** 1.5, np.arange(40) % 2
ARRAYS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "good": (X, Y),
    "nan": (np.where(X == 1, np.nan, X), Y),
    "huge": (X * 1e300, Y),
    "rows": (X, Y[:7]),
    "complex": (X.astype(complex), Y),
    "norows": (X[:0], Y[:0]),
    "cube": (X, np.zeros((40, 2, 2))),
    "nooutputs": (X, np.zeros((40, 0))),
    "one": (X, Y * 0),
    "rare": (X, np.append(Y[:39], 5)),
    "beyond": (X, np.linspace(-1, 2, 40)),
    "narrow": (X[:, :2], Y),
    "classes": (X, Y + 4),
    "many": (np.arange(3000.0)[:, None], np.arange(3000)),
}


class Evil:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("owned",)


def write(name: str, content: str | bytes) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def write_checkpoints() -> None:
    """Checkpoints of a table, of arrays and of the exclusive or; and copies of the first that were tampered with."""
    for name, options in (
        ("table", "--data.path good.csv --data.target bought"),
        ("arrays", "--data ArrayDataModule --data.path good.npz"),
        ("xor", f"--config {CONFIGS / 'xor.yaml'}"),
    ):
        assert main(["fit", *shlex.split(options), "--trainer.max_epochs", "1"]) == 0
        shutil.copy(next(Path("logs").rglob("last.ckpt")), f"{name}.ckpt")
        shutil.rmtree("logs")
    good, content = (torch.load("table.ckpt", weights_only=True), Path("table.ckpt").read_bytes())
    write("half.ckpt", content[: len(content) // 2])
    write("pickle.ckpt", pickle.dumps(Evil()))
    torch.save({**good, "extra": Evil()}, "evil.ckpt")
    torch.save({"weights": torch.ones(3)}, "foreign.ckpt")
    torch.save({**good, "TabularDataModule": {"a": 1}}, "columns.ckpt")
    torch.save({**good, "datamodule_hyper_parameters": {"_class_path": "os.system"}}, "class.ckpt")
    weights = good["state_dict"]
    torch.save({**good, "state_dict": {**weights, "network.layers.0.bias": weights["network.layers.0.bias"] / 0}}, "nan.ckpt")
    torch.save({**good, "state_dict": {**weights, "more": torch.ones(2)}}, "more.ckpt")
    torch.save({**good, "hyper_parameters": {**good["hyper_parameters"], "hidden_sizes": "many"}}, "sizes.ckpt")
    torch.save({**good, "loops": 3}, "loops.ckpt")
    torch.save({name: value for name, value in good.items() if name != "optimizer_states"}, "stateless.ckpt")
    torch.save({name: good[name] for name in ("state_dict", "hyper_parameters")}, "network.ckpt")
    shapes = {**weights, "network.layers.0.weight": torch.ones(2, 2)}
    torch.save({**good, "state_dict": shapes}, "shapes.ckpt")


def write_files(folder: Path) -> None:
    """Files, most of them bad."""
    home = os.getcwd()
    os.chdir(folder)
    try:
        for name, content in TEXTS.items():
            write(name, content)
        for name, (x, y) in ARRAYS.items():
            np.savez(f"{name}.npz", x=x, y=y)
        np.savez("evil.npz", x=np.array([Evil()], dtype=object), y=Y)
        np.savez("unnamed.npz", a=X, y=Y)
        np.save("x.npy", X)
        np.save("y.npy", Y)
        pl.read_csv("good.csv").write_parquet("good.parquet")
        whole = {name: Path(name).read_bytes() for name in ("good.parquet", "good.npz", "x.npy")}
        write("half.parquet", whole["good.parquet"][:-20])
        write("parquet.csv", whole["good.parquet"])
        write("half.npz", whole["good.npz"][:-30])
        write("flipped.npz", whole["good.npz"][:300] + b"\xff" * 8 + whole["good.npz"][308:])
        write("half.npy", whole["x.npy"][:-16])
        write("pickle.npy", pickle.dumps(Evil()))
        Path("folder.csv").mkdir()
        write_checkpoints()
    finally:
        os.chdir(home)


def tree() -> dict[str, bytes | None]:
    """The contents of the working folder and its subfolders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


# Abbreviations for the start of many calls.
SHORT = {
    "CSV": "fit --data.target bought --trainer.max_epochs 1 --data.path",
    "NPZ": "fit --data ArrayDataModule --trainer.max_epochs 1 --data.path",
    "XOR": f"fit --config {CONFIGS / 'xor.yaml'} --trainer.max_epochs 1",
    "FUSED": f"fit --config {CONFIGS / 'xor.yaml'} --trainer.max_epochs 1 --model.engine fused",
    "PREDICT": "predict --ckpt_path table.ckpt --data.path",
}


def check_refused(capture: pytest.CaptureFixture[str], call: str, status: int, message: str) -> None:
    """Checks that the call ends with this status, prints one line that contains ``said``, and changes no file."""
    before = tree()
    begin, *options = shlex.split(call)
    assert main([*shlex.split(SHORT.get(begin, begin)), *options]) == status
    error = capture.readouterr().err
    assert error.startswith("torchbp: error: "), error
    assert error.count("\n") == 1, error
    assert message in error, error
    assert "Traceback" not in error
    after = tree()
    assert after.keys() == before.keys()
    assert after == before


def each(cases: Sequence[tuple[str, int, str]]) -> pytest.MarkDecorator:
    """One test for each call, with its exit status and a part of its line."""
    assert len({call for call, *_ in cases}) == len(cases)
    return pytest.mark.parametrize(
        ("call", "status", "message"), cases, ids=[call.replace(str(CONFIGS), "") for call, *_ in cases]
    )
