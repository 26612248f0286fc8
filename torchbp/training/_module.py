"""The LightningModule: network, cost and plain gradient descent."""

from collections.abc import Callable, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import MetricCollection
from typing_extensions import Self

from torchbp import functional as F
from torchbp.nn import BPNetwork, Standardize
from torchbp.training._epoch import TrainedRows
from torchbp.training._fused import FusedEngine, automatic_steps, refuse_unsupported, updates_ahead
from torchbp.training._metrics import metrics_of
from torchbp.training._schedule import refuse_failing
from torchbp.training._weights import balanced, weight_of_each

TASKS = ("binary", "multilabel", "multiclass", "regression")
COSTS = ("cross_entropy", "squared_error")
ENGINES = ("autograd", "fused")
MAX_LAYERS = 1000  # hidden ones


class BPModule(LightningModule):
    """The text's network, trained by backpropagation and gradient descent, W ← W - α ∂L/∂W (equation 3.2g).

    Batches are ``(x, y)``: x (B, num_features), y (B, num_outputs) with values in [0, 1] for classes, one column a class.
    Called on x, it gives predictions (B, num_outputs): the outputs' activations, or values in the target's units.

    Args:
        num_features: n0, the width of x.
        num_outputs: nL, the width of y.
        hidden_sizes: the widths of the layers between; empty for none.
        task: ``binary``, ``multilabel`` and ``multiclass`` have a sigmoid for each output (one class against the rest),
            ``regression`` has linear outputs and a target that is standardised while it trains.
        cost: ``cross_entropy`` (equation 3.1c; the default for classes) or ``squared_error`` (3.1a; for regression).
        lr: the learning rate α.
        pos_weight: multiplies the cross-entropy's term of the positive class, y ln a, of every output, or of each by a list;
            ``balanced`` takes each output's negatives by its positives in the training split, so that both count alike.
        init: ``glorot`` or ``normal``, as in :class:`torchbp.nn.BPNetwork`.
        lr_scheduler: what makes a scheduler of the optimizer; none keeps α constant.
        lr_scheduler_interval: whether the scheduler is stepped once an ``epoch`` or at every ``step``.
        engine: ``autograd`` trains by the autograd Functions and ``torch.optim.SGD``, ``fused`` by
            :class:`torchbp.descent.Descent`, many times faster on small networks; the parameters are the same.
        steps_per_execution: how many steps the fused engine takes in one ``training_step``, which is all that callbacks see of
            them; None for as many as take about a tenth of a second. Epochs, ``max_steps``, validation and checkpoints come
            after the very step that they are asked for, whatever this is.
        train_metrics: whether accuracy and the like are computed of the training split too, besides its cost; what they cost
            is felt where an epoch takes milliseconds.
        cuda_graph: whether the fused engine replays its step as a CUDA graph.

    Raises:
        ValueError: an argument outside what is said above; a Trainer that asks the fused engine for what it cannot do.
        FloatingPointError: while training, when the cost or a parameter is no longer finite.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        hidden_sizes: Sequence[int] = (16,),
        task: Literal["binary", "multilabel", "multiclass", "regression"] = "binary",
        cost: Literal["cross_entropy", "squared_error"] | None = None,
        lr: float = 0.5,
        pos_weight: float | list[float] | Literal["balanced"] | None = None,
        init: Literal["glorot", "normal"] = "glorot",
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        engine: Literal["autograd", "fused"] = "autograd",
        steps_per_execution: int | None = None,
        train_metrics: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; it must be one of {', '.join(TASKS)}")
        cost = cost or ("squared_error" if task == "regression" else "cross_entropy")
        if cost not in COSTS:
            raise ValueError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
        if task == "regression" and cost == "cross_entropy":
            raise ValueError("cost is 'cross_entropy'; for regression it must be 'squared_error'")
        if not 0 < lr <= torch.finfo(torch.float32).max:
            raise ValueError(f"lr is {lr}; it must be a finite number above 0 and below 3.4e38")
        if pos_weight is not None and cost != "cross_entropy":
            raise ValueError(f"pos_weight is {pos_weight}; with cost {cost} there is none, it is for cross_entropy")
        if engine not in ENGINES:
            raise ValueError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
        if steps_per_execution is not None and (engine != "fused" or steps_per_execution < 1):
            raise ValueError(
                f"steps_per_execution is {steps_per_execution}; it must be 1 or more, and is for engine: fused only"
            )
        if cuda_graph and engine != "fused":
            raise ValueError(f"cuda_graph is for engine: fused only, here engine is {engine}")
        if lr_scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"lr_scheduler_interval is {lr_scheduler_interval!r}; it must be 'epoch' or 'step'")
        hidden_sizes = list(hidden_sizes)
        if len(hidden_sizes) > MAX_LAYERS:
            raise ValueError(f"hidden_sizes has {len(hidden_sizes)} layers; at most {MAX_LAYERS} are allowed")
        self.save_hyperparameters(ignore=["lr_scheduler"], logger=False)
        self.hparams.update(hidden_sizes=hidden_sizes, cost=cost)
        self.task, self.cost, self.lr, self.engine = task, cost, lr, engine
        self.lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        self.steps_per_execution, self.cuda_graph = steps_per_execution, cuda_graph
        self.train_metrics, self.keep_gradients = train_metrics, False
        self.register_buffer("pos_weight", weight_of_each(pos_weight, num_outputs))
        regression = task == "regression"
        try:
            self.network = BPNetwork([num_features, *hidden_sizes, num_outputs], "linear" if regression else "sigmoid", init)
        except MemoryError as error:
            raise MemoryError(f"hidden_sizes is {hidden_sizes}, so that {error}") from None
        self.input_scaling = Standardize(num_features)
        self.target_scaling = Standardize(num_outputs) if regression else None
        self.metrics = nn.ModuleDict(
            {f"{split}_metrics": metrics_of(task, num_outputs, split) for split in ("train", "val", "test")}
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **arguments: Any) -> Self:  # type: ignore[override]
        """The network of a checkpoint, on the CPU; ``arguments`` are those of the class that are to differ.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is no checkpoint, or holds more than tensors and plain values.
        """
        from torchbp.training._checkpoint import load_checkpoint, load_module

        arguments.pop("weights_only", None)  # they are never anything else
        return load_module(load_checkpoint(checkpoint_path), cls, **arguments)  # type: ignore[return-value]

    def configure_callbacks(self) -> list[Callback]:
        # A run's first hook, before Lightning refuses on its own and without a word of the engine.
        if self.engine == "fused":
            refuse_unsupported(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        # Lightning does this too, but after it has restored a checkpoint, which would lose digits to float32.
        self.trainer.precision_plugin.convert_module(self)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            # One process reads the training split for all of them.
            if self.trainer.is_global_zero:
                self.fit_scaling(data)
            for buffer in self.buffers():
                buffer.copy_(self.trainer.strategy.broadcast(buffer))

    def fit_scaling(self, data: Any) -> None:
        """Take a balanced ``pos_weight``, and if it wants it the scaling, from a data module's training split."""
        if self.hparams["pos_weight"] == "balanced":
            if not hasattr(data, "split_rows"):
                raise ValueError("pos_weight is 'balanced'; that takes a data module of torchbp.data, or give the weights")
            self.pos_weight.copy_(balanced(data.split_rows("train")))  # type: ignore[union-attr]
        if getattr(data, "standardize", False):
            rows = data.split_rows("train")
            self.input_scaling.fit(x for x, _ in rows.chunks())
            if self.target_scaling is not None:
                self.target_scaling.fit(y for (y,) in rows.only(1).chunks())

    def forward(self, x: Tensor) -> Tensor:
        prediction = self.network(self.input_scaling(x))
        return prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def cost_and_prediction(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's mean cost, a scalar that has a gradient, and its predictions (B, num_outputs), without one."""
        target = y if self.target_scaling is None else self.target_scaling(y)
        cost, prediction = self.network.cost(self.input_scaling(x), target, self.cost, pos_weight=self.pos_weight)
        return cost, prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def on_train_start(self) -> None:
        self._trained = TrainedRows(self.split_metrics("train") if self.train_metrics else None, self._for_metrics)
        self._fused = FusedEngine(self) if self.engine == "fused" else None

    @property
    def updates_ahead(self) -> Callable[[int, int], int] | None:
        """What a loader is to ask how many batches the next ``training_step`` takes; None where that is always one."""
        return self._updates_ahead if self.engine == "fused" else None

    def _updates_ahead(self, done: int, batch_size: int) -> int:
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        values = batch_size * (self.hparams["num_features"] + 2 * self.hparams["num_outputs"])
        return updates_ahead(self.trainer, self.steps_per_execution or automatic_steps(weights, values, batch_size), done)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch[:2]
        if self._fused is None:
            cost, prediction = self.cost_and_prediction(x, y)
            if not isfinite(value := cost.item()):
                raise self.not_finite(value, self.global_step, x)
        else:
            value, prediction = self._fused.train(x, y, getattr(batch, "batch_size", len(x)), batch_idx)
            cost = torch.tensor(value)
        self._trained.add(value, prediction, y)
        return cost

    def on_train_epoch_end(self) -> None:
        self._trained.publish(self.trainer)  # where something else has ended the epoch
        self._trained.log(self.trainer)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch or self.global_step == self.trainer.max_steps:
            self._trained.publish(self.trainer)  # for callbacks to find it where validation starts and the epoch ends
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

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log("val", *self.cost_and_prediction(*batch), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log("test", *self.cost_and_prediction(*batch), batch[1])

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
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
        for name in ("num_features", "hidden_sizes", "num_outputs", "task"):
            if name in saved and saved[name] != own[name]:
                raise ValueError(f"the checkpoint is of another network: its {name} is {saved[name]}, here it is {own[name]}")
        shapes, own_shapes = ({n: tuple(t.shape) for n, t in s.items()} for s in (checkpoint["state_dict"], self.state_dict()))
        for name in {**own_shapes, **shapes}:
            shape, wanted = shapes.get(name), own_shapes.get(name)
            if shape != wanted:
                raise ValueError(f"the checkpoint is of another network: its {name} has shape {shape}, here it is {wanted}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite()

    def check_finite(self) -> None:
        """Raise FloatingPointError if a parameter is no longer finite."""
        for name, parameter in self.network.named_parameters():
            if not parameter.isfinite().all():
                raise FloatingPointError(f"{name} is no longer finite after step {self.global_step}; {self._advice()}")

    def split_metrics(self, split: str) -> MetricCollection:
        """The metrics of ``train``, ``val`` or ``test``."""
        return self.metrics[f"{split}_metrics"]  # type: ignore[return-value]

    def not_finite(self, cost: float, step: int, x: Tensor) -> FloatingPointError:
        """What to raise where the cost of a batch ``x`` is not finite, with the parameters as they were before the step."""
        return FloatingPointError(f"the cost became {cost} at step {step}, {self._where_not_finite(x)}; {self._advice()}")

    def _advice(self) -> str:
        saved = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        return "the last checkpoint before it is kept; a smaller lr may help" if saved else "a smaller lr may help"

    def _log(self, split: str, cost: Tensor, prediction: Tensor, y: Tensor) -> None:
        rows: Any = float(len(y))  # of integers Lightning makes the mean over processes an integer
        self.log(f"cost/{split}", cost, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)
        metrics = self.split_metrics(split)
        metrics.update(*self._for_metrics(prediction, y))
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(y))

    def _for_metrics(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and target as torchmetrics takes them for this task."""
        if self.task == "multiclass":
            return prediction, y.argmax(1)
        if self.task == "regression":
            return prediction.squeeze(1), y.squeeze(1)
        # A target may be a probability; the metrics ask which side it is on.
        prediction, y = prediction, (y > 0.5).long()
        return (prediction.squeeze(1), y.squeeze(1)) if self.task == "binary" else (prediction, y)

    @torch.no_grad()
    def _where_not_finite(self, x: Tensor) -> str:
        a = self.input_scaling(x)
        layer: Any
        for number, layer in enumerate(self.network.layers, 1):
            if not all(parameter.isfinite().all() for parameter in layer.parameters()):
                return f"where W or b of layer {number} is not finite"
            if not F.linear(a, layer.weight, layer.bias).isfinite().all():
                return f"where the weighted input of layer {number} is not finite"
            a = layer(a)
        return f"though the weighted input of the last, layer {len(self.network.layers)}, is finite"
