"""The trials of a search: asked from a study of Optuna, trained side by side, told to it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import Namespace

from torchbp._pytorch import file_writer
from torchbp.data import RowsDataModule
from torchbp.data.progress import progress
from torchbp.fitting import Learner
from torchbp.training._module import BPModule
from torchbp.training._space import Space
from torchbp.training._together import Job, made_module, train_together

if TYPE_CHECKING:
    import optuna

RUNGS = 1.3  # trials are compared after epochs that grow by this: a shared study is asked each time
JUDGED_BY = ("cost", "output", "pos_weight", "class_weight", "label_smoothing")  # what a cost means, beside the rows
SEARCHED = ("hidden_sizes", "activation", "batch_size", "lr_factor", "init_scale")

Shape = tuple[str, str, int]  # hidden_sizes as JSON, activation, batch_size


@dataclass
class Trial:
    """One of Optuna's trials, and what became of it."""

    trial: "optuna.Trial"
    shape: Shape
    lr_factor: float
    init_scale: float
    learner: Learner | None = None
    pruned: bool = False
    told: tuple[float, int] | None = None  # its best, where another process has trained it

    @property
    def costs(self) -> list[float]:
        """Of the rows to validate on, epoch by epoch."""
        return [-score for score in self.learner.scores] if self.learner else []

    @property
    def best(self) -> tuple[float, int]:
        """The lowest cost, and the epoch, from 1, that had it; of a network that diverged, infinity."""
        if self.told or (self.learner and self.learner.diverged):
            return self.told or (inf, 0)
        return min(zip(self.costs, range(1, len(self.costs) + 1), strict=True), default=(inf, 0))

    @property
    def values(self) -> dict[str, Any]:
        """What was tried, and the learning rate that it came to."""
        sizes, activation, batch_size = self.shape
        tried = {"hidden_sizes": sizes, "activation": activation, "batch_size": batch_size, "init_scale": self.init_scale}
        return {**tried, "lr": self.learner.lr if self.learner and self.learner.lr else self.lr_factor}


