"""Runs in each process of test_distributed.py: trains on each kind of data with each engine, and writes the results."""

import contextlib
import io
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch import Callback
from training_runs import quiet_trainer

import torchbp.data.base
from torchbp.cli import main
from torchbp.data import ArrayDataModule, BuiltinDataModule, RowsDataModule, TabularDataModule
from torchbp.data._cache import Cache, NpyFile
from torchbp.training import BPModule

ENGINES = ("autograd", "fused")
DDP = {"strategy": "ddp", "num_nodes": 2, "devices": 1}
OPTIONS = [word for name, value in DDP.items() for word in (f"--trainer.{name}", str(value))]
OPTIONS += ["--trainer.accelerator", "cpu"]
CSV = ["--data.path", "table.csv", "--data.target", "label", "--data.memory", "0"]


def write_files() -> None:
    """Writes a table and arrays whose first feature is 2 * row number, with fewer positives than negatives."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1501, 2)).astype(np.float32)
    x[:, 0] = 2 * np.arange(1501)
    label = draw.random(1501) + x[:, 1] > 1.4
    gaps = [None if gap else value for gap, value in zip(draw.random(1501) < 0.1, x[:, 1].tolist(), strict=True)]
    columns = {"row": x[:, 0].astype(int), "a": gaps, "kind": draw.choice(list("pqr"), 1501), "label": label}
    pl.DataFrame(columns).write_csv("table.csv")
    np.save("x.npy", x)
    np.save("y.npy", label)


def data_of(kind: str, batch_size: int) -> RowsDataModule:
    """A data module. Each split of a file has an odd number of rows; in memory, the training split has an even one."""
    if kind == "builtin":
        return BuiltinDataModule("moons", batch_size=batch_size)
    if kind == "held":
        return TabularDataModule("table.csv", "label", batch_size=batch_size, val_size=0.19)
    options: dict[str, Any] = {"batch_size": batch_size, "val_size": 0.21, "test_size": 0.21, "memory": 0}
    if kind == "arrays":
        return ArrayDataModule("x.npy", "y.npy", **options)
    return TabularDataModule("table.csv", "label", cache_dir="cache", **options)


class Seen(Callback):
    """Keeps the batches of this process, each ``(x, y)``."""

    def __init__(self) -> None:
        self.batches: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        size = getattr(batch, "batch_size", len(batch[0]))
        self.batches["train"] += zip(batch[0].split(size), batch[1].split(size), strict=True)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.batches["val"].append(batch)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.batches["test"].append(batch)


def module_of(data: RowsDataModule, engine: str) -> BPModule:
    torch.manual_seed(0)
    steps = 5 if engine == "fused" else None
    return BPModule(data.num_features, 1, (8,), pos_weight="balanced", engine=engine, steps_per_execution=steps)


def train(kind: str, engine: str, **trainer: Any) -> dict[str, Any]:
    """Trains two epochs in batches of 32 over all processes, and tests."""
    run = quiet_trainer(max_epochs=2, precision="64-true", callbacks=[seen := Seen()], **trainer)
    data = data_of(kind, 32 // run.world_size)
    module = module_of(data, engine)
    run.fit(module, datamodule=data)
    metrics = {**run.callback_metrics, **run.test(module, datamodule=data, verbose=False)[0]}
    found = {name: float(value) for name, value in metrics.items()}
    process = {"rank": run.global_rank, "steps": run.global_step, "lr": module.lr, **seen.batches}
    return {"state": module.state_dict(), "metrics": found, **process}


def predicted(state: dict[str, Any], kind: str, **trainer: Any) -> torch.Tensor:
    """This process's predictions of all rows, by a trained network."""
    data = data_of(kind, 32)
    module = module_of(data, "autograd")
    module.double().load_state_dict(state)
    outputs: Any = quiet_trainer(precision="64-true", **trainer).predict(module, datamodule=data)
    return torch.cat(outputs)


def slow(of: Any, calls: list[str]) -> Any:
    """The function, made slow so that another process arrives meanwhile; notes each call."""

    def call(*args: Any) -> Any:
        calls.append(of.__qualname__)
        time.sleep(0.3)
        return of(*args)

    return call


def files_left(cache: Path) -> int:
    """How many files a run with keep_cache=False leaves in the machine's own cache; the rows can still be read again."""
    data = TabularDataModule("table.csv", "label", memory=0, cache_dir=cache, keep_cache=False)
    quiet_trainer(max_epochs=1, **DDP).fit(module_of(data, "fused"), datamodule=data)
    left = len([*cache.rglob("*.*")])
    assert len(data.rows) == 1501
    return left


def refusal(rows: int) -> str:
    """The error message for so few rows."""
    np.save(f"few{os.environ['RANK']}.npy", np.arange(rows) / 7)
    data = ArrayDataModule(*[f"few{os.environ['RANK']}.npy"] * 2)
    try:
        quiet_trainer(max_epochs=1, **DDP).fit(BPModule(1, 1, task="regression"), datamodule=data)
    except ValueError as error:
        return str(error)
    return "none"


def call(*args: str) -> tuple[int, str, str]:
    """A command's exit status, standard output and standard error."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(args)
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.chdir(sys.argv[1])
    torchbp.data.base.EVALUATION_ROWS = 157  # with 315 rows, one process has two batches and the other has one
    written: list[str] = []
    runs: dict[str, Any] = {"left": files_left(Path(f"cache of {os.environ['RANK']}"))}
    torch.distributed.barrier()
    with pytest.MonkeyPatch.context() as patch:
        for of, name in ((Cache, "_make"), (NpyFile, "append")):
            patch.setattr(of, name, slow(getattr(of, name), written))
        runs["mapped fused"] = train("mapped", "fused", **DDP)
    others = [("mapped", "autograd"), *((kind, engine) for kind in ("builtin", "held", "arrays") for engine in ENGINES)]
    runs |= {f"{kind} {engine}": train(kind, engine, **DDP) for kind, engine in others}
    runs["written"] = written
    runs |= {f"{kind} predicted": predicted(runs[f"{kind} fused"]["state"], kind, **DDP) for kind in ("mapped", "arrays")}
    runs["refused"] = refusal(4)
    runs["fit"] = call("fit", *CSV, "--trainer.max_epochs", "2", "--model.engine", "fused", *OPTIONS)
    runs["test"] = call("test", "--ckpt_path", "best", *OPTIONS)
    Path("old.csv").write_text("precious")
    runs["predict"] = call("predict", "--ckpt_path", "best", "--output", "old.csv", *OPTIONS)
    torch.save(runs, f"{runs['builtin fused']['rank']}.pt")
