"""The LightningModule: a network, its cost, and plain gradient descent."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import Tensor
from typing_extensions import Self

from torchbp import equations as eq
from torchbp.data.rows import targets
from torchbp.nn import Standardize
from torchbp.outputs import output_for
from torchbp.recurrence import rows_with_target
from torchbp.tasks import Task, check_task
from torchbp.training._blocks import updates_ahead
from torchbp.training._budget import Budget, sees_costs_alone
from torchbp.training._class_weights import balanced_classes, balanced_positives, refuse_class_weight, weight_of_each
from torchbp.training._contents import refuse_other_network
from torchbp.training._engines import (
    choose_engine,
    optimizer_obstacle,
    refuse_device,
    refuse_engine,
    step_watcher,
    trainer_obstacle,
)
from torchbp.training._ensemble import bootstrap, cost_of_mean, refuse_networks
from torchbp.training._epoch_metrics import EpochRows
from torchbp.training._evaluation import Collected
from torchbp.training._finite import check_finite, not_finite
from torchbp.training._fused import FusedEngine
from torchbp.training._in_time import network_of, refuse_bptt_steps, step_by_parts
from torchbp.training._lr import find_lr, refuse_lr
from torchbp.training._metrics import for_metrics, metrics_of, scores_of
from torchbp.training._schedule import refuse_failing, refuse_lr_of
from torchbp.training._threshold import DEFAULT, best_threshold, refuse_threshold


class BPModule(LightningModule):
    """The text's network, trained by backpropagation and gradient descent, W ← W - α ∂L/∂W (equation 3.2g).

    Batches are ``(x, y)``: x (B, num_features), y (B, num_outputs) with values in [0, 1] for classes, one column per class; or
    ``(x, y, weight)`` with a weight (B) for the cost of each row.
    Called on x, it returns predictions (B, num_outputs): the outputs' activations, or values in the target's units.

    Args:
        num_features: n0, the width of x.
        num_outputs: nL, the width of y.
        hidden_sizes: the widths of the hidden layers; empty for none.
        task: ``binary`` and ``multilabel`` have a sigmoid for each output, ``multiclass`` has softmax outputs, ``regression``
            has linear outputs and a target that is standardised in training.
        cost: ``cross_entropy`` (equations 3.1c and 4.2; the default for classes) or ``squared_error`` (3.1a; for regression).
        output: the activation of the last layer, if not the task's own: ``sigmoid`` gives each class of ``multiclass`` a
            sigmoid, one class against the rest.
        activation: the activation of the hidden layers, or a list with one for each: a name of :mod:`torchbp.activations`, or
            ``package.module:name`` for your own.
        activation_per_unit: whether each unit learns its own parameters of the activation.
        lr: the learning rate α. ``auto`` takes 1/λ, where λ is the largest eigenvalue of the cost's Hessian at the start, from
            the first training batches (:func:`torchbp.curvature.lr_from_curvature`). The value found replaces ``auto`` in the
            hyperparameters and in checkpoints.
        lr_factor: multiplies the learning rate that ``auto`` finds.
        clip: clips standardised inputs to this many standard deviations from the mean, so that a few very large values do not
            dominate; None for no limit. Inputs that are not standardised are not clipped.
        pos_weight: multiplies the cross-entropy's term of the positive class, y ln a: one number, or a list with one for each
            output. ``balanced`` takes negatives / positives of each output in the training split.
        class_weight: multiplies softmax's cross-entropy by the weight of the row's class: a list with one for each class.
            ``balanced`` takes N / (C n_c), from the training split.
        label_smoothing: the share of softmax's targets that is spread evenly over all classes.
        threshold: for two classes, the positive one is predicted if its probability is above this number; None for 0.5. ``f1``
            and ``miss:R`` choose it on the validation rows in every epoch: ``f1`` for the highest F1, ``miss:R`` for the lowest
            cost if a missed positive costs R false alarms. Checkpoints hold the number.
        init: ``glorot`` or ``normal``, as in :class:`torchbp.nn.BPNetwork`; for sequences also ``orthogonal``, as in
            :class:`torchbp.nn.RecurrentNetwork`.
        sequences: None if x are rows. Else x is (B, T, num_features), NaN after a sequence's end; y is (B, num_outputs), for
            the ``last`` step, or (B, T, num_outputs), for ``each`` step; and the hidden layers are recurrent. The command line
            takes it from the data.
        pooling: for sequences with one target, whether it is predicted from the ``last`` state or the ``mean`` of all states.
        bidirectional: whether as many units again read the sequences from the end.
        bptt_steps: for sequences with a target at each step, take a gradient-descent step after this many time steps. The error
            goes back no further (truncated backpropagation through time); the states are carried on.
        lr_scheduler: makes a scheduler from the optimizer; None keeps α constant.
        lr_scheduler_interval: whether the scheduler is stepped once an ``epoch`` or at every ``step``.
        engine: ``autograd`` trains with the autograd Functions and ``torch.optim.SGD``, ``fused`` with
            :class:`torchbp.descent.Descent`, many times faster on small networks; the parameters are the same. ``auto`` takes
            fused if it can do what the run asks and no callback has a hook for every step, else autograd. ``compiled`` is
            fused with up to 32 steps compiled as one function, for long runs of small networks; it needs a C++ compiler.
        steps_per_execution: how many steps the fused engine takes in one ``training_step``; callbacks see only these blocks.
            None for about a tenth of a second. Blocks end where an epoch, ``max_steps``, validation or a checkpoint is due.
        train_metrics: whether metrics such as accuracy are computed for the training split too, besides its cost. This takes
            a noticeable time if an epoch takes milliseconds.
        cuda_graph: whether the fused engine replays its step as a CUDA graph.
        networks: the number of networks, 2 to 10,000, that the fused engine trains side by side; they differ by their initial
            weights. The prediction is the mean of theirs, the cost that of this prediction. A network that diverges is left
            out. None for one network.
        bootstrap: whether each network has its own sample of rows, drawn with replacement; a row counts as often as drawn.

    Raises:
        ValueError: an argument is outside its range, or the Trainer asks the fused engine for something it cannot do.
        FloatingPointError: in training, when the cost or a parameter is no longer finite.
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
        refuse_class_weight(class_weight, label_smoothing, entry)
        refuse_threshold(threshold, task)
        refuse_bptt_steps(bptt_steps, sequences, bidirectional)
        refuse_engine(engine, steps_per_execution, cuda_graph, sequences)
        refuse_networks(networks, bootstrap, engine, cuda_graph, sequences)
        if lr_scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"lr_scheduler_interval is {lr_scheduler_interval!r}; it must be 'epoch' or 'step'")
        hidden_sizes = list(hidden_sizes)
        self.save_hyperparameters(ignore=["lr_scheduler"], logger=False)
        self.hparams.update(hidden_sizes=hidden_sizes, cost=entry.cost, output=entry.name)
        self.task, self.cost = task, entry.cost
        self.engine: str = engine  # in a run, the engine that auto has chosen
        self.obstacle: str | None = None  # why auto has chosen autograd
        self.lr, self.lr_factor, self.lr_was_found = lr, lr_factor, False
        self.threshold_rule = threshold if isinstance(threshold, str) else None
        self.threshold = DEFAULT if threshold is None or isinstance(threshold, str) else threshold
        self._threshold_rows: Collected | None = None  # predictions of the validation rows, in fit
        self.entry, self.label_smoothing = entry, label_smoothing
        self.lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        self.steps_per_execution, self.cuda_graph = steps_per_execution, cuda_graph
        self.train_metrics, self.keep_gradients, self.bptt_steps = train_metrics, False, bptt_steps
        self.sequence_steps = 0  # the number of steps of the sequences in the latest batch
        self.budget: Budget | None = None  # when to compute metrics besides the cost; None for every epoch
        self.register_buffer("pos_weight", weight_of_each("pos_weight", pos_weight, num_outputs))
        self.register_buffer("class_weight", weight_of_each("class_weight", class_weight, num_outputs))
        self.register_buffer("kept", None if networks is None else torch.ones(networks))  # 0 for a network that diverged
        sizes = [num_features, *hidden_sizes, num_outputs]
        how = activation, activation_per_unit, sequences, pooling, bidirectional, networks
        self.network = network_of(sizes, entry, init, *how)
        self.input_scaling = Standardize(num_features, clip)
        self.target_scaling = Standardize(num_outputs) if task == "regression" and entry.takes_any else None
        # In a plain dict: Lightning goes through all submodules several times per validation, and metrics are slow to hash.
        self.metrics = {split: metrics_of(task, num_outputs, split, self.threshold) for split in ("train", "val", "test")}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **arguments: Any) -> Self:  # type: ignore[override]
        """Load the network of a checkpoint, on the CPU; ``arguments`` override those of the class.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a checkpoint, or holds more than tensors and plain values.
        """
        from torchbp.training.checkpoint import load_checkpoint, load_module

        arguments.pop("weights_only", None)  # always true
        return load_module(load_checkpoint(checkpoint_path), cls, **arguments)  # type: ignore[return-value]

    def configure_callbacks(self) -> list[Callback]:
        # The first hook of a run: Lightning's own errors come later and do not mention the engine.
        refuse_device(self.trainer.strategy.root_device)
        self.engine = self.hparams["engine"]
        choose_engine(self, trainer_obstacle(self.trainer, self.engine, not (self.hparams["networks"] or self.cuda_graph)))
        if self.hparams["engine"] == "auto":
            choose_engine(self, step_watcher(self.trainer))
        return []

    def setup(self, stage: str) -> None:
        # Lightning does this too, but after it has restored a checkpoint, whose float64 values would be rounded to float32.
        self.trainer.precision_plugin.convert_module(self)
        data: Any = getattr(self.trainer, "datamodule", None)
        for metrics in self.metrics.values():
            metrics.to(self.trainer.strategy.root_device)
            if len(targets := getattr(data, "targets", ())) == self.hparams["num_outputs"]:
                metrics.targets = targets
        if stage == "fit":
            if self.threshold_rule and not getattr(data, "has_validation", True):
                raise ValueError(f"threshold is {self.threshold_rule}; it is chosen on validation rows, and there are none")
            convert = partial(for_metrics, self.task)
            self._trained = EpochRows("train", self.metrics["train"] if self.train_metrics else None, convert)
            self._validated = EpochRows("val", self.metrics["val"], convert)
            self._threshold_rows = Collected().to(self.device) if self.threshold_rule else None
            self.observed = True
            # One process reads the training split for all.
            if self.trainer.is_global_zero:
                self.fit_scaling(data)
            for buffer in self.buffers():
                buffer.copy_(self.trainer.strategy.broadcast(buffer))

    def teardown(self, stage: str) -> None:
        for metrics in self.metrics.values():
            metrics.cpu()  # as Lightning does with the module

    def fit_scaling(self, data: Any) -> None:
        """Compute balanced weights, and the scaling if ``data.standardize``, from a data module's training split.

        Raises:
            ValueError: balanced weights, and the data module has no ``split_rows``; a target outside the output's range.
        """
        for name, balance in (("pos_weight", balanced_positives), ("class_weight", balanced_classes)):
            if self.hparams[name] == "balanced":
                if not hasattr(data, "split_rows"):
                    raise ValueError(f"{name} is 'balanced'; that needs a data module of torchbp.data; else give the weights")
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
        """The predictions of each network that is kept, (K, B, num_outputs); (B, num_outputs) for a single network."""
        prediction = self.network(self.input_scaling(x))
        prediction = prediction if self.kept is None else prediction[self.kept > 0]
        return prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def network_target(self, y: Tensor) -> Tensor:
        """The targets (B, num_outputs) in the form for the network's cost: standardised, or smoothed and weighted."""
        if self.target_scaling is not None:
            return self.target_scaling(y)
        if self.label_smoothing:
            y = eq.smoothed(y, self.label_smoothing)
        return y if self.class_weight is None else y * self.class_weight

    def cost_and_prediction(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch's mean cost, a scalar with its graph, and its predictions (B, num_outputs), detached.

        ``weight`` (B) multiplies each row's cost.
        """
        x, y = self.input_scaling(x), self.network_target(y)
        cost_of = self.network.cost if self.kept is None else partial(cost_of_mean, self.network, self.kept > 0)
        cost, prediction = cost_of(x, y, self.cost, weight, pos_weight=self.pos_weight)
        return cost, prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def on_train_start(self) -> None:
        choose_engine(self, optimizer_obstacle(self))  # only now: a checkpoint may have changed the optimizer's state
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
        """Tells a loader how many batches the next ``training_step`` takes; None if always one."""
        return None if self.engine == "autograd" else partial(updates_ahead, self)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        x, y, weight = _parts(batch)
        self.sequence_steps = x.shape[1] if x.dim() == 3 else 0
        if self._fused is None and self.bptt_steps:
            cost, value, prediction = step_by_parts(self, x, y, weight)
        elif self._fused is None:
            cost, prediction = self.cost_and_prediction(x, y, weight)
            if not isfinite(value := cost.item()):
                raise not_finite(self, value, self.global_step, x)
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
        self._publish(self._trained)  # if the epoch ended before its last batch
        self._trained.log(self.trainer)
        if self._fused is not None:
            self._fused.log_band()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch or self.global_step == self.trainer.max_steps:
            self._publish(self._trained)  # callbacks need it when validation starts and when the epoch ends
        # Lightning gives its progress bar only the block's first batch.
        bar = self.trainer.progress_bar_callback
        if self._fused is not None and bar is not None:
            bar.on_train_batch_end(self.trainer, self, outputs, batch, self.trainer.fit_loop.batch_idx)

    # Both engines use Lightning's automatic optimization, so that schedulers and counters work. The fused engine has taken its
    # steps by the end of training_step and may keep gradients, so the next three hooks skip it.
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

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook's name before and after each of fifty hooks per step. nn.Module's checks for parameters and
        # modules take a tenth of a small network's epoch; a string that replaces a plain attribute needs none.
        if (value is None or type(value) is str) and name in self.__dict__:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def on_validation_model_zero_grad(self) -> None:
        for parameter in self.network.parameters():
            parameter.grad = None

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        cost, prediction = self.cost_and_prediction(*_parts(batch))
        if self.trainer.state.fn != "fit":
            self._log("val", cost, prediction, batch[1])
            return prediction
        value = cost.item()
        if self.kept is None and not isfinite(value):  # of several networks, the fused engine leaves out those that diverged
            raise not_finite(self, value, self.global_step, batch[0], "validation cost")
        self._validated.add(value, prediction, batch[1])
        if self._threshold_rows is not None:
            self._threshold_rows.update(prediction, batch[1])
        return None

    def on_validation_epoch_end(self) -> None:
        if self._threshold_rows is not None and self.threshold_rule:
            prediction, y = self._threshold_rows.rows(1)
            self._threshold_rows.reset()
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
        refuse_lr_of(scheduler)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_other_network(checkpoint, self.hparams, self.state_dict())
        saved = checkpoint.get("hyper_parameters", {})
        if self.lr == "auto" and "lr" in saved:  # a resumed run keeps the rate that it has found
            self.lr = self.hparams["lr"] = saved["lr"]
        if "rows_so_far" in checkpoint and hasattr(self, "_trained") and self.trainer.world_size == 1:  # in a run
            self._trained.restore(checkpoint["rows_so_far"], self.trainer.strategy.root_device)
            if self.train_metrics:
                self.observed = self._validated.with_metrics = self._trained.with_metrics

    def threshold_of(self, checkpoint: dict[str, Any]) -> float:
        """The threshold in a checkpoint of this run."""
        saved = checkpoint["hyper_parameters"].get("threshold")
        return self.threshold if saved is None or isinstance(saved, str) else saved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_finite(self)
        if self.threshold_rule:
            checkpoint["hyper_parameters"]["threshold"] = self.threshold
        trainer = self.trainer
        within = trainer.state.fn == "fit" and not trainer.is_last_batch  # an epoch, of whose rows this process knows all
        if within and trainer.world_size == 1 and (rows := self._trained.state()):
            checkpoint["rows_so_far"] = rows

    def scores(self, prediction: Tensor, y: Tensor, threshold: float | None = None) -> dict[str, float]:
        """Metrics such as accuracy, by name, of predictions and targets (N, num_outputs) in this process alone.

        Args:
            prediction, y: the predictions and the targets.
            threshold: replaces the module's own.
        """
        threshold = self.threshold if threshold is None else threshold
        return scores_of(self.task, prediction, y, threshold, self.metrics["test"].targets)

    def _log(self, split: str, cost: Tensor, prediction: Tensor, y: Tensor) -> None:
        prediction, y = rows_with_target(prediction, y)
        rows: Any = float(len(y))  # with an integer, Lightning would round the mean over processes to an integer
        self.log(f"cost/{split}", cost, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)
        self.metrics[split].update(*for_metrics(self.task, prediction, y))

    def _log_metrics(self, split: str) -> None:
        """Log the metrics that are defined for the rows of :meth:`_log`."""
        metrics = self.metrics[split]
        self.log_dict(metrics.compute(), sync_dist=True)  # the same in every process
        metrics.reset()

    def _publish(self, rows: EpochRows) -> None:
        with self.budget.spending() if self.budget and self.observed else nullcontext():
            rows.publish(self.trainer)


def _parts(batch: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, y, and the weights of the rows' costs if the batch has them."""
    x, y, *weight = batch[:3]
    return x, y, weight[0] if weight else None
