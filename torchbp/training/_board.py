"""What TensorBoard shows of a run: scalars, the network's graph, histograms, hyperparameters."""

from collections.abc import Mapping
from contextlib import nullcontext
from time import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from torchbp._pytorch import file_writer, graph_node
from torchbp.nn import RNN, RecurrentNetwork
from torchbp.training._budget import Budget
from torchbp.training._finite import check_finite

WAITED = 2.0  # seconds that scalars are buffered before they are written


class BoardLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger, but it writes the scalars of a step as one event, and buffers events for some seconds.

    Each event that is passed on wakes the writer thread, which takes as long as ten steps of a small network.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: list[tuple[float, int | None, Mapping[str, Any]]] = []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not all(isinstance(value, bool | int | float | Tensor) for value in metrics.values()):
            super().log_metrics(metrics, step)
            return
        self._waiting.append((time(), step, metrics))

    @rank_zero_only
    def save(self) -> None:
        if self._waiting and time() - self._waiting[0][0] >= WAITED:
            self._hand_over()
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._hand_over()  # also if the run failed
        super().finalize(status)

    def _hand_over(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        waiting, self._waiting = self._waiting, []
        for now, step, metrics in waiting:
            values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
            file_writer(self.experiment).add_event(Event(summary=Summary(value=values)), step, now)


class Graph(Callback):
    """Writes the network's graph to TensorBoard, one node per layer: its kind, the shapes of W, b and the output."""

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        node_proto = graph_node()
        layers: Any = pl_module.network.layers  # type: ignore[union-attr]
        recurrent = isinstance(pl_module.network, RecurrentNetwork)
        steps = (-1, -1) if recurrent else (-1,)
        nodes = [node_proto("input", "Input", outputsize=(*steps, pl_module.hparams["num_features"]))]
        for number, layer in enumerate(layers, 1):
            of_steps = recurrent and (number < len(layers) or pl_module.hparams["sequences"] == "each")
            width = layer.hidden_size * (1 + layer.bidirectional) if isinstance(layer, RNN) else layer.out_features
            kind, size = type(layer).__name__, (*(steps if of_steps else (-1,)), width)
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in layer.named_parameters())
            nodes.append(node_proto(f"{number}_{kind}", kind, nodes[-1].name, outputsize=size, attributes=shapes))
        graph = GraphDef(node=[*nodes, node_proto("output", "Output", nodes[-1].name)])
        file_writer(trainer.logger.experiment).add_event(Event(graph_def=graph.SerializeToString()))


class Histograms(Callback):
    """Writes histograms of W, b, ∂L/∂W and ∂L/∂b to TensorBoard, as ``W/1``, ``b/1``, ``dL_dW/1``, ``dL_db/1`` for layer 1.

    A learnable activation's parameters have histograms too, by their names. Gradients are those of the epoch's last batch;
    their norms are the scalars ``norm/dL_dW/1`` and so on.

    Args:
        every_n_epochs: write them after every n-th epoch.
        budget: decides when they are written, instead of ``every_n_epochs``.
    """

    def __init__(self, every_n_epochs: int = 1, budget: Budget | None = None) -> None:
        self.every_n_epochs, self.budget = every_n_epochs, budget
        self._due = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.budget is None:
            self._due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        else:
            self._due = self.budget.due(trainer, trainer.num_training_batches)
        self._due &= isinstance(trainer.logger, TensorBoardLogger)
        module: Any = pl_module
        module.keep_gradients = self._due

    # Not at the epoch's end: validation comes first, and Lightning clears the gradients for it.
    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.is_last_batch and self._due:
            with self.budget.spending() if self.budget else nullcontext():
                self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        check_finite(module)
        writer = trainer.logger.experiment  # type: ignore[union-attr]
        for number, layer in enumerate(module.network.layers, 1):
            for kept_as, parameter in layer.named_parameters(recurse=False):
                name = short_name(kept_as)
                # TensorBoard's histogram bins end at 1e20.
                writer.add_histogram(f"{name}/{number}", parameter.detach().clamp(-9e19, 9e19), trainer.global_step)
                if parameter.grad is not None:
                    gradient = parameter.grad.clamp(-9e19, 9e19)
                    writer.add_histogram(f"dL_d{name}/{number}", gradient, trainer.global_step)
                    writer.add_scalar(f"norm/dL_d{name}/{number}", gradient.norm(), trainer.global_step)


def short_name(kept_as: str) -> str:
    """The text's name of a parameter: W, b; in a recurrent layer Wi, Wh, bi, bh, with ``_reverse`` if it reads backwards."""
    known = {"weight": "W", "bias": "b", "weight_ih": "Wi", "weight_hh": "Wh", "bias_ih": "bi", "bias_hh": "bh"}
    name, _, direction = kept_as.partition("_l0")
    return known.get(name, name) + direction


class Hyperparameters(Callback):
    """Writes the run's hyperparameters and the names of its validation metrics to TensorBoard's HPARAMS page.

    The page reads each metric from the scalar of that name, so it always shows the latest value.
    """

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        from torch.utils.tensorboard.summary import hparams

        module: Any = pl_module
        data = getattr(trainer, "datamodule", None)
        values: dict[str, Any] = {**module.hparams, **(data.hparams if data else {})}
        values = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in values.items() if not k.startswith("_")}
        split = "val" if trainer.val_dataloaders else "train"
        names = [f"cost/{split}", *module.metrics[split].names]
        writer = file_writer(trainer.logger.experiment)
        for summary in hparams(values, dict.fromkeys(names, 0.0)):
            writer.add_summary(summary)


class Band(Callback):
    """Adds a chart to TensorBoard: the mean cost of several networks, between the lowest and the highest cost."""

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.logger, TensorBoardLogger):
            tags = ["cost/train", "networks/least cost", "networks/greatest cost"]
            trainer.logger.experiment.add_custom_scalars({"networks": {"cost/train, the best and the worst": ["Margin", tags]}})
