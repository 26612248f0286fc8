"""Compares whole training runs with plain Lightning's and scikit-learn's, with the same rows, network, batch and epochs."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchbp.benchmark._rows import Progress, Row, compare, interleaved
from torchbp.benchmark._steps import AUTOGRAD, FUSED, plain_network
from torchbp.data.base import RowsDataModule, Task
from torchbp.data.rows import Rows
from torchbp.training import BPModule

LR = 0.1
WARM_UP = 1000  # rows of an epoch that is not measured
LIGHTNING, SKLEARN = "plain Lightning", "MLPClassifier"


def training_times(quick: bool, rounds: int, progress: Progress) -> list[Row]:
    """Seconds per step of whole runs: on breast_cancer, and on 50,000 random rows of an image's size."""
    generator = torch.Generator().manual_seed(0)
    images = 200 if quick else 50_000
    x = torch.rand(images, 784, generator=generator)
    labels = torch.randint(10, (images,), generator=generator)
    y = torch.nn.functional.one_hot(labels).float()
    return [
        *_compared("breast_cancer", *_breast_cancer(), [16], 32, 1 if quick else 100, rounds, progress),
        *_compared(f"{images} x 784", x, y, [100], 10, 1, rounds, progress),
    ]


def _compared(
    name: str, x: Tensor, y: Tensor, hidden: Sequence[int], batch: int, epochs: int, rounds: int, progress: Progress
) -> list[Row]:
    setting = f"{name}, B {batch}, {epochs} epoch{'s' if epochs > 1 else ''}"
    iterations = epochs * -(-len(x) // batch)
    runs: dict[str, Callable[..., None]] = {
        FUSED: partial(_torchbp, FUSED),
        AUTOGRAD: partial(_torchbp, AUTOGRAD),
        LIGHTNING: _lightning,
        SKLEARN: _sklearn,
    }
    progress(setting)
    for run in runs.values() if epochs * len(x) > WARM_UP else ():
        run(x[:WARM_UP], y[:WARM_UP], hidden, batch, 1)  # warm up
    whole = {name: partial(run, x, y, hidden, batch, epochs) for name, run in runs.items()}
    times = interleaved(whole, rounds, None, iterations, lambda done: progress(f"{setting}: {done}"))
    return [
        compare("training run, per step", setting, ours, peer, "s", times, {})
        for ours in (FUSED, AUTOGRAD)
        for peer in (LIGHTNING, SKLEARN)
    ]


def _breast_cancer() -> tuple[Tensor, Tensor]:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).unsqueeze(1)


class _Rows(RowsDataModule):
    """Given rows, all for training. They are set as attributes, because Lightning copies every argument."""

    name = "rows"
    x: Tensor
    y: Tensor

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size, val_size=0, test_size=0, standardize=False)

    def load(self) -> Rows:
        return Rows(self.x, self.y)


class _Plain(LightningModule):
    """The simplest LightningModule: Linear and Sigmoid layers, a cost, an optimizer."""

    def __init__(self, sizes: Sequence[int], lr: float) -> None:
        super().__init__()
        self.network, self.cost, self.lr = plain_network(sizes), nn.BCEWithLogitsLoss(), lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return self.cost(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def trainer(max_epochs: int | None = None, max_steps: int = -1) -> Trainer:
    """A Trainer that only trains."""
    return Trainer(
        max_epochs=max_epochs,
        max_steps=max_steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def _torchbp(engine: str, x: Tensor, y: Tensor, hidden: Sequence[int], batch: int, epochs: int) -> None:
    task: Task = "multilabel" if y.shape[1] > 1 else "binary"
    # No metrics of the training split: the peers compute none.
    model = BPModule(x.shape[1], y.shape[1], hidden, task, lr=LR, engine=engine, train_metrics=False)  # type: ignore[arg-type]
    data = _Rows(batch)
    data.x, data.y, data.task = x, y, task
    trainer(max_epochs=epochs).fit(model, datamodule=data)


def _lightning(x: Tensor, y: Tensor, hidden: Sequence[int], batch: int, epochs: int) -> None:
    loader = DataLoader(TensorDataset(x, y), batch, shuffle=True)
    trainer(max_epochs=epochs).fit(_Plain([x.shape[1], *hidden, y.shape[1]], LR), loader)


def _sklearn(x: Tensor, y: Tensor, hidden: Sequence[int], batch: int, epochs: int) -> None:
    model = MLPClassifier(
        list(hidden),
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=batch,
        learning_rate="constant",
        learning_rate_init=LR / y.shape[1],  # its cost is summed over the outputs
        max_iter=epochs,
        shuffle=True,
        tol=0,
        momentum=0,
        nesterovs_momentum=False,
        n_iter_no_change=epochs + 1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x.numpy(), y.squeeze(1).numpy())
