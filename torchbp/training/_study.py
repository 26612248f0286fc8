"""The search's Optuna study: proposes trials, and records their results."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isfinite, prod
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from torchbp._interrupts import uninterrupted
from torchbp.data import RowsDataModule
from torchbp.fitting import Learner
from torchbp.training._space import MAX_FACTOR, Space

if TYPE_CHECKING:
    import optuna

JUDGED_BY = ("cost", "output", "pos_weight", "class_weight", "label_smoothing")  # settings that change the cost
CHOSEN = ("hidden_sizes", "activation", "batch_size")
DRAWN = ("lr_factor", "init_scale")
Shape = tuple[str, str, int]  # hidden_sizes and activation as JSON, batch_size


@dataclass
class Trial:
    """One of Optuna's trials, with its result.

    Attributes:
        trial: Optuna's trial.
        shape, lr_factor, init_scale: its values in the :class:`Space`.
        learner: its network, in or after training.
        pruned: whether it was ended early.
        of_other: its lowest cost and that epoch, if another process or an earlier search has trained it.
    """

    trial: "optuna.Trial"
    shape: Shape
    lr_factor: float
    init_scale: float
    learner: Learner | None = None
    pruned: bool = False
    of_other: tuple[float, int] | None = None

    @property
    def costs(self) -> list[float]:
        """The cost of the validation rows after each epoch."""
        return [-score for score in self.learner.scores] if self.learner else []

    @property
    def best(self) -> tuple[float, int]:
        """The lowest cost, and its epoch, from 1; infinity and 0 if the network diverged or has no epoch."""
        if self.of_other or (self.learner and self.learner.diverged):
            return self.of_other or (inf, 0)
        return min(zip(self.costs, range(1, len(self.costs) + 1), strict=True), default=(inf, 0))

    @property
    def values(self) -> dict[str, Any]:
        """The values that were tried, with the learning rate, or ``lr_factor`` before it is known."""
        sizes, activation, batch_size = self.shape
        tried = {"hidden_sizes": sizes, "activation": activation, "batch_size": batch_size, "init_scale": self.init_scale}
        return {**tried, "lr": self.learner.lr if self.learner and self.learner.lr else self.lr_factor}


class Study:
    """A study that several processes may share.

    Args:
        options: the options of the command line.
        data: the data; the cost of its validation rows compares the trials.
        said: the names of the options that the user gives; they are not searched for.

    Raises:
        ValueError: the storage cannot be opened, or holds a study of other rows, another cost or another space.
    """

    def __init__(self, options: Namespace, data: RowsDataModule, said: set[str]) -> None:
        self.options, self.space = options, options.space
        self.where = f"the study {options.study!r} in {without_password(options.storage)}"
        self._open: list[optuna.Trial] = []  # trials that have not ended
        model, said = options.model, {*said, "lr_factor"} if "lr" in said else said
        own = {
            "hidden_sizes": json.dumps(list(model.hidden_sizes)),
            "activation": json.dumps(model.activation),
            "batch_size": data.batch_size,
            "lr_factor": model.lr_factor,
        }
        self._said: dict[str, Any] = {name: value for name, value in own.items() if name in said}
        self._choices = _choices(options.space, said)
        self._study = _opened(options)
        self._refuse_other(data)

    @property
    def shapes(self) -> int:
        """The number of different shapes that trials may have."""
        return prod(map(len, self._choices.values()))

    def ask(self, shape: Shape | None = None) -> Trial:
        """A new trial; with ``shape``, a trial of this shape, unless another process takes it.

        Raises:
            ValueError: the storage proposes a value outside the space.
        """
        with uninterrupted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of a value out of range, which is refused below
            if shape is not None:
                of_shape = dict(zip(CHOSEN, shape, strict=True))
                self._study.enqueue_trial({name: of_shape[name] for name in self._choices})
            asked = self._study.ask()
            self._open.append(asked)
            try:
                for name, values in self._choices.items():
                    asked.suggest_categorical(name, values)
                for name in DRAWN:
                    if name not in self._said:
                        asked.suggest_float(name, *getattr(self.space, name), log=True)
            except ValueError as error:
                raise ValueError(f"{self.where} has a trial that is not in --space ({error}); set another --study") from None
            self._refuse_strange(asked)
            return Trial(asked, *self._taken(asked.params))

    def is_behind(self, trial: Trial) -> bool:
        """Report the cost after a trial's latest epoch; return whether the pruner would end the trial."""
        assert trial.learner is not None
        with uninterrupted():
            trial.trial.report(-trial.learner.scores[-1], len(trial.learner.scores))
            return trial.trial.should_prune()

    def tell(self, trial: Trial) -> None:
        """Record the result of a trial."""
        from optuna.trial import TrialState

        value, epoch = trial.best
        with uninterrupted():
            trial.trial.set_user_attr("epoch", epoch)
            if trial.pruned:
                self._end(trial.trial, TrialState.PRUNED)
            elif isfinite(value):
                self._end(trial.trial, TrialState.COMPLETE, value)
            else:
                self._end(trial.trial, TrialState.FAIL)

    def give_up(self) -> None:
        """Record all trials that have not ended as failed."""
        from optuna.trial import TrialState

        with uninterrupted():
            while self._open:
                self._end(self._open[0], TrialState.FAIL)

    def _end(self, trial: "optuna.Trial", state: Any, value: float | None = None) -> None:
        self._study.tell(trial, value, state)
        self._open.remove(trial)

    def best_of_others(self) -> list[Trial]:
        """The best complete trial of the study, from any process, as a list; empty if there is none."""
        from optuna.trial import TrialState

        known = {*self._choices, *(name for name in DRAWN if name not in self._said)}
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = [trial for trial in trials if trial.params.keys() == known and self._problem(trial) is None]
        trials = [trial for trial in trials if trial.user_attrs.get("epoch") and isfinite(trial.value or 0)]
        if not trials:
            return []
        best: Any = min(trials, key=lambda trial: trial.value or 0)
        return [Trial(best, *self._taken(best.params), of_other=(best.value, best.user_attrs["epoch"]))]

    def _taken(self, params: Mapping[str, Any]) -> tuple[Shape, float, float]:
        """Shape, lr_factor and init_scale, from a trial's parameters and the options that are given."""
        values = {**self._said, **params}
        return (values["hidden_sizes"], values["activation"], values["batch_size"]), values["lr_factor"], values["init_scale"]

    def _refuse_other(self, data: RowsDataModule) -> None:
        """Refuse to continue a study of other validation rows, another cost or another space.

        Raises:
            ValueError: it is such a study, or has trials that no search has written.
        """
        from optuna.study import StudyDirection

        study, model = self._study, self.options.model
        judged = hashlib.sha256(data.split_rows("val").only(1).all()[0].numpy().tobytes())
        judged.update(repr([model[name] for name in JUDGED_BY]).encode())
        if study.user_attrs.get("judged_on", judged.hexdigest()) != judged.hexdigest():
            raise ValueError(f"{self.where} has other validation rows or another cost; set another --study")
        if study.directions != [StudyDirection.MINIMIZE]:
            raise ValueError(f"{self.where} does not minimize; set another --study")
        for trial in study.get_trials(deepcopy=False):
            for name, values in self._choices.items():
                known = getattr(trial.distributions.get(name), "choices", values)
                if known != values:
                    raise ValueError(
                        f"{self.where} chooses {name} from {list(known)}; set --space.{name} to these, or another --study"
                    )
            self._refuse_strange(trial)
            costs = [*(trial.values or ()), *trial.intermediate_values.values()]
            if strange := [cost for cost in costs if not isinstance(cost, float)]:
                raise ValueError(
                    f"{self.where}: trial {trial.number} has the cost {strange[0]!r}, not a number; set another --study"
                )
        study.set_user_attr("judged_on", judged.hexdigest())

    def _refuse_strange(self, trial: Any) -> None:
        """Refuse a trial that no search of this space can have written.

        Raises:
            ValueError: it is such a trial.
        """
        if problem := self._problem(trial):
            raise ValueError(f"{self.where}: trial {trial.number} has {problem}; set another --study")

    def _problem(self, trial: Any) -> str | None:
        """What is wrong with a trial in the storage, in words; None if nothing is."""
        from optuna.distributions import FloatDistribution

        for name, value in trial.params.items():
            of = trial.distributions[name]
            if name in self._choices:
                if not any(type(value) is type(one) and value == one for one in self._choices[name]):
                    return f"{name} {value!r}; it must be one of {list(self._choices[name])}"
            elif name in DRAWN and not (isinstance(of, FloatDistribution) and of.log and _is_factor(value)):
                return f"{name} {value!r}; it must be above 0 and at most {MAX_FACTOR:g}, and drawn on a logarithmic scale"
        epoch, most = trial.user_attrs.get("epoch", 0), self.options.trainer.max_epochs
        if type(epoch) is not int or not 0 <= epoch <= most:
            return f"{epoch!r} as its best epoch; it must be from 0 to trainer.max_epochs, {most}"
        return None


