"""``torchbp benchmark``: measures, and prints the ratios peer / ours."""

import json
import os
import platform
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbp.cli import OneLineParser, console

if TYPE_CHECKING:
    from rich.table import Table

    from torchbp.benchmark._rows import Row

PARTS = ("command", "step", "memory", "startup", "table", "training", "recurrent", "networks")


def run(args: Sequence[str]) -> int:
    """Measure the chosen parts and print the results; return the exit status."""
    parser = OneLineParser(
        "torchbp benchmark",
        description="Compares torchbp with PyTorch, Lightning, scikit-learn and Polars on this machine. Each round measures\n"
        "all in turn; a ratio is peer / ours. A full run takes about ten minutes.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--threads", type=int, default=1, help="threads for each (default: 1)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the parts to measure; all by default")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default: 25 for steps, 3 for whole runs)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: to test the benchmark, not the speed")
    parser.add_argument("--json", action="store_true", help="print all rows as JSON")
    parser.add_argument("--plot", metavar="FILE.png", help="also plot step time over width and batch (needs matplotlib)")
    options = parser.parse_args(args)
    for name in ("threads", "rounds"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"{name} is {value}; it must be 1 or more")
    if options.plot is not None:
        if find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib, which is not installed: pip install 'torchbp[benchmark]'")
        if Path(options.plot).suffix.lower() != ".png" or Path(options.plot).is_dir():
            parser.error(f"--plot is {options.plot!r}; it must be a file whose name ends in .png")
        if not Path(options.plot).resolve().parent.is_dir():
            parser.error(f"--plot is {options.plot}; its folder does not exist")
    import torch

    _prepare_processes(options.threads)
    torch.manual_seed(0)
    rows, points = _measure(options)
    if options.json:
        result = {"machine": _machine(options.threads), "rows": [asdict(row) for row in rows], "plot": points}
        print(json.dumps(result, indent=2))
        return 0
    console().print(_table(rows, options.threads))
    if options.plot:
        console().print(f"plot: {options.plot}")
    return 0


def _measure(options: Any) -> "tuple[list[Row], Any]":
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from torchbp.benchmark._blocks import block_times
    from torchbp.benchmark._command import command_times
    from torchbp.benchmark._memory import step_memory
    from torchbp.benchmark._plot import plot
    from torchbp.benchmark._recurrent import SETTINGS as RECURRENT
    from torchbp.benchmark._recurrent import recurrent_times
    from torchbp.benchmark._startup import startup_times
    from torchbp.benchmark._steps import SETTINGS, step_times
    from torchbp.benchmark._table import table_times

    quick = options.quick
    rounds, runs = (2, 1) if quick else (options.rounds or 25, options.rounds or 3)
    block = 0.001 if quick else 0.02
    settings = SETTINGS[:2] if quick else SETTINGS
    rows: list[Row] = []
    points = None
    errors = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Bar(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("")

        def progress(doing: str) -> None:
            bar.update(task, description=doing)

        if "command" in options.only:
            rows += command_times(quick, runs, progress)
        if "step" in options.only:
            rows += step_times(settings, rounds, block, not quick, progress)
            rows += [] if quick else block_times(rounds, block, progress)
        if "memory" in options.only:
            rows += step_memory(*settings[-1])
        if "recurrent" in options.only:
            rows += recurrent_times([(3, 2, 2, 4)] if quick else RECURRENT, rounds, block, progress)
        if "startup" in options.only:
            rows += startup_times(1 if quick else options.rounds or 5, progress)
        if "table" in options.only:
            rows += table_times(quick, runs, options.threads, progress)
        if "training" in options.only:
            # Imported here: Lightning takes seconds.
            from torchbp.benchmark._training import training_times
            from torchbp.training.command import be_quiet

            with warnings.catch_warnings():
                be_quiet()
                rows += training_times(quick, runs, progress)
        if "networks" in options.only:
            from torchbp.benchmark._networks import network_times

            rows += network_times(quick, runs, progress)
        if options.plot:
            points = plot(Path(options.plot), quick, rounds, block, options.threads, progress)
    return rows, points


def _prepare_processes(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    # For NumPy and for child processes, too.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    # Child processes find torchbp's bytecode as they find the other packages': many containers do not let them write it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)


def _machine(threads: int) -> dict[str, Any]:
    import lightning
    import sklearn
    import torch

    return {
        "threads": threads,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "sklearn": sklearn.__version__,
    }


def _table(rows: "Sequence[Row]", threads: int) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    spread = max((row.spread or 0 for row in rows), default=0)
    gaps = {row.peer: row.gap for row in rows if row.gap is not None}
    table = Table(
        title=f"torchbp benchmark, {threads} thread{'s' if threads > 1 else ''}",
        caption="\n".join(
            [
                f"ratio: peer / ours, above 1 is better; median over rounds, interquartile range at most {spread:.0%} of it.",
                *(f"no {peer}: {escape(gap)}" for peer, gap in gaps.items()),
            ]
        ),
    )
    for name in ("measure", "setting", "ours", "against"):
        table.add_column(name)
    for name in ("ratio", "ours", "theirs"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in rows:
        group = row.measure, row.setting
        if before is not None and group != before:
            table.add_section()
        what = group if group != before else ("", "")
        values = (
            ("-", "-", "-")
            if row.ratio is None
            else (f"[bold]{row.ratio:.2f}[/]", _text(row.ours_value, row.unit), _text(row.peer_value, row.unit))
        )
        table.add_row(*what, row.ours, row.peer, *values)
        before = group
    return table


def _text(value: float | None, unit: str) -> str:
    """A value in three digits with its unit, such as ``1.25 ms``."""
    assert value is not None
    scales = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")) if unit == "s" else ((1.0, "B"), (2.0**10, "KiB"), (2.0**20, "MiB"))
    scale, name = next(((s, n) for s, n in reversed(scales) if value >= s), scales[0])
    return f"{value / scale:.3g} {name}"
