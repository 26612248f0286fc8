"""What a run shows: histograms and hyperparameters in TensorBoard, plain lines where there is no terminal."""

from time import monotonic
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import ProgressColumn, Task
from rich.text import Text


class Graph(Callback):
    """The network's graph in TensorBoard, one node a layer: its kind, the shapes of W and b, and that of its output."""

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        # SummaryWriter.add_graph traces the network, for which it imports as much again as PyTorch.
        from torch.utils.tensorboard._proto_graph import node_proto

        layers: Any = pl_module.network.layers  # type: ignore[union-attr]
        nodes = [node_proto("input", "Input", outputsize=(-1, layers[0].in_features))]
        for number, layer in enumerate(layers, 1):
            kind, size = type(layer).__name__, (-1, layer.out_features)
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in layer.named_parameters())
            nodes.append(node_proto(f"{number}_{kind}", kind, nodes[-1].name, outputsize=size, attributes=shapes))
        graph = GraphDef(node=[*nodes, node_proto("output", "Output", nodes[-1].name)])
        trainer.logger.experiment._get_file_writer().add_event(Event(graph_def=graph.SerializeToString()))


class Histograms(Callback):
    """Histograms of every W, b, ∂L/∂W and ∂L/∂b in TensorBoard, as ``W/1``, ``b/1``, ``dL_dW/1``, ``dL_db/1`` for layer 1.

    Those of a learnable activation's parameters are beside them, by their names. Gradients are those of the epoch's last batch;
    their norms are the scalars ``norm/dL_dW/1`` and so on.

    Args:
        every_n_epochs: how often they are written.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        module.keep_gradients = self._due(trainer)

    # Not at the epoch's end: validation comes before it, and Lightning clears the gradients for that.
    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.is_last_batch or not self._due(trainer):
            return
        module: Any = pl_module
        module.check_finite()
        writer = trainer.logger.experiment  # type: ignore[union-attr]
        for number, layer in enumerate(module.network.layers, 1):
            for kept_as, parameter in layer.named_parameters(recurse=False):
                name = {"weight": "W", "bias": "b"}.get(kept_as, kept_as)
                # TensorBoard's bins end at 1e20.
                writer.add_histogram(f"{name}/{number}", parameter.detach().clamp(-9e19, 9e19), trainer.global_step)
                if parameter.grad is not None:
                    gradient = parameter.grad.clamp(-9e19, 9e19)
                    writer.add_histogram(f"dL_d{name}/{number}", gradient, trainer.global_step)
                    writer.add_scalar(f"norm/dL_d{name}/{number}", gradient.norm(), trainer.global_step)

    def _due(self, trainer: Trainer) -> bool:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return due and isinstance(trainer.logger, TensorBoardLogger)


class Hyperparameters(Callback):
    """The run's hyperparameters beside its validation metrics in TensorBoard's HPARAMS page.

    The page reads each metric from the scalars of its name, so it always shows the latest value.
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
        names = [f"cost/{split}", *module.split_metrics(split).keys()]
        writer = trainer.logger.experiment._get_file_writer()
        for summary in hparams(values, dict.fromkeys(names, 0.0)):
            writer.add_summary(summary)


class ProgressBar(RichProgressBar):
    """Rich's bar, with the run's speed in place of the epoch's: one epoch may be over before it is drawn."""

    def __init__(self, **options: Any) -> None:
        # Drawn 100 times a second, as by default, it takes as much of the processor as a small network.
        super().__init__(refresh_rate=10, **options)

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        *columns, _ = super().configure_columns(trainer)
        return [*columns, StepsPerSecond(trainer)] if trainer.training else columns


class StepsPerSecond(ProgressColumn):
    """Gradient-descent steps a second, over a second or more."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer, self.since, self.text = trainer, (monotonic(), trainer.global_step), Text()

    def render(self, task: Task) -> Text:
        now, steps = monotonic(), self.trainer.global_step
        before, steps_before = self.since
        if now - before >= 1:
            self.since, self.text = (now, steps), Text(f"{(steps - steps_before) / (now - before):.0f} steps/s")
        return self.text


class PlainProgress(Callback):
    """A line of the epoch's cost and metrics, about ten times a run, for output that is not a terminal."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        if trainer.is_global_zero and (epoch % max(epochs // 10, 1) == 0 or epoch == 1):
            values = {k: v for k, v in trainer.callback_metrics.items() if k.startswith(("cost", "accuracy", "r2"))}
            print(f"epoch {epoch}/{epochs}", *(f"{k} {v:.4f}" for k, v in sorted(values.items())), sep="  ", flush=True)
