"""``torchbp search``: tries networks of other shapes and learning rates side by side, and trains the best one again."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from torchbp._interrupts import terminable, uninterrupted
from torchbp._text import digits, printable
from torchbp.cli import console, one_line
from torchbp.data import RowsDataModule, TabularDataModule
from torchbp.training._evaluation import baseline_of, evaluate
from torchbp.training._folder import claimed, run_name
from torchbp.training._grids import Grid, score_grid, shown
from torchbp.training._module import BPModule
from torchbp.training._quiet import be_quiet
from torchbp.training._space import Space
from torchbp.training._study import Trial
from torchbp.training._summary import Shown, show
from torchbp.training._together import parsed, parser_of, refuse_other_splits
from torchbp.training._trials import Search
from torchbp.training.arguments import section_options
from torchbp.training.checkpoint import LOGS, refuse_lost, save_network
from torchbp.training.prediction import output_names

DESCRIPTION = (
    "Try networks with other hidden layers, activations, batch sizes, learning rates and initial weights, proposed by Optuna. "
    "Trials of one shape are trained side by side and compared by their cost on the validation rows; those that are behind are "
    "pruned. The best network is trained again on the training and validation rows, and saved as a checkpoint. Options of "
    "--model and --data that you give, such as --model.activation tanh, are not searched for."
)
Result = TypeVar("Result")
BEST = 10  # maximum trials that are shown


def run(args: Sequence[str]) -> int:
    """Search from a command line; returns the exit status."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("to search, install optuna: pip install 'torchbp[search]'") from None
    be_quiet()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = _options(args)
    data = options.data
    if not len(data.split_numbers("val")):
        raise ValueError("no row is held out for validation, which compares the trials; set --data.val_size 0.2")
    if isinstance(data, TabularDataModule):
        console().print(data.schema_table())
    search = Search(options, data, section_options(args, "model") | section_options(args, "data"))
    folder = LOGS / run_name(options.named)
    search.folder = folder = folder / claimed(folder)
    path = Path(options.output) if options.output else folder / "checkpoints" / "best.ckpt"
    with terminable(), _saving_the_best(search, path, folder):
        search.run()
        best = min([*search.trials, *search.study.best_of_others()], key=lambda trial: trial.best)
        module, epochs = search.refit(best)
        save_network(path, module, search.whole, search.whole.state_dict(), epochs)
    show(_summary(search.trials, best, module, search.whole), console())
    print(f"best checkpoint: {printable(str(path))}")
    print(f"to look at the trials: tensorboard --logdir {printable(str(folder))}")
    return 0


@contextmanager
def _saving_the_best(search: Search, path: Path, folder: Path) -> Iterator[None]:
    """If an error or a signal ends the search, save the best network so far, and say how to continue."""
    try:
        yield
    except BaseException as error:
        with uninterrupted():
            best = _tried(partial(search.save_best, path), f"the best network so far is not saved in {path}")
            _tried(search.study.give_up, f"{search.study.where} has trials that are not marked as failed")
        for empty in (folder, *folder.parents[:2]):
            with suppress(OSError):
                empty.rmdir()
        if best is not None:
            cost, epoch = best.best
            print(f"best checkpoint so far: {printable(str(path))}")
            print(f"it is trial {best.trial.number}, cost/val {digits(cost)} after epoch {epoch}, not trained again")
        if search.options.storage and isinstance(error, KeyboardInterrupt):
            print(f"the same command continues {search.study.where}")
        raise


def _tried(call: Callable[[], Result], lost: str) -> Result | None:
    """The call's result; None after an error, which a line names: it must not replace the error that ended the search."""
    try:
        return call()
    except Exception as error:
        print(f"torchbp: {printable(f'{lost}: {one_line(error)}')}", file=sys.stderr)
        return None


def _options(args: Sequence[str]) -> Namespace:
    parser = parser_of("search", DESCRIPTION)
    parser.add_argument("--trials", type=PositiveInt, default=64, help="The number of networks to try.")
    help = (
        "The most trials of one shape that are trained side by side; of S shapes at most 1/S of all trials, rounded up, and "
        "an eighth from 8 shapes on."
    )
    parser.add_argument("--side_by_side", type=PositiveInt, default=8, help=help)
    parser.add_class_arguments(Space, "space")
    help = (
        "Where Optuna keeps the study, such as sqlite:///study.db; several machines may share it. In memory by default. "
        "--print_config does not show its password."
    )
    parser.add_argument("--storage", type=str | None, help=help)
    parser.add_argument("--study", type=str, default="torchbp", help="The study's name there.")
    parser.add_argument("--sampler", type=Literal["tpe", "random"], default="tpe", help="How trials are proposed.")
    help = "The rule that ends trials early."
    parser.add_argument("--pruner", type=Literal["median", "hyperband", "none"], default="median", help=help)
    help = "The checkpoint to write; best.ckpt of a new run in logs by default."
    parser.add_argument("--output", type=str | None, help=help)
    if any(arg.startswith("--space.hidden_sizes+") for arg in args):  # jsonargparse would add to each choice
        parser.error("space.hidden_sizes+ is not possible; give all choices, such as --space.hidden_sizes '[[16], [32, 32]]'")
    options = parsed(parser, args)
    refuse_other_splits(options.data, ("val_path",))
    if isinstance(options.model.threshold, str):
        parser.error(
            f"threshold is {options.model.threshold}; training the best again leaves no rows to choose it: give a number"
        )
    if options.output:
        refuse_lost(options.output)
    return options


def _summary(trials: Sequence[Trial], best: Trial, module: BPModule, data: RowsDataModule) -> Shown:
    """The best trials, the study's best first, and the scores of that network, trained again, on rows no trial has seen."""
    pruned = sum(trial.pruned for trial in trials)
    diverged = sum(bool(trial.learner and trial.learner.diverged) for trial in trials)
    header = ["trial", "best cost/val", "epoch", "epochs", "hidden_sizes", "activation", "batch_size", "lr", "init_scale"]
    title = f"the best of {len(trials)} trials; {pruned} were pruned, {diverged} diverged"
    if best.of_other:
        title = f"trial {best.trial.number}, the study's best, of another search; {title}"
    grid = Grid(title, header)
    others = [trial for trial in sorted(trials, key=lambda trial: trial.best) if trial is not best]
    for trial in [best, *others][:BEST]:
        cost, epoch = trial.best
        values = [digits(v) if isinstance(v, float) else str(v).strip('"') for v in trial.values.values()]
        epochs, lr = ("–", "–") if trial.of_other else (f"{len(trial.costs)}", values[4])  # the study does not have these
        grid.rows.append([f"{trial.trial.number}", shown(cost), f"{epoch}", epochs, *values[:3], lr, values[3]])
    parts: list[Grid | str] = [grid]
    if len(test := data.split_rows("test")) and len(data.split_numbers("test")) < len(data.rows):
        outcome = evaluate(module, test)
        names = output_names(module.task, module.hparams["num_outputs"], data)
        baseline = baseline_of(data.split_rows("train"), module.task, names)
        assert outcome.cost is not None
        of_baseline = module.scores(baseline.of(outcome).prediction, outcome.y, 0.5)
        columns = {"test": {"cost": outcome.cost, **module.scores(outcome.prediction, outcome.y)}, "baseline": of_baseline}
        title = f"the best, trained again: {len(test):,} rows that no trial has seen"
        parts.append(score_grid(title, columns, dict.fromkeys(columns, len(test)), f"baseline: {baseline.name}"))
    return parts
