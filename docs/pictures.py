"""Draws the gallery's pictures, docs/gallery/*.png, from runs of the configurations: ``make pictures``, about ten minutes.

``python docs/pictures.py moons`` draws one.
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
Run = dict[str, Any]


def run(config: str, *options: str) -> Run:
    """Scalars by epoch and the last images of a run, by their names in TensorBoard."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configs").symlink_to(ROOT / "configs")
        command = [sys.executable, "-m", "torchbp", "fit", "--config", f"configs/{config}.yaml", "--every_epoch", "true"]
        subprocess.run([*command, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT)})
        (events,) = Path(folder).glob("logs/*/version_0")
        board = EventAccumulator(str(events), size_guidance={"images": 0, "scalars": 0})
        board.Reload()
        scalars = {tag: [event.value for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
        images = {tag: board.Images(tag)[-1].encoded_image_string for tag in board.Tags()["images"]}
        return {**scalars, **{tag: plt.imread(io.BytesIO(image)) for tag, image in images.items()}}


def costs(axes: Axes, found: Run) -> None:
    for split in ("train", "val"):
        if values := found.get(f"cost/{split}"):
            axes.plot(range(1, len(values) + 1), values, label=split)
    axes.set(xlabel="epoch", ylabel="cost", yscale="log")
    axes.legend()


def errors(axes: Axes, found: Run) -> None:
    for tag in (tag for tag in found if tag.startswith("norm/dL_dZ/")):
        axes.plot(range(1, len(found[tag]) + 1), found[tag], label=f"layer {tag.rpartition('/')[2]}")
    axes.set(xlabel="epoch", ylabel="norm of δ = ∂L/∂Z", yscale="log")
    axes.legend()


def image(tag: str) -> Callable[[Axes, Run], None]:
    def draw(axes: Axes, found: Run) -> None:
        axes.imshow(found[tag], cmap="gray")
        axes.set(xticks=[], yticks=[], title=tag)
        axes.grid(visible=False)

    return draw


def in_time(axes: Axes, found: Run) -> None:
    axes.imshow(found["norm/dL_dA_of_t/1"], aspect="auto")
    axes.set(xticks=[], yticks=[], xlabel="step t, the last one at the right", ylabel="norm of ∂L/∂A_t, one line per decade")
    axes.grid(visible=False)


def save(name: str, *panels: Callable[[Axes], None]) -> None:
    figure, every = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for panel, axes in zip(panels, every, strict=True):
        panel(axes)
    figure.savefig(ROOT / "docs" / "gallery" / f"{name}.png", dpi=80, metadata={"Software": None})
    plt.close(figure)


def of_one_run(config: str, *panels: Callable[[Axes, Run], None], archive: str | None = None) -> None:
    """``archive``: a data set that comes with sktime."""
    folder = files("sktime") / "datasets" / "data" / archive if archive else None
    paths = {"path": f"{archive}_TRAIN.ts", "test_path": f"{archive}_TEST.ts"}
    found = run(config, *(f"--data.{name}={folder / file}" for name, file in paths.items() if folder))
    save(config, *(lambda axes, panel=panel: panel(axes, found) for panel in panels))  # type: ignore[misc]


def side_by_side(tag: str, runs: dict[str, Run], **labels: Any) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for name, found in runs.items():
            axes.plot(range(1, len(found[tag]) + 1), found[tag], label=name)
        axes.set(xlabel="epoch", **labels)
        axes.legend()

    return draw


def watermelon() -> None:
    runs = {
        "per sample": run("watermelon_sample"),
        "accumulated": run("watermelon_accumulated"),
    }
    updates = {"per sample": 17, "accumulated": 1}

    def by_updates(axes: Axes) -> None:
        for name, found in runs.items():
            cost = found["cost/train"]
            axes.plot([updates[name] * epoch for epoch in range(1, len(cost) + 1)], cost, label=name)
        axes.set(xlabel="updates of the weights", ylabel="cost", xscale="log", yscale="log")
        axes.legend()

    save("watermelon", side_by_side("cost/train", runs, ylabel="cost", yscale="log"), by_updates)


def deep_sigmoid() -> None:
    runs = {init: run("deep_sigmoid", "--model.init", init) for init in ("glorot", "normal")}

    def by_layer(axes: Axes) -> None:
        for name, found in runs.items():
            shares = [found[f"saturated/{layer}"][0] for layer in range(1, 9)]
            axes.plot(range(1, 9), shares, marker="o", label=name)
        axes.set(xlabel="layer", ylabel="share of saturated activations, first epoch")
        axes.legend()

    save("deep_sigmoid", side_by_side("accuracy/val", runs, ylabel="accuracy of validation rows"), by_layer)


def one(config: str, *panels: Callable[[Axes, Run], None], archive: str | None = None) -> Callable[[], None]:
    return lambda: of_one_run(config, *panels, archive=archive)


PICTURES: dict[str, Callable[[], None]] = {
    "xor": one("xor", costs, image("boundary")),
    "moons": one("moons", costs, image("boundary")),
    "breast_cancer": one("breast_cancer", costs, errors),
    "digits": one("digits", costs, image("W/1/pictures")),
    "diabetes": one("diabetes", costs, errors),
    "sines": one("sines", costs, image("g/1")),
    "watermelon": watermelon,
    "deep_sigmoid": deep_sigmoid,
    "digit_rows": one("digit_rows", costs, in_time),
    "italy_power_demand": one("italy_power_demand", costs, in_time, archive="ItalyPowerDemand"),
    "japanese_vowels": one("japanese_vowels", costs, in_time, archive="JapaneseVowels"),
    "adding": one("adding", costs, in_time),
    "sunspots": one("sunspots", costs, in_time),
}

if __name__ == "__main__":
    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    (ROOT / "docs" / "gallery").mkdir(exist_ok=True)
    for picture in sys.argv[1:] or PICTURES:
        PICTURES[picture]()
