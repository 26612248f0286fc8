"""Plots step time over width and over batch, with the time of the matrix products alone as the floor."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from torchbp.benchmark._rows import Progress, interleaved
from torchbp.benchmark._steps import PRODUCTS, batches_of, contestants

WIDTHS = [8, 16, 32, 64, 128, 256, 512, 1024]
BATCHES = [1, 4, 16, 64, 256, 1024]
Curves = dict[str, list[float]]


def sweep(networks: Sequence[tuple[list[int], int]], rounds: int, block: float, progress: Progress) -> Curves:
    """Each contestant's median seconds per step, for each network and batch."""
    curves: Curves = {}
    for number, (sizes, batch) in enumerate(networks, 1):
        progress(f"plot: point {number} of {len(networks)}")
        for name, seconds in interleaved(contestants(sizes, batch), rounds, block, batches_of(batch)).items():
            curves.setdefault(name, []).append(median(seconds))
    return curves


def plot(
    path: Path, quick: bool, rounds: int, block: float, threads: int, progress: Progress
) -> dict[str, dict[str, list[float]]]:
    """Write the plot as PNG; return its points, in seconds per step.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    widths, batches = (WIDTHS[:3], BATCHES[-3:]) if quick else (WIDTHS, BATCHES)
    by_width = sweep([([w, w, w, 10], 32) for w in widths], rounds, block, progress)
    by_batch = sweep([([128, 128, 128, 10], b) for b in batches], rounds, block, progress)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, xs, curves, label in (
        (left, widths, by_width, "width w of w-w-w-10, batches of 32"),
        (right, batches, by_batch, "batch size, for 128-128-128-10"),
    ):
        for name, seconds in curves.items():
            microseconds = [1e6 * t for t in seconds]
            if name == PRODUCTS:
                axes.plot(xs, microseconds, color="black", linestyle="--", label="matrix products alone")
                axes.fill_between(xs, microseconds, 0.1, color="0.93")
            else:
                axes.plot(xs, microseconds, marker="o", markersize=5, linewidth=2, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(xs, [str(x) for x in xs])
        axes.set_xlabel(label)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.margins(x=0.02)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    low, high = (f(t for c in (by_width, by_batch) for seconds in c.values() for t in seconds) for f in (min, max))
    left.set_ylim(1e6 * low / 1.5, 1e6 * high * 1.5)
    left.set_ylabel("µs per step")
    left.legend(frameon=False)
    figure.suptitle(f"One step: forward, cost, backward, update ({threads} thread{'s' if threads > 1 else ''})")
    figure.savefig(path, dpi=150)
    return {"width": {"width": [*map(float, widths)], **by_width}, "batch": {"batch": [*map(float, batches)], **by_batch}}
