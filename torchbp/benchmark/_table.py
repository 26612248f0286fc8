"""Compares training's first step on a CSV file with Polars' reading it into a tensor, each in a new process, after imports."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from torchbp.benchmark._rows import Progress, Row, compare
from torchbp.benchmark._steps import FUSED

COLUMNS = 27  # columns of numbers from N(0, 1), besides the label
POLARS = "polars to_torch"
PAGE = 4096  # bytes


def table_times(quick: bool, rounds: int, threads: int, progress: Progress) -> list[Row]:
    """Seconds from the file to the first step, and the growth of the process's peak memory in bytes."""
    rows = 5_000 if quick else 1_000_000
    setting = f"CSV, {rows} x {COLUMNS + 1}"
    seconds: dict[str, list[float]] = {FUSED: [], POLARS: []}
    grown: dict[str, list[float]] = {FUSED: [], POLARS: []}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        progress(f"{setting}: writing")
        write_table(path, rows)
        for number in range(rounds):
            for name in (FUSED, POLARS):
                for values, value in zip((seconds, grown), _measured(name, path, threads), strict=True):
                    values[name].append(value)
            progress(f"{setting}: round {number + 1} of {rounds}")
    return [
        compare("file to first step", setting, FUSED, POLARS, "s", seconds, {}),
        compare("peak memory growth", setting, FUSED, POLARS, "B", grown, {}),
    ]


def write_table(path: Path, rows: int) -> None:
    """Write a CSV file with this number of rows: numbers, and a column ``label`` of 0 and 1."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(0)
    x = random.standard_normal((rows, COLUMNS)).astype(np.float32)
    label = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)
    pl.DataFrame({**{f"x{column}": x[:, column] for column in range(COLUMNS)}, "label": label}).write_csv(path)


def _measured(name: str, path: Path, threads: int) -> tuple[float, float]:
    # Polars with its own defaults, without the memory settings of torchbp.data.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("POLARS_", "_RJEM_"))}
    environment["POLARS_MAX_THREADS"] = str(threads)
    command = [sys.executable, "-m", __name__, name, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, grown = json.loads(done.stdout.splitlines()[-1])
    return seconds, grown


def _main(name: str, path: str) -> None:
    if name == POLARS:
        import polars as pl
        import torch

        torch.zeros(1)

        def read() -> None:
            pl.read_csv(path).to_torch()

    else:
        from torchbp.benchmark._training import trainer
        from torchbp.data import TabularDataModule
        from torchbp.training import BPModule

        def read() -> None:
            data = TabularDataModule(path, "label", batch_size=1024)
            module = BPModule(data.num_features, data.num_outputs, task=data.task, engine="fused")
            trainer(max_steps=1).fit(module, datamodule=data)

    before, start = _peak(), perf_counter()
    read()
    # A small table may not raise the peak, which importing reached.
    print(json.dumps([perf_counter() - start, max(_peak() - before, PAGE)]))


def _peak() -> int:
    """The most bytes that this process has held."""
    if sys.platform == "linux":  # getrusage would start from the parent process's memory
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _main(*sys.argv[1:])
