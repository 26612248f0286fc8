"""Modules trained side by side, each on the training rows of its own data; and the options of commands that do so."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import torch
from jsonargparse import ActionConfigFile, Namespace, set_parsing_settings
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.nn import functional as TF

from torchbp import equations as eq
from torchbp._text import without_passwords
from torchbp.data import RowsDataModule, TabularDataModule
from torchbp.fitting import Learner, Plan, fit_together
from torchbp.training._defaults import TABLE_DEFAULTS
from torchbp.training._jsonargparse import hide
from torchbp.training._module import BPModule
from torchbp.training.arguments import (
    ConfigurationParser,
    data_help,
    default_data_option,
    early_options,
    import_named_activations,
    refuse_file_as_class,
    section_options,
)

LINKED = {"num_features", "num_outputs", "task", "sequences"}  # from the data
# Settings of training with a Trainer, which is not used here: ignored in a configuration.
WITHOUT_USE = (
    "networks",
    "bootstrap",
    "engine",
    "steps_per_execution",
    "train_metrics",
    "cuda_graph",
    "lr_scheduler",
    "lr_scheduler_interval",
)
SEQUENCE_SETTINGS = ("pooling", "bidirectional", "bptt_steps")  # of a network that is not trained here


@dataclass
class Job:
    """A module to train on the training rows of ``data``; the validation rows choose its best epoch.

    Args:
        module: the module.
        data: its data.
        seed: the seed of the order of its rows, which is that of ``torchbp fit``.
    """

    module: BPModule
    data: RowsDataModule
    seed: int

    @property
    def bytes(self) -> int:
        """The maximum bytes of its features."""
        return 4 * len(self.data.rows) * self.data.num_features


class _Held:
    """The rows of all jobs, with equal features only once: a :class:`torchbp.fitting.Table`."""

    weight: Tensor | None = None

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.width = max(job.data.num_features for job in jobs)
        kept: list[Tensor] = []
        self.starts: list[int] = []
        for number, job in enumerate(jobs):
            if number and job.data.rows is jobs[number - 1].data.rows:
                self.starts.append(self.starts[-1])
                continue
            x, y = job.data.rows.all()
            x = TF.pad(x, (0, self.width - x.shape[1]))
            place = next((n for n, other in enumerate(kept) if x.equal(other)), len(kept))
            if place == len(kept):
                kept.append(x)
            self.starts.append(place * len(x))
        self._x = kept[0] if len(kept) == 1 else torch.cat(kept)
        if smoothing := jobs[0].module.label_smoothing:
            y = eq.smoothed(y, smoothing)
        self.y = y.repeat(len(kept), 1)

    def x(self, rows: Tensor) -> Tensor:
        return self._x.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)


def train_together(
    jobs: Sequence[Job],
    epochs: int,
    patience: int | None = None,
    on_epoch: Callable[[int, Sequence[Learner]], object] | None = None,
    batch_size: int | Literal["full"] | None = None,
    on_start: Callable[[Sequence[Learner]], object] | None = None,
) -> list[Learner]:
    """Train modules of one shape and batch size.

    Each then has the parameters of its best epoch, or of the last epoch if there are no validation rows. Inputs may differ in
    width, because each has its own categories: missing features are 0, and their weights stay 0.

    Args:
        jobs: the modules with their data.
        epochs: the maximum number of epochs.
        patience: a network ends when its cost on the validation rows has not fallen for this many epochs; None for never.
        on_epoch: as for :func:`torchbp.fitting.fit_together`.
        batch_size: replaces the data's.
        on_start: called with the learners before training.

    Returns:
        The learner of each job, with its results.

    Raises:
        ValueError: as for :func:`torchbp.fitting.fit_together`.
    """
    table = _Held(jobs)
    learners = [_learner(job, start, table.width) for job, start in zip(jobs, table.starts, strict=True)]
    if on_start is not None:
        on_start(learners)
    first, size = jobs[0].module, batch_size or jobs[0].data.batch_size
    longest = max(len(learner.rows) for learner in learners)
    validates = learners[0].held_out is not None
    plan = Plan(
        (table.width, *first.hparams["hidden_sizes"], first.hparams["num_outputs"]),
        first.entry.name,
        first.hparams["activation"],
        first.cost,
        longest if size == "full" else min(size, longest),
        epochs,
        first.hparams["activation_per_unit"],
        first.hparams["clip"],
        patience=None if patience is None else patience - 1,
        score="cost" if validates else None,
    )
    fit_together(learners, table, plan, on_epoch)
    for job, learner in zip(jobs, learners, strict=True):
        take_learned(job.module, learner, learner.state)
    return learners


def take_learned(module: BPModule, learner: Learner, state: Mapping[str, Tensor]) -> None:
    """Load a state and the learning rate of a learner into its module."""
    assert learner.lr is not None
    width = module.hparams["num_features"]
    module.network.load_state_dict({**state, "layers.0.weight": state["layers.0.weight"][:, :width]})
    module.lr = module.hparams["lr"] = learner.lr


def why_diverged(learner: Learner) -> str:
    """Why a learner diverged, in words."""
    if learner.lr is None or not isfinite(learner.lr):
        return "its cost has no curvature at the start, or is not finite; set --model.lr"
    return f"its cost was {learner.costs[-1]} in epoch {len(learner.costs)}, lr {learner.lr:.3g}; a smaller --model.lr may help"


def _learner(job: Job, start: int, width: int) -> Learner:
    module, (train, val) = job.module, (job.data.split_numbers(part) for part in ("train", "val"))
    state = {name: value.detach().clone() for name, value in module.network.state_dict().items()}
    more = width - job.data.num_features
    state["layers.0.weight"] = TF.pad(state["layers.0.weight"], (0, more))
    scaling = TF.pad(module.input_scaling.mean, (0, more)), TF.pad(module.input_scaling.scale, (0, more), value=1.0)
    target = module.target_scaling
    return Learner(
        state,
        start + train,
        lr=None if module.lr == "auto" else float(module.lr),
        held_out=start + val if len(val) else None,
        scaling=scaling,
        target_scaling=None if target is None else (target.mean, target.scale),
        target_weight=module.class_weight,
        pos_weight=module.pos_weight,
        lr_factor=module.lr_factor,
        order_seed=job.seed,
    )


def made_module(options: Namespace, data: RowsDataModule, seed: int, **changes: Any) -> BPModule:
    """A module for the data, with initial weights from ``seed``; scaling and balanced weights are from the training rows."""
    arguments = {name: value for name, value in vars(options.model).items() if name not in WITHOUT_USE}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = BPModule(data.num_features, data.num_outputs, task=data.task, **{**arguments, **changes})
    module.fit_scaling(data)
    return module


class _Parser(ConfigurationParser):
    def dump(self, cfg: Namespace, *args: Any, **options: Any) -> str:
        """As jsonargparse's, for ``--print_config``, without the password of a ``--storage``."""
        if cfg.get("storage"):
            cfg = cfg.clone()
            cfg.storage = without_passwords(cfg.storage)
        return super().dump(cfg, *args, **options)


