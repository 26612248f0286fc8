"""The LightningModule: network, cost and plain gradient descent."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import MetricCollection

from torchbp import equations as eq
from torchbp import functional as F
from torchbp.nn import BPNetwork, Standardize
from torchbp.training._metrics import metrics_of

TASKS = ("binary", "multilabel", "multiclass", "regression")
COSTS = ("cross_entropy", "squared_error")


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
        init: ``glorot`` or ``normal``, as in :class:`torchbp.nn.BPNetwork`.
        lr_scheduler: what makes a scheduler of the optimizer, stepped once an epoch; none keeps α constant.

    Raises:
        ValueError: an argument outside what is said above.
        FloatingPointError: while training, when the cost or a parameter is no longer finite.
    """

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        hidden_sizes: Sequence[int] = (16,),
        task: Literal["binary", "multilabel", "multiclass", "regression"] = "binary",
        cost: Literal["cross_entropy", "squared_error"] | None = None,
        lr: float = 0.5,
        init: Literal["glorot", "normal"] = "glorot",
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; it must be one of {', '.join(TASKS)}")
        cost = cost or ("squared_error" if task == "regression" else "cross_entropy")
        if cost not in COSTS:
            raise ValueError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
        if task == "regression" and cost == "cross_entropy":
            raise ValueError("cost is 'cross_entropy'; for regression it must be 'squared_error'")
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr is {lr}; it must be a finite number above 0")
        hidden_sizes = list(hidden_sizes)
        self.save_hyperparameters(ignore=["lr_scheduler"], logger=False)
        self.hparams.update(hidden_sizes=hidden_sizes, cost=cost)
        self.task, self.cost, self.lr, self.lr_scheduler = task, cost, lr, lr_scheduler
        regression = task == "regression"
        self.network = BPNetwork([num_features, *hidden_sizes, num_outputs], "linear" if regression else "sigmoid", init)
        self.input_scaling = Standardize(num_features)
        self.target_scaling = Standardize(num_outputs) if regression else None
        self.metrics = nn.ModuleDict(
            {f"{split}_metrics": metrics_of(task, num_outputs).clone(postfix=f"/{split}") for split in ("train", "val", "test")}
        )

    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and getattr(data, "standardize", False):
            x, y = data.train_rows
            self.input_scaling.fit(x)
            if self.target_scaling is not None:
                self.target_scaling.fit(y)

    def forward(self, x: Tensor) -> Tensor:
        prediction = self.network(self.input_scaling(x))
        return prediction if self.target_scaling is None else self.target_scaling.inverse(prediction)

    def cost_and_prediction(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's mean cost, a scalar that has a gradient, and its predictions (B, num_outputs), without one."""
        x = self.input_scaling(x)
        if self.cost == "cross_entropy":
            z = self.network.logits(x)
            return F.binary_cross_entropy_with_logits(z, y), eq.sigmoid(z.detach())
        a = self.network(x)
        if self.target_scaling is None:
            return F.mse_loss(a, y), a.detach()
        return F.mse_loss(a, self.target_scaling(y)), self.target_scaling.inverse(a.detach())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        cost = self._step("train", batch)
        if not cost.isfinite():
            raise FloatingPointError(
                f"the cost became {cost.item()} at step {self.global_step}, {self._where_not_finite(batch[0])}; "
                "the last checkpoint before it is kept; a smaller lr may help"
            )
        return cost

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("test", batch)

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.network.parameters(), lr=self.lr)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved, own = checkpoint.get("hyper_parameters", {}), self.hparams
        for name in ("num_features", "hidden_sizes", "num_outputs", "task"):
            if name in saved and saved[name] != own[name]:
                raise ValueError(f"the checkpoint is of another network: its {name} is {saved[name]}, here it is {own[name]}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite()

    def check_finite(self) -> None:
        """Raise FloatingPointError if a parameter is no longer finite."""
        for name, parameter in self.network.named_parameters():
            if not parameter.isfinite().all():
                raise FloatingPointError(
                    f"{name} is no longer finite after step {self.global_step}; the last checkpoint before it is kept; "
                    "a smaller lr may help"
                )

    def split_metrics(self, split: str) -> MetricCollection:
        """The metrics of ``train``, ``val`` or ``test``."""
        return self.metrics[f"{split}_metrics"]  # type: ignore[return-value]

    def _step(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        cost, prediction = self.cost_and_prediction(x, y)
        self.log(f"cost/{split}", cost, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(x), sync_dist=True)
        metrics = self.split_metrics(split)
        metrics.update(*self._for_metrics(prediction, y))
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(x))
        return cost

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