class Search:
    """Trials of a study, shape by shape.

    Args:
        options: of the command line.
        data: whose rows are trained and validated on.
        said: the names of the options that are said, which are not searched for.

    Attributes:
        folder: of TensorBoard's files; None for none.
        whole: the data with the rows to validate on among those to train on.
    """

    folder: Path | None = None

    def __init__(self, options: Namespace, data: RowsDataModule, said: set[str]) -> None:
        self.options, self.data, self.said = options, data, said
        self.space: Space = options.space
        if "lr" in said:
            self.said = {*said, "lr_factor"}
        self.study = _study(options)
        self._refuse_other_study()
        self.waiting: dict[Shape, list[Trial]] = {}
        part_of = torch.full((len(data.rows),), 255, dtype=torch.uint8)
        for part, number in (("train", 0), ("val", 0), ("test", 2)):
            part_of[data.split_numbers(part)] = number  # type: ignore[arg-type]
        self.whole = data.with_parts(part_of)

    def run(self) -> list[Trial]:
        """Try as many as are asked for.

        Raises:
            FloatingPointError: each of them diverged.
        """
        trials: list[Trial] = []
        with progress("trials", self.options.trials) as done:
            while len(trials) < self.options.trials:
                trials += self._side_by_side(min(self.options.side_by_side, self.options.trials - len(trials)))
                done(len(trials))
        for left in chain.from_iterable(self.waiting.values()):
            self._tell(left)
        if not any(isfinite(trial.best[0]) for trial in trials):
            raise FloatingPointError(f"each of {len(trials)} trials diverged; say a lower --space.lr_factor")
        return trials

    def _side_by_side(self, count: int) -> list[Trial]:
        """Trials of one shape."""
        shape = next((shape for shape, waiting in self.waiting.items() if waiting), None)
        trials = self.waiting.pop(shape, []) if shape else [self._ask(None)]
        shape = trials[0].shape
        while len(trials) < count:
            trial = self._ask(shape)
            if trial.shape != shape:  # another process has taken what was meant for this one
                self.waiting.setdefault(trial.shape, []).append(trial)
                break
            trials.append(trial)
        self._train(trials)
        for trial in trials:
            self._tell(trial)
        return trials

    def _ask(self, shape: Shape | None) -> Trial:
        """A new trial; with a shape, of that."""
        if shape is not None:
            of_shape = zip(SEARCHED, shape, strict=False)
            self.study.enqueue_trial({name: value for name, value in of_shape if name not in self.said})
        trial, space, said = self.study.ask(), self.space, self._said()
        for name, values in self._choices().items():
            if name not in said:
                trial.suggest_categorical(name, values)
        for name, ends in (("lr_factor", space.lr_factor), ("init_scale", space.init_scale)):
            if name not in said:
                trial.suggest_float(name, *ends, log=True)
        return _of(trial, {**said, **trial.params})

    def _choices(self) -> dict[str, list[Any]]:
        space = self.space
        return {
            "hidden_sizes": [json.dumps(sizes) for sizes in space.hidden_sizes],
            "activation": [json.dumps(name) for name in space.activation],
            "batch_size": list(space.batch_size),
        }

    def _refuse_other_study(self) -> None:
        """Refuse to go on with a study whose costs are of other rows or another cost, or whose choices are others.

        Raises:
            ValueError: it is such a study.
        """
        study, model = self.study, self.options.model
        where = f"the study {self.options.study!r} in {self.options.storage}"
        judged = hashlib.sha256(self.data.split_rows("val").only(1).all()[0].numpy().tobytes())
        judged.update(repr([model[name] for name in JUDGED_BY]).encode())
        if study.user_attrs.get("judged_on", judged.hexdigest()) != judged.hexdigest():
            raise ValueError(f"{where} is of other rows to validate on or of another cost; say another --study")
        for trial in study.get_trials(deepcopy=False):
            for name, values in self._choices().items():
                known = getattr(trial.distributions.get(name), "choices", tuple(values))
                if name not in self.said and known != tuple(values):
                    raise ValueError(f"{where} chooses {name} from {list(known)}; say --space.{name} so, or another --study")
        study.set_user_attr("judged_on", judged.hexdigest())

    def _said(self) -> dict[str, Any]:
        """What the options say that is not searched for, as the study would have it."""
        model = self.options.model
        own = {
            "hidden_sizes": json.dumps(list(model.hidden_sizes)),
            "activation": json.dumps(model.activation),
            "batch_size": self.data.batch_size,
            "lr_factor": model.lr_factor,
        }
        return {name: value for name, value in own.items() if name in self.said}

    def others(self) -> list[Trial]:
        """The study's best trial, which another process may have had, or a run before this one."""
        from optuna.trial import TrialState

        searched, said = {*SEARCHED} - self.said, self._said()
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        complete = [trial for trial in complete if "epoch" in trial.user_attrs and trial.params.keys() == searched]
        if not complete:
            return []
        best = min(complete, key=lambda trial: trial.value or inf)
        return [_of(best, {**said, **best.params}, (best.value or inf, int(best.user_attrs["epoch"])))]

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
        jobs = [Job(self._module(trial, self.data), self.data, self.data.seed) for trial in trials]
        rungs, epochs = [0], self.options.trainer.max_epochs
        of_learner: dict[int, Trial] = {}

        def on_epoch(number: int, learners: Sequence[Learner]) -> None:
            if number < rungs[-1] * RUNGS:
                return
            rungs.append(number)
            for learner in learners:
                trial = of_learner[id(learner)]
                if learner.diverged:
                    continue
                trial.trial.report(-learner.scores[-1], number)
                if number < epochs and trial.trial.should_prune():
                    learner.ended = trial.pruned = True

        def on_start(learners: Sequence[Learner]) -> None:
            for trial, learner in zip(trials, learners, strict=True):
                trial.learner = learner
                of_learner[id(learner)] = trial

        size: Any = trials[0].shape[2]
        train_together(jobs, epochs, self.options.patience, on_epoch, size, on_start)

    def _tell(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        value, epoch = trial.best
        trial.trial.set_user_attr("epoch", epoch)
        if trial.pruned:
            self.study.tell(trial.trial, state=TrialState.PRUNED)
        elif isfinite(value):
            self.study.tell(trial.trial, value)
        else:
            self.study.tell(trial.trial, state=TrialState.FAIL)
        if self.folder is not None:
            self._write(trial, self.folder)

    def _write(self, trial: Trial, folder: Path) -> None:
        """A trial's curve, and its line in TensorBoard's HPARAMS."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        with SummaryWriter(str(folder / f"trial_{trial.trial.number}")) as writer:
            for summary in hparams(trial.values, {"cost/val": 0.0, "best cost/val": 0.0}):
                file_writer(writer).add_summary(summary)
            for epoch, cost in enumerate(trial.costs, 1):
                writer.add_scalar("cost/val", cost, epoch)
            writer.add_scalar("best cost/val", trial.best[0], trial.best[1])

    def refit(self, trial: Trial) -> tuple[BPModule, int]:
        """The best trial's network, trained anew on the rows to train and to validate on, for as many epochs as were best.

        Raises:
            FloatingPointError: it diverges on these.
        """
        epochs = trial.best[1]
        module = self._module(trial, self.whole)
        size: Any = trial.shape[2]
        [learner] = train_together([Job(module, self.whole, self.data.seed)], epochs, None, None, size)
        if learner.diverged:
            raise FloatingPointError(
                f"trained again, the best trial's cost is {learner.costs[-1]} in epoch {len(learner.costs)}, "
                f"with lr {learner.lr:.3g}"
            )
        self.whole.hparams["batch_size"] = size
        return module.eval(), epochs


def _of(trial: Any, values: Mapping[str, Any], told: tuple[float, int] | None = None) -> Trial:
    shape = values["hidden_sizes"], values["activation"], values["batch_size"]
    return Trial(trial, shape, values["lr_factor"], values["init_scale"], told=told)


def _study(options: Namespace) -> "optuna.Study":
    import optuna

    pruners: dict[str, Any] = {
        "median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=min(5, options.trainer.max_epochs)),
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }
    try:
        study = optuna.create_study(storage=options.storage, study_name=options.study, load_if_exists=True)
    except Exception as error:  # of whatever keeps the storage
        text = (str(error).splitlines() or [""])[0]
        raise ValueError(f"storage is {options.storage}; Optuna cannot open it ({type(error).__name__}: {text})") from None
    kind: Any = optuna.samplers.TPESampler if options.sampler == "tpe" else optuna.samplers.RandomSampler
    study.sampler = kind(seed=options.seed_everything + len(study.trials))  # of another process's trials not the same again
    study.pruner = pruners[options.pruner]()
    return study
