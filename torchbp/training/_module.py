"""The LightningModule: network, cost and plain gradient descent."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from typing_extensions import Self

from torchbp import equations as eq
from torchbp.blocks import automatic_steps
from torchbp.data.rows import targets
from torchbp.nn import Standardize
from torchbp.outputs import OUTPUTS, output_for
from torchbp.recurrence import told
from torchbp.tasks import Task, check_task
from torchbp.training._budget import Budget, sees_costs_alone
from torchbp.training._class_weights import balanced_classes, balanced_positives, weight_of_each
from torchbp.training._ensemble import bootstrap, cost_of_mean, refuse_networks
from torchbp.training._epoch_metrics import EpochRows
from torchbp.training._evaluation import Collected
from torchbp.training._finite import where_not_finite
from torchbp.training._fused import (
    FusedEngine,
    optimizer_obstacle,
    refuse_obstacle,
    step_watcher,
    trainer_obstacle,
    updates_ahead,
)
from torchbp.training._in_time import network_of, refuse_bptt_steps, step_by_parts
from torchbp.training._lr import find_lr, refuse_lr
from torchbp.training._metrics import SplitMetrics, metrics_of
from torchbp.training._schedule import refuse_failing
from torchbp.training._threshold import DEFAULT, best_threshold, refuse_threshold

ENGINES = ("autograd", "fused")  # between which auto chooses
MAX_LAYERS = 1000  # hidden ones


class BPModule(LightningModule):
    """The text's network, trained by backpropagation and gradient descent, W ← W - α ∂L/∂W (equation 3.2g).

    Batches are ``(x, y)``: x (B, num_features), y (B, num_outputs) with values in [0, 1] for classes, one column a class; or
    ``(x, y, weight)`` with a weight (B) for the cost of each row.
    Called on x, it gives predictions (B, num_outputs): the outputs' activations, or values in the target's units.

    Args:
        num_features: n0, the width of x.
        num_outputs: nL, the width of y.
        hidden_sizes: the widths of the layers between; empty for none.
        task: ``binary`` and ``multilabel`` have a sigmoid for each output, ``multiclass`` has softmax outputs, ``regression``
            has linear outputs and a target that is standardised while it trains.
        cost: ``cross_entropy`` (equations 3.1c and 4.2; the default for classes) or ``squared_error`` (3.1a; for regression).
        output: the activation of the last layer where it is not the task's own: ``sigmoid`` gives each class of ``multiclass``
            a sigmoid, one class against the rest.
        activation: of the hidden layers, one for all or a list of one each: a name of :mod:`torchbp.activations`, or
            ``package.module:name`` for one of your own.
        activation_per_unit: whether each unit learns the parameters of its activation for itself.
        lr: the learning rate α; ``auto`` takes 1/λ, λ the largest eigenvalue of the cost's Hessian at the start, by
            :func:`torchbp.curvature.lr_from_curvature` of the first batches to train on. What was found takes the place of
            ``auto`` in the hyperparameters, and with them in checkpoints.
        lr_factor: what the learning rate that ``auto`` finds is multiplied by.
        clip: so many deviations from the mean are the most that an input counts as, where inputs are standardised; None for no
            limit. Columns with a few very large values do not upset the rest then.
        pos_weight: multiplies the cross-entropy's term of the positive class, y ln a, of every output, or of each by a list;
            ``balanced`` takes each output's negatives by its positives in the training split, so that both count alike.
        class_weight: multiplies softmax's cross-entropy by the weight of the row's class, a list of one each; ``balanced``
            takes N / (C n_c) of the training split's rows.
        label_smoothing: the share of softmax's targets that is spread evenly over all classes.
        threshold: of two classes the positive one is predicted where its probability is above this number, 0.5 for None; ``f1``
            chooses it on the validation rows, epoch by epoch, for the highest F1, ``miss:R`` for the least cost there if a
            missed positive costs R false alarms. Checkpoints have the number.
        init: ``glorot`` or ``normal``, as in :class:`torchbp.nn.BPNetwork`; for sequences also ``orthogonal``, as in
            :class:`torchbp.nn.RecurrentNetwork`.
        sequences: None where x are rows. Else x is (B, T, num_features), NaN after a sequence's end, and y is of the ``last``
            step, (B, num_outputs), or of ``each``, (B, T, num_outputs), and hidden layers are recurrent. The data say which.
        pooling: of sequences with one target, whether it is predicted from the ``last`` state or from the ``mean`` of all.
        bidirectional: whether sequences are read from the end too, by as many units.
        bptt_steps: of sequences with a target at each step, after how many steps one of gradient descent is taken; the error
            goes no further back than these (truncated backpropagation through time), the states are carried on.
        lr_scheduler: what makes a scheduler of the optimizer; none keeps α constant.
        lr_scheduler_interval: whether the scheduler is stepped once an ``epoch`` or at every ``step``.
        engine: ``autograd`` trains by the autograd Functions and ``torch.optim.SGD``, ``fused`` by
            :class:`torchbp.descent.Descent`, many times faster on small networks; the parameters are the same. ``auto`` is
            fused where that can do what the run asks, and no callback is told of every step; else autograd. ``compiled`` is
            fused with up to 32 steps compiled as one function, for long runs of small networks; it needs a C++ compiler.
        steps_per_execution: how many steps the fused engine takes in one ``training_step``, which is all that callbacks see of
            them; None for as many as take about a tenth of a second. Epochs, ``max_steps``, validation and checkpoints come
            after the very step that they are asked for, whatever this is.
        train_metrics: whether accuracy and the like are computed of the training split too, besides its cost; what they cost
            is felt where an epoch takes milliseconds.
        cuda_graph: whether the fused engine replays its step as a CUDA graph.
        networks: so many networks, which differ by their initial weights, are trained side by side by the fused engine; the
            prediction is the mean of theirs, and the cost that of the prediction. One that diverges is left out. None for one.
        bootstrap: whether each of them has rows of its own, drawn with replacement: a row counts as often as it is drawn.

    Raises:
        ValueError: an argument outside what is said above; a Trainer that asks the fused engine for what it cannot do.
        FloatingPointError: while training, when the cost or a parameter is no longer finite.
    """

    pos_weight: Tensor | None
    class_weight: Tensor | None
    kept: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        hidden_sizes: Sequence[int] = (16,),
        task: Task = "binary",
        cost: str | None = None,
        output: str | None = None,
        activation: str | list[str] = "sigmoid",
        activation_per_unit: bool = False,
        lr: float | Literal["auto"] = "auto",
        lr_factor: float = 1.0,
        clip: float | None = None,
        pos_weight: float | list[float] | Literal["balanced"] | None = None,
        class_weight: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        threshold: float | str | None = None,
        init: Literal["glorot", "normal", "orthogonal"] = "glorot",
        sequences: Literal["last", "each"] | None = None,
        pooling: Literal["last", "mean"] = "last",
        bidirectional: bool = False,
        bptt_steps: int | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        engine: Literal["auto", "autograd", "fused", "compiled"] = "autograd",
        steps_per_execution: int | None = None,
        train_metrics: bool = True,
        cuda_graph: bool = False,
        networks: int | None = None,
        bootstrap: bool = False,
    ) -> None:
        super().__init__()
        check_task(task)
        entry = output_for(task, cost, output)
        refuse_lr(lr)
        for option, limit in (("lr_factor", lr_factor), ("clip", clip)):
            if limit is not None and not 0 < limit < inf:
                raise ValueError(f"{option} is {limit}; it must be a finite number above 0")
        if pos_weight is not None:
            entry.check_pos_weight()
        of_classes = entry is OUTPUTS["cross_entropy", "softmax"]
        if not of_classes and (class_weight is not None or label_smoothing):
            name, value = ("class_weight", class_weight) if class_weight is not None else ("label_smoothing", label_smoothing)
            raise ValueError(f"{name} is {value}; it is for softmax outputs, here they are {entry.name}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")
        refuse_threshold(threshold, task)
        refuse_bptt_steps(bptt_steps, sequences, bidirectional)
        if engine not in ("auto", *ENGINES, "compiled"):
            raise ValueError(f"engine is {engine!r}; it must be one of auto, {', '.join(ENGINES)}, compiled")
        if steps_per_execution is not None and (engine == "autograd" or steps_per_execution < 1):
            raise ValueError(
                f"steps_per_execution is {steps_per_execution}; it must be 1 or more, and is for engine: fused only"
            )
        if cuda_graph and engine in ("autograd", "compiled"):
            raise ValueError(f"cuda_graph is for engine: fused only, here engine is {engine}")
        refuse_networks(networks, bootstrap, engine, cuda_graph, sequences)
        if sequences is not None and (cuda_graph or engine == "compiled"):
            raise ValueError(f"{'cuda_graph' if cuda_graph else 'engine: compiled'} is for rows; here sequences is {sequences}")
        if lr_scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"lr_scheduler_interval is {lr_scheduler_interval!r}; it must be 'epoch' or 'step'")
        hidden_sizes = list(hidden_sizes)
        if len(hidden_sizes) > MAX_LAYERS:
            raise ValueError(f"hidden_sizes has {len(hidden_sizes)} layers; at most {MAX_LAYERS} are allowed")
        self.save_hyperparameters(ignore=["lr_scheduler"], logger=False)
        self.hparams.update(hidden_sizes=hidden_sizes, cost=entry.cost, output=entry.name)
        self.task, self.cost = task, entry.cost
        self.engine: str = engine  # in a run that which it has, and where that is autograd by auto, why
        self.obstacle: str | None = None
        self.lr, self.lr_factor, self.lr_was_found = lr, lr_factor, False
        self.threshold_rule = threshold if isinstance(threshold, str) else None
        self.threshold = DEFAULT if threshold is None or isinstance(threshold, str) else threshold
        self._to_choose_by: Collected | None = None  # predictions of the validation rows, in fit
        self.entry, self.label_smoothing = entry, label_smoothing
        self.lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        self.steps_per_execution, self.cuda_graph = steps_per_execution, cuda_graph
        self.train_metrics, self.keep_gradients, self.bptt_steps = train_metrics, False, bptt_steps
        # For metrics besides the cost; None for those of every epoch.
        self.budget: Budget | None = None
        self.register_buffer("pos_weight", weight_of_each("pos_weight", pos_weight, num_outputs))
        self.register_buffer("class_weight", weight_of_each("class_weight", class_weight, num_outputs))
        self.register_buffer("kept", None if networks is None else torch.ones(networks))  # 0 for one that has diverged
        sizes = [num_features, *hidden_sizes, num_outputs]
        try:
            how = activation, activation_per_unit, sequences, pooling, bidirectional, networks
            self.network = network_of(sizes, entry, init, *how)
        except MemoryError as error:
            raise MemoryError(f"hidden_sizes is {hidden_sizes}, so that {error}") from None
        self.input_scaling = Standardize(num_features, clip)
        self.target_scaling = Standardize(num_outputs) if task == "regression" and entry.takes_any else None
        self.metrics = nn.ModuleDict(
            {f"{split}_metrics": metrics_of(task, num_outputs, split, self.threshold) for split in ("train", "val", "test")}
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **arguments: Any) -> Self:  # type: ignore[override]
        """The network of a checkpoint, on the CPU; ``arguments`` are those of the class that are to differ.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is no checkpoint, or holds more than tensors and plain values.
        """
        from torchbp.training.checkpoint import load_checkpoint, load_module

        arguments.pop("weights_only", None)  # they are never anything else
        return load_module(load_checkpoint(checkpoint_path), cls, **arguments)  # type: ignore[return-value]

    def configure_callbacks(self) -> list[Callback]:
        # A run's first hook, before Lightning refuses on its own and without a word of the engine.
        self.engine = self.hparams["engine"]
        self._take_fused_unless(trainer_obstacle(self.trainer, self.engine, not (self.hparams["networks"] or self.cuda_graph)))
        if self.hparams["engine"] == "auto":
            self._take_fused_unless(step_watcher(self.trainer))
        return []

    def _take_fused_unless(self, obstacle: str | None) -> None:
        """Where auto has not settled on autograd before, take the fused engine, or where something stands against it autograd.

        Raises:
            ValueError: the fused engine is asked for by its name, and there is an obstacle.
        """
        if self.engine == "autograd":
            return
        if obstacle and self.hparams["networks"]:
            raise ValueError(f"{obstacle}; several networks, side by side, cannot be trained so")
        if self.hparams["engine"] != "auto":
            refuse_obstacle(obstacle, self.engine)
        else:
            self.engine, self.obstacle = ("autograd" if obstacle else "fused"), obstacle

    def setup(self, stage: str) -> None:
        # Lightning does this too, but after it has restored a checkpoint, which would lose digits to float32.
        self.trainer.precision_plugin.convert_module(self)
        data: Any = getattr(self.trainer, "datamodule", None)
        if len(targets := getattr(data, "targets", ())) == self.hparams["num_outputs"]:
            for split in ("train", "val", "test"):
                self.split_metrics(split).targets = targets
        if stage == "fit":
            if self.threshold_rule and not getattr(data, "has_validation", True):
                raise ValueError(f"threshold is {self.threshold_rule}; it is chosen on validation rows, and there are none")
            self._trained = EpochRows("train", self.split_metrics("train") if self.train_metrics else None, self._for_metrics)
            self._validated = EpochRows("val", self.split_metrics("val"), self._for_metrics)
            self._to_choose_by = Collected().to(self.device) if self.threshold_rule else None
            self.observed = True
            # One process reads the training split for all of them.
            if self.trainer.is_global_zero:
                self.fit_scaling(data)
            for buffer in self.buffers():
                buffer.copy_(self.trainer.strategy.broadcast(buffer))

    def fit_scaling(self, data: Any) -> None:
        """Take balanced weights, and if it wants it the scaling, from a data module's training split."""
        for name, balance in (("pos_weight", balanced_positives), ("class_weight", balanced_classes)):
            if self.hparams[name] == "balanced":
                if not hasattr(data, "split_rows"):
                    raise ValueError(f"{name} is 'balanced'; that takes a data module of torchbp.data, or give the weights")
                getattr(self, name).copy_(balance(data.split_rows("train")))
        if self.task == "regression" and not self.entry.takes_any and hasattr(data, "split_rows"):
            for y in targets(data.split_rows("train")):
                self.entry.check_targets(y)
        if getattr(data, "standardize", False):
            rows = data.split_rows("train")
            self.input_scaling.fit(x for x, _ in rows.chunks())
            if self.target_scaling is not None:
                self.target_scaling.fit(y for (y,) in rows.only(1).chunks())

    def forward(self, x: Tensor) -> Tensor:
        prediction = self.members(x)
        return prediction if self.kept is None else prediction.mean(0)

    def members(self, x: Tensor) -> Tensor:
        """The predictions of each of K networks that are kept, (K, B, num_outputs); of one network (B, num_outputs)."""
        prediction = self.network(self.input_scaling(x))
        prediction = prediction if self.kept is None else prediction[self.kept > 0]
        return prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def network_target(self, y: Tensor) -> Tensor:
        """The targets (B, num_outputs) as the network's cost takes them: standardised, or smoothed and weighted."""
        if self.target_scaling is not None:
            return self.target_scaling(y)
        if self.label_smoothing:
            y = eq.smoothed(y, self.label_smoothing)
        return y if self.class_weight is None else y * self.class_weight

    def cost_and_prediction(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch's mean cost, a scalar that has a gradient, and its predictions (B, num_outputs), without one.

        ``weight`` (B) multiplies each row's cost.
        """
        x, y = self.input_scaling(x), self.network_target(y)
        cost_of = self.network.cost if self.kept is None else partial(cost_of_mean, self.network, self.kept > 0)
        cost, prediction = cost_of(x, y, self.cost, pos_weight=self.pos_weight, weight=weight)
        return cost, prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def on_train_start(self) -> None:
        self._take_fused_unless(optimizer_obstacle(self))  # a checkpoint may have brought another
        self._fused = None if self.engine == "autograd" else FusedEngine(self)
        if self.hparams["bootstrap"]:
            bootstrap(self.trainer.train_dataloader, self.hparams["networks"])
        if not sees_costs_alone(self.trainer):
            self.budget = None

    def on_train_epoch_start(self) -> None:
        self.observed = self.budget is None or self.budget.due(self.trainer, self.trainer.num_training_batches)
        self._trained.with_metrics = self.train_metrics and self.observed
        self._validated.with_metrics = self.observed

    @property
    def updates_ahead(self) -> Callable[[int, int], int] | None:
        """What a loader is to ask how many batches the next ``training_step`` takes; None where that is always one."""
        return None if self.engine == "autograd" else self._updates_ahead

    def _updates_ahead(self, done: int, batch_size: int) -> int:
        if self.engine == "autograd":  # settled on since the loader was made
            return 1
        if self.hparams["sequences"] and (self.bptt_steps or not self._steps_of_sequences):
            return 1  # a block of as many as rows may have could be hours of long sequences
        weights, values = (max(self._steps_of_sequences, 1) * each for each in self._weights_and_values(batch_size))
        return updates_ahead(self.trainer, self.steps_per_execution or automatic_steps(weights, values, batch_size), done)

    _steps_of_sequences = 0  # of the latest batch

    def _weights_and_values(self, batch_size: int) -> tuple[int, int]:
        """How many products there are for a row, or for a step, and how many values a batch has."""
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        return weights, batch_size * (self.hparams["num_features"] + 2 * self.hparams["num_outputs"])

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        x, y, weight = _parts(batch)
        self._steps_of_sequences = x.shape[1] if x.dim() == 3 else 0
        if self._fused is None and self.bptt_steps:
            cost, value, prediction = step_by_parts(self, x, y, weight)
        elif self._fused is None:
            cost, prediction = self.cost_and_prediction(x, y, weight)
            if not isfinite(value := cost.item()):
                raise self.not_finite(value, self.global_step, x)
        else:
            value, prediction = self._fused.train(x, y, getattr(batch, "batch_size", len(x)), batch_idx, weight)
            cost = torch.tensor(value)
            self._trained.norms += self._fused.norms()
        self._trained.add(value, prediction, y)
        return cost

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if gradient_clip_val and self._fused is None:
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            self._trained.norms.append(torch.nn.utils.get_total_norm(gradients))
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_end(self) -> None:
        self._publish(self._trained)  # where something else has ended the epoch
        self._trained.log(self.trainer)
        if self._fused is not None:
            self._fused.log_band()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch or self.global_step == self.trainer.max_steps:
            self._publish(self._trained)  # for callbacks to find it where validation starts and the epoch ends
        # Lightning tells its progress bar of the block's first batch.
        bar = self.trainer.progress_bar_callback
        if self._fused is not None and bar is not None:
            bar.on_train_batch_end(self.trainer, self, outputs, batch, self.trainer.fit_loop.batch_idx)

    # To Lightning both engines optimise automatically, so that it schedules and counts alike; but the fused one has done by
    # the end of training_step what these are for, and it may have left gradients.
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self._fused is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            optimizer_closure()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self._fused is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._fused is None:
            super().backward(loss, *args, **kwargs)

    # By itself Lightning does this to each of the metrics too, which takes longer than to validate.
    def on_validation_model_eval(self) -> None:
        children = [child for name, child in self.named_children() if name != "metrics"]
        self._in_training = [module for child in children for module in child.modules() if module.training]
        for module in self._in_training:
            module.training = False

    def on_validation_model_train(self) -> None:
        for module in self._in_training:
            module.training = True

    def on_validation_model_zero_grad(self) -> None:
        for parameter in self.network.parameters():
            parameter.grad = None

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        cost, prediction = self.cost_and_prediction(*_parts(batch))
        if self.trainer.state.fn != "fit":
            self._log("val", cost, prediction, batch[1])
            return prediction
        self._validated.add(cost.item(), prediction, batch[1])
        if self._to_choose_by is not None:
            self._to_choose_by.update(prediction, batch[1])
        return None

    def on_validation_epoch_end(self) -> None:
        if self._to_choose_by is not None and self.threshold_rule:
            prediction, y = self._to_choose_by.rows(1)
            self._to_choose_by.reset()
            self.threshold = best_threshold(prediction[:, 0], y[:, 0], self.threshold_rule)
        if self.trainer.sanity_checking:
            self._validated.forget()
        elif self.trainer.state.fn == "fit":
            self._publish(self._validated)
            self._validated.log(self.trainer)
        else:
            self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        cost, prediction = self.cost_and_prediction(*_parts(batch))
        self._log("test", cost, prediction, batch[1])
        return prediction

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        if self.lr == "auto":
            self.lr, self.lr_was_found = self.lr_factor * find_lr(self), True
            self.hparams["lr"] = self.lr
        optimizer = torch.optim.SGD(self.network.parameters(), lr=self.lr)
        if self.lr_scheduler is None:
            return optimizer
        refuse_failing(self.lr_scheduler, self.lr)
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.lr_scheduler_interval}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        super().lr_scheduler_step(scheduler, metric)
        for group in scheduler.optimizer.param_groups:
            if not 0 <= group["lr"] < inf:
                name = type(scheduler).__name__
                raise ValueError(f"lr_scheduler {name} makes the learning rate {group['lr']:g}; it must be finite, 0 or more")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved, own = checkpoint.get("hyper_parameters", {}), self.hparams
        for name in ("num_features", "hidden_sizes", "num_outputs", "task", "networks", "sequences"):
            if name in saved and saved[name] != own[name]:
                raise ValueError(f"the checkpoint is of another network: its {name} is {saved[name]}, here it is {own[name]}")
        if self.lr == "auto" and "lr" in saved:  # a run goes on with what it has found
            self.lr = self.hparams["lr"] = saved["lr"]
        shapes, own_shapes = ({n: tuple(t.shape) for n, t in s.items()} for s in (checkpoint["state_dict"], self.state_dict()))
        for name in {**own_shapes, **shapes}:
            shape, wanted = shapes.get(name), own_shapes.get(name)
            if shape != wanted:
                raise ValueError(f"the checkpoint is of another network: its {name} has shape {shape}, here it is {wanted}")

    def threshold_of(self, checkpoint: dict[str, Any]) -> float:
        """The threshold that a checkpoint of this very run was saved with."""
        saved = checkpoint["hyper_parameters"].get("threshold")
        return self.threshold if saved is None or isinstance(saved, str) else saved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite()
        if self.threshold_rule:
            checkpoint["hyper_parameters"]["threshold"] = self.threshold

    def check_finite(self) -> None:
        """Raise FloatingPointError if a parameter is no longer finite."""
        for name, parameter in self.network.named_parameters():
            if not parameter.isfinite().all():
                raise FloatingPointError(f"{name} is no longer finite after step {self.global_step}; {self._advice()}")

    def split_metrics(self, split: str) -> SplitMetrics:
        """The metrics of ``train``, ``val`` or ``test``."""
        return self.metrics[f"{split}_metrics"]  # type: ignore[return-value]

    def scores(self, prediction: Tensor, y: Tensor, threshold: float | None = None) -> dict[str, float]:
        """Accuracy and the like of predictions and targets (N, num_outputs), of this process alone.

        Args:
            threshold: in place of the module's own.
        """
        threshold = self.threshold if threshold is None else threshold
        metrics = metrics_of(self.task, self.hparams["num_outputs"], "test", threshold)
        metrics.targets = self.split_metrics("test").targets
        for metric in metrics.values():
            metric.distributed_available_fn = _alone  # sync_on_compute is looked at by its constructor alone
        metrics.update(*self._for_metrics(prediction, y))
        values: Any = metrics.compute()
        return {name.removesuffix("/test"): value.item() for name, value in values.items()}

    def not_finite(self, cost: float, step: int, x: Tensor) -> FloatingPointError:
        """What to raise where the cost of a batch ``x`` is not finite, with the parameters as they were before the step."""
        return FloatingPointError(
            f"the cost became {cost} at step {step}, {where_not_finite(self.network, self.input_scaling(x))}; {self._advice()}"
        )

    def _advice(self) -> str:
        saved = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        return "the last checkpoint before it is kept; a smaller lr may help" if saved else "a smaller lr may help"

    def _log(self, split: str, cost: Tensor, prediction: Tensor, y: Tensor) -> None:
        prediction, y = told(prediction, y)
        rows: Any = float(len(y))  # of integers Lightning makes the mean over processes an integer
        self.log(f"cost/{split}", cost, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)
        self.split_metrics(split).update(*self._for_metrics(prediction, y))

    def _log_metrics(self, split: str) -> None:
        """Log what the rows of :meth:`_log` define."""
        metrics = self.split_metrics(split)
        self.log_dict(metrics.compute(), sync_dist=True)  # the same in every process
        metrics.reset()

    def _publish(self, rows: EpochRows) -> None:
        with self.budget.spending() if self.budget and self.observed else nullcontext():
            rows.publish(self.trainer)

    def _for_metrics(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and target as torchmetrics takes them for this task."""
        if self.task == "multiclass":
            return prediction, y.argmax(1)
        if self.task == "regression":
            return prediction.squeeze(1), y.squeeze(1)
        # A target may be a probability; the metrics ask which side it is on.
        prediction, y = prediction, (y > 0.5).long()
        return (prediction.squeeze(1), y.squeeze(1)) if self.task == "binary" else (prediction, y)


def _alone() -> bool:
    return False


def _parts(batch: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, y, and the weights of the rows' costs where a batch has them."""
    x, y, *weight = batch[:3]
    return x, y, weight[0] if weight else None