def without_password(storage: str | None) -> str:
    """A storage's URL as it may be shown: without its password, and without its query, which may hold one too."""
    if storage is None:
        return "memory"
    from sqlalchemy.engine import make_url  # Optuna requires it
    from sqlalchemy.exc import ArgumentError

    scheme, found, _ = storage.partition("://")
    with suppress(ArgumentError, ValueError):
        if storage.count("@") < 2:  # a password with an @ would be cut in two
            return make_url(storage).set(query={}).render_as_string(hide_password=True)
    return f"{scheme}://***" if found else storage


def _is_factor(value: Any) -> bool:
    return type(value) is float and 0 < value <= MAX_FACTOR


def _choices(space: Space, said: set[str]) -> dict[str, tuple[Any, ...]]:
    choices: dict[str, tuple[Any, ...]] = {
        "hidden_sizes": tuple(json.dumps(sizes) for sizes in space.hidden_sizes),
        "activation": tuple(json.dumps(name) for name in space.activation),
        "batch_size": tuple(space.batch_size),
    }
    return {name: values for name, values in choices.items() if name not in said}


def _opened(options: Namespace) -> "optuna.Study":
    import optuna

    pruners: dict[str, Any] = {
        "median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=min(5, options.trainer.max_epochs)),
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }
    try:
        study = optuna.create_study(storage=options.storage, study_name=options.study, load_if_exists=True)
        trials = study.get_trials(deepcopy=False)
    except Exception as error:  # anything that the storage's library raises
        shown = without_password(options.storage)
        text = (str(error).splitlines() or [""])[0].replace(str(options.storage), shown)
        raise ValueError(
            f"storage is {shown}; Optuna cannot open it ({type(error).__name__}: {text}); for a file, say "
            "--storage sqlite:///study.db"
        ) from None
    kind: Any = optuna.samplers.TPESampler if options.sampler == "tpe" else optuna.samplers.RandomSampler
    study.sampler = kind(seed=options.seed_everything + len(trials))  # so that processes propose different trials
    study.pruner = pruners[options.pruner]()
    return study
