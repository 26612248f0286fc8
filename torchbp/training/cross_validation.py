"""``torchbp cross-validate``: trains a network for each fold, all side by side."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from math import isfinite, nan
from statistics import fmean, stdev
from typing import Any

import polars as pl
import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from torch import Tensor

from torchbp._interrupts import terminable
from torchbp._memory import GIB
from torchbp._text import digits, printable
from torchbp.cli import console
from torchbp.data import RowsDataModule, TabularDataModule
from torchbp.data.folds import Fold, folds_of, refuse_folds
from torchbp.data.progress import progress
from torchbp.fitting import Learner
from torchbp.training._evaluation import baseline_of, evaluate
from torchbp.training._grids import Grid, shown
from torchbp.training._quiet import be_quiet
from torchbp.training._summary import Shown, show
from torchbp.training._threshold import best_threshold
from torchbp.training._together import (
    Job,
    made_module,
    parsed,
    parser_of,
    refuse_other_splits,
    train_together,
    why_diverged,
)
from torchbp.training.arguments import section_options
from torchbp.training.prediction import output_names, prediction_columns, refuse_own_file, table_file

DESCRIPTION = (
    "Train a network for each fold, all folds and repeats side by side, and test each on the rows that it has not seen. "
    "Every network has its own scaling, medians and categories, from its own training rows. Every fold has the same share of "
    "each class. Of a fold's training rows, the share --data.val_size (0.2) is held out to choose the epoch, as in torchbp fit."
)


@dataclass
class Result:
    """The result of a fold.

    Attributes:
        fold: the fold.
        rows: the numbers of training, validation and test rows.
        epochs: the number of epochs of its training.
        lr, threshold: the learning rate, and the threshold of ``binary``.
        scores, baseline: the scores on the test rows, by name; empty if the network diverged.
        numbers, prediction: the indices of the test rows, (n), and their predictions, (n, num_outputs); None if it diverged.
        problem: why there are no scores, in words.
    """

    fold: Fold
    rows: tuple[int, int, int]
    epochs: int
    lr: float
    threshold: float
    scores: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    numbers: Tensor | None = None
    prediction: Tensor | None = None
    problem: str = ""


def run(args: Sequence[str]) -> int:
    """Cross-validate from a command line; returns the exit status."""
    be_quiet()
    options = _options(args)
    output = options.output
    with terminable(), redirect_stdout(sys.stderr) if output == "-" else nullcontext():
        with table_file(output) if output not in (None, "-") else nullcontext() as write:
            data = options.data.with_parts(None, options.folds)
            if isinstance(data, TabularDataModule):
                console().print(data.schema_table())
            folds = folds_of(data, options.folds, options.repeats, data.val_size, options.groups, options.order)
            results = cross_validate(options, data, folds)
            rows = predictions(results, data)
            if write is not None:
                write(rows)
        show(summary(results, data, options), console())
    if output == "-":
        with table_file("-") as write:
            write(rows)
    elif output is not None:
        print(f"predictions of rows that a network has not seen: {printable(output)}")
    return 0 if any(result.scores for result in results) else 1


def _options(args: Sequence[str]) -> Namespace:
    parser = parser_of("cross-validate", DESCRIPTION)
    parser.add_argument("--folds", type=PositiveInt, default=5, help="The number of parts that the rows are split into.")
    parser.add_argument(
        "--repeats", type=PositiveInt, default=1, help="How often to split the rows, each time with another seed."
    )
    parser.add_argument("--groups", type=str | None, help="A column; rows with the same value stay in one part.")
    parser.add_argument("--order", type=str | None, help="A column, such as a date: test rows come after training rows.")
    help = "A file for predictions of rows that a network has not seen: .csv, .tsv or .parquet; - is standard output."
    parser.add_argument("--output", type=str | None, help=help)
    options = parsed(parser, args)
    data = options.data
    if options.output not in (None, "-"):
        refuse_own_file(options.output, data)
    refuse_other_splits(data, ("split", "val_path", "test_path"))
    refuse_folds(data, options.folds, options.repeats, options.groups, options.order)
    if "test_size" in section_options(args, "data"):
        parser.error("test_size is for torchbp fit; here each fold is tested in turn, set --folds")
    if options.groups and isinstance(data, TabularDataModule) and options.groups not in data.targets:
        data.types.setdefault(options.groups, "ignored")
    return options


def cross_validate(options: Namespace, data: RowsDataModule, folds: Sequence[Fold]) -> list[Result]:
    """Train and test the network of each fold, as many side by side as fit into memory.

    Raises:
        ValueError: the features of one fold do not fit into the data's ``memory``.
    """
    results: list[Result] = []
    total = len(folds) * options.trainer.max_epochs
    with progress("epochs of all folds", total) as done:
        for jobs, some in _groups(options, data, folds):
            before = len(results) * options.trainer.max_epochs
            trained = [0]

            def on_epoch(number: int, learners: Sequence[Learner], trained: list[int] = trained, before: int = before) -> None:
                trained[0] += len(learners)
                done(before + trained[0])

            learners = train_together(jobs, options.trainer.max_epochs, options.patience, on_epoch)
            results += [_tested(*of_fold) for of_fold in zip(jobs, learners, some, strict=True)]
    return results


def _groups(options: Namespace, data: RowsDataModule, folds: Sequence[Fold]) -> Iterator[tuple[list[Job], list[Fold]]]:
    """Groups of folds whose features fit into memory together."""
    most = GIB * getattr(data, "memory", 1.0)
    jobs: list[Job] = []
    some: list[Fold] = []
    for fold in folds:
        own = data.with_parts(fold.part_of, options.folds)
        if own.rows.mapped:
            raise ValueError(f"the features do not fit memory, {most / GIB:g} GiB; set a larger --data.memory")
        job = Job(made_module(options, own, options.seed_everything + fold.repeat - 1), own, data.seed + fold.repeat - 1)
        if jobs and job.bytes + sum(other.bytes for other in jobs) > most and own.rows is not jobs[0].data.rows:
            yield jobs, some
            jobs, some = [], []
        jobs.append(job)
        some.append(fold)
    yield jobs, some


def _tested(job: Job, learner: Learner, fold: Fold) -> Result:
    module, data = job.module, job.data
    rows = [len(data.split_rows(part)) for part in ("train", "val", "test")]
    result = Result(fold, (rows[0], rows[1], rows[2]), len(learner.costs), float(learner.lr or nan), module.threshold)
    if learner.diverged:
        result.problem = why_diverged(learner)
        return result
    module.eval()
    if module.threshold_rule:
        if not rows[1]:
            raise ValueError(f"threshold is {module.threshold_rule}; it is chosen on validation rows, and val_size is 0")
        held_out = evaluate(module, data.split_rows("val"))
        module.threshold = best_threshold(held_out.prediction[:, 0], held_out.y[:, 0], module.threshold_rule)
        result.threshold = module.threshold
    test = data.split_rows("test")
    outcome = evaluate(module, test)
    names = output_names(module.task, module.hparams["num_outputs"], data)
    of_baseline = baseline_of(data.split_rows("train"), module.task, names).of(outcome)
    assert outcome.cost is not None
    module.metrics["test"].targets = getattr(data, "targets", ()) if module.task == "regression" else ()
    result.scores = {"cost": outcome.cost, **module.scores(outcome.prediction, outcome.y)}
    result.baseline = module.scores(of_baseline.prediction, outcome.y, 0.5)
    result.numbers, result.prediction = fold.rows(2), outcome.prediction
    return result


def predictions(results: Sequence[Result], data: RowsDataModule) -> pl.DataFrame:
    """Predictions of each row by each network that has not seen it, in the order of rows; ``row`` counts from 1."""
    task: Any = data.task
    names = output_names(task, data.num_outputs, data)
    offsets = getattr(data, "target_offsets", ())
    parts = []
    for result in results:
        if result.prediction is None or result.numbers is None:
            continue
        values = result.prediction
        if offsets:
            values = values.double() + torch.tensor(offsets, dtype=torch.float64)
        where = {"row": (result.numbers + 1).numpy(), "repeat": result.fold.repeat, "fold": result.fold.number}
        parts.append(pl.DataFrame({**where, **prediction_columns(values, task, names, result.threshold)}))
    return pl.concat(parts).sort("repeat", "row") if parts else pl.DataFrame({"row": []})


def summary(results: Sequence[Result], data: RowsDataModule, options: Namespace) -> Shown:
    """The scores of each fold, and their mean and deviation, beside the baseline's."""
    tested = [result for result in results if result.scores]
    metrics = list(dict.fromkeys(name for result in tested for name in result.scores))
    counts = ["train", "val", "test"]
    folds = Grid("each fold", ["repeat, fold", *counts, "epochs", "lr", *(name.replace("_", " ") for name in metrics)])
    for result in results:
        scores = [shown(result.scores.get(name)) for name in metrics]
        rows = [f"{count:,}" for count in result.rows]
        folds.rows.append(
            [f"{result.fold.repeat}, {result.fold.number}", *rows, f"{result.epochs}", digits(result.lr), *scores]
        )
    repeats = f", {options.repeats} times" if options.repeats > 1 else ""
    means = Grid(f"{options.folds} folds{repeats}: {len(tested)} networks", ["", "mean", "deviation", "baseline"])
    partial = []
    for name in metrics:
        values = [value for result in tested if isfinite(value := result.scores.get(name, nan))]
        of_baseline = [value for result in tested if isfinite(value := result.baseline.get(name, nan))]
        deviation = stdev(values) if len(values) > 1 else nan
        cells = [fmean(values) if values else nan, deviation, fmean(of_baseline) if of_baseline else nan]
        means.rows.append([name.replace("_", " "), *map(shown, cells)])
        if len(values) < len(tested):
            partial.append(f"{name} of {len(values)}")
    said = [
        f"the network of repeat {result.fold.repeat}, fold {result.fold.number} diverged, and is in no mean: {result.problem}"
        for result in results
        if not result.scores
    ]
    if partial:
        said.append(f"{', '.join(partial)} folds: the others' test rows do not define it")
    return [folds, *([means] if tested else []), *said]
