"""The trials of a search: trained side by side, pruned, and the best trained again."""

import json
from collections.abc import Iterator, Sequence
from math import ceil, inf, isfinite
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from torchbp._memory import number_of_parameters, refuse_beyond_memory
from torchbp._pytorch import file_writer
from torchbp.data import RowsDataModule
from torchbp.data.progress import progress
from torchbp.fitting import Learner, group_size
from torchbp.training._module import BPModule
from torchbp.training._study import Shape, Study, Trial
from torchbp.training._together import Job, made_module, take_learned, train_together, why_diverged
from torchbp.training.checkpoint import save_network

RUNGS = 1.3  # factor between the epochs after which trials are compared: each comparison reads the study


class Search:
    """Trains the trials of a study, shape by shape.

    Args:
        options: the options of the command line.
        data: the data to train and validate on.
        said: the names of the options that the user gives; they are not searched for.

    Raises:
        MemoryError: hidden layers to search do not fit memory.

    Attributes:
        folder: the folder for TensorBoard's files; None to write none.
        study: the study.
        trials: the trials trained so far.
        waiting: proposed trials of other shapes, to train next.
        whole: the data with the validation rows added to the training rows.
    """

    folder: Path | None = None

    def __init__(self, options: Namespace, data: RowsDataModule, said: set[str]) -> None:
        self.options, self.data = options, data
        if "hidden_sizes" not in said:
            _refuse_beyond_memory(options.space.hidden_sizes, data)
        self.study = Study(options, data, said)
        self.trials: list[Trial] = []
        self.waiting: dict[Shape, list[Trial]] = {}
        part_of = torch.full((len(data.rows),), 255, dtype=torch.uint8)
        for part, number in (("train", 0), ("val", 0), ("test", 2)):
            part_of[data.split_numbers(part)] = number  # type: ignore[arg-type]
        self.whole = data.with_parts(part_of)

    def run(self) -> None:
        """Train ``--trials`` trials.

        Raises:
            FloatingPointError: all of them diverged.
        """
        wanted = self.options.trials
        most = group_size(self.options.side_by_side, wanted, self.study.shapes)
        with progress("trials", wanted) as done:
            while len(self.trials) < wanted:
                self._train(self._of_one_shape(min(most, wanted - len(self.trials))))
                done(len(self.trials))
        self.study.give_up()  # the waiting trials
        if not any(isfinite(trial.best[0]) for trial in self.trials):
            advice = f"set a lower --{'space.lr_factor' if self.options.model.lr == 'auto' else 'model.lr'}"
            if not any(trial.learner and isfinite(trial.learner.lr or inf) for trial in self.trials):
                advice = "every cost is flat or not finite at the start; set --model.lr, or a smaller --space.init_scale"
            raise FloatingPointError(f"all {wanted} trials diverged; {advice}")

    def _of_one_shape(self, count: int) -> list[Trial]:
        shape = next((shape for shape, waiting in self.waiting.items() if waiting), None)
        trials = self.waiting.pop(shape) if shape else [self.study.ask()]
        return trials + self._asked(trials[0].shape, count - len(trials))

    def _asked(self, shape: Shape, count: int) -> list[Trial]:
        """At most ``count`` new trials of a shape."""
        trials: list[Trial] = []
        while len(trials) < count:
            trial = self.study.ask(shape)
            if trial.shape != shape:  # another process took the trial that was queued for this one
                self.waiting.setdefault(trial.shape, []).append(trial)
                break
            trials.append(trial)
        return trials

    def _module(self, trial: Trial, data: RowsDataModule) -> BPModule:
        sizes, activation, _ = trial.shape
        changes = {"hidden_sizes": json.loads(sizes), "activation": json.loads(activation), "lr_factor": trial.lr_factor}
        module = made_module(self.options, data, self.options.seed_everything, **changes)
        with torch.no_grad():
            for name, value in module.network.named_parameters():
                if name.endswith(".weight"):
                    value.mul_(trial.init_scale)
        return module

    def _train(self, trials: list[Trial]) -> None:
        self.trials += trials
        jobs = [Job(self._module(trial, self.data), self.data, self.data.seed) for trial in trials]
        epochs = self.options.trainer.max_epochs
        rungs = {*_rungs(epochs)}
        of_learner: dict[int, Trial] = {}

        def on_epoch(_: int, learners: Sequence[Learner]) -> None:
            for learner in learners:
                number = len(learner.costs)
                if learner.diverged or number not in rungs:
                    continue
                trial = of_learner[id(learner)]
                if self.study.is_behind(trial) and number < epochs:
                    learner.ended = trial.pruned = True

        def on_start(learners: Sequence[Learner]) -> None:
            for trial, learner in zip(trials, learners, strict=True):
                trial.learner = learner
                of_learner[id(learner)] = trial

        size: Any = trials[0].shape[2]
        train_together(jobs, epochs, self.options.patience, on_epoch, size, on_start)
        for trial in trials:
            self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        self.study.tell(trial)
        if self.folder is not None:
            _write(trial, self.folder)

    def refit(self, trial: Trial) -> tuple[BPModule, int]:
        """Train a trial's network again on the training and validation rows, up to its best epoch; return it and that epoch.

        Raises:
            FloatingPointError: it diverges.
        """
        epochs = trial.best[1]
        module = self._module(trial, self.whole)
        size: Any = trial.shape[2]
        [learner] = train_together([Job(module, self.whole, self.data.seed)], epochs, None, None, size)
        if learner.diverged:
            raise FloatingPointError(f"trained again, the best trial diverged: {why_diverged(learner)}")
        self.whole.hparams["batch_size"] = size
        return module.eval(), epochs

    def save_best(self, path: Path) -> Trial | None:
        """Save the network of the best trial so far, if there is one, without training it again.

        Returns:
            That trial, or None.
        """
        best = min(self.trials, key=lambda trial: trial.best, default=None)
        if best is None or best.learner is None or best.learner.best_state is None or not isfinite(best.best[0]):
            return None
        module = self._module(best, self.data)
        take_learned(module, best.learner, best.learner.best_state)
        self.data.hparams["batch_size"] = best.shape[2]
        save_network(path, module.eval(), self.data, self.data.state_dict(), best.best[1])
        return best


def _refuse_beyond_memory(choices: Sequence[list[int]], data: RowsDataModule) -> None:
    """Refuse hidden layers that do not fit memory before the first trial, not hours later.

    Raises:
        MemoryError: there is such a choice.
    """
    for hidden in choices:
        sizes = [data.num_features, *hidden, data.num_outputs]
        try:
            refuse_beyond_memory(sizes, number_of_parameters(sizes))
        except MemoryError as error:
            raise MemoryError(f"space.hidden_sizes has {hidden}, so that {error}") from None


def _rungs(epochs: int) -> Iterator[int]:
    """The epochs after which trials are compared."""
    rung = 1
    while rung <= epochs:
        yield rung
        rung = ceil(rung * RUNGS)


def _write(trial: Trial, folder: Path) -> None:
    """Write a trial's cost curve and its row of TensorBoard's HPARAMS page."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    with SummaryWriter(str(folder / f"trial_{trial.trial.number}")) as writer:
        for summary in hparams(trial.values, {"cost/val": 0.0, "best cost/val": 0.0}):
            file_writer(writer).add_summary(summary)
        for epoch, cost in enumerate(trial.costs, 1):
            writer.add_scalar("cost/val", cost, epoch)
        writer.add_scalar("best cost/val", trial.best[0], trial.best[1])