def parser_of(command: str, description: str) -> ConfigurationParser:
    """A parser with the options of ``fit`` for data, model and length of training."""
    set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_allowlist=[])
    parser = _Parser(prog=f"torchbp {command}", description=description)
    parser.add_argument("--config", "-c", action=ActionConfigFile, help="A file of options, such as a run's config.yaml.")
    parser.add_argument("--seed_everything", type=NonNegativeInt, default=0, help="The seed of the initial weights.")
    parser.add_class_arguments(BPModule, "model", fail_untyped=False, instantiate=False, sub_configs=True, skip=LINKED)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True)
    parser.set_defaults({"trainer.max_epochs": 100, "model.engine": "auto"})
    help = "A network ends when its cost on the validation rows has not fallen for this many epochs."
    parser.add_argument("--patience", type=PositiveInt | None, help=help)
    for name in ("every_epoch", "ckpt_path"):  # a run's own config.yaml has them
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    hide(parser, _is_without_use)
    return parser


def _is_without_use(option: str) -> bool:
    group, _, name = option.partition(".")
    if group == "trainer":
        return name != "max_epochs"
    return group == "model" and name.split(".")[0] in (*WITHOUT_USE, *SEQUENCE_SETTINGS)


def parsed(parser: ConfigurationParser, args: Sequence[str], defaults: Sequence[str] = ()) -> Namespace:
    """The options, with the defaults for tables and with the data module made from its options.

    Raises:
        ValueError: the data module is not one of torchbp.data, or its rows are sequences.
    """
    import_named_activations(args)
    early = early_options(args)
    refuse_file_as_class(parser, early.data)
    if early.help:
        parser.more_help = data_help(with_sequences=False)
    elif not (early.path or early.data or early.config):
        parser.error("there are no data; set --data.path FILE --data.target COLUMN, or --config FILE")
    kind = default_data_option(args)
    if kind and not early.config:
        kind += [part for name, value in TABLE_DEFAULTS.items() for part in (f"--{name}", value)]
    options = parser.parse_args([*kind, *defaults, *args])
    for name in (*section_options(args, "trainer") - {"max_epochs"}, *section_options(args, "model") & {*WITHOUT_USE}):
        parser.error(f"{name} is for torchbp fit; networks side by side are trained without a Trainer, by the fused engine")
    epochs = options.trainer.max_epochs
    if epochs is None or epochs < 1:
        parser.error(f"max_epochs is {epochs}; it must be 1 or more")
    if options.model.lr_scheduler is not None:
        parser.error("lr_scheduler is for torchbp fit; networks side by side keep their learning rate")
    if options.model.networks is not None:
        parser.error("networks is for torchbp fit; here each fold or trial has one")
    named = options.data
    options = parser.instantiate_classes(options)
    options.named = Namespace(data=named)  # as given
    if not isinstance(options.data, RowsDataModule):
        raise ValueError(f"data is {type(options.data).__name__}; it must be one of torchbp.data")
    if options.data.sequences:
        raise ValueError("the data are sequences, which torchbp fit trains on; networks side by side are trained on rows")
    return options


def refuse_other_splits(data: RowsDataModule, options: Sequence[str]) -> None:
    """Refuse options that split the data: here they are split anew.

    Raises:
        ValueError: such an option is given.
    """
    if isinstance(data, TabularDataModule):
        chosen = {"split": data.split, "val_path": data.other_paths["val"], "test_path": data.other_paths["test"]}
        for name in options:
            if chosen.get(name):
                raise ValueError(f"{name} is {chosen[name]!r}; here the rows are split anew: leave {name} out")
