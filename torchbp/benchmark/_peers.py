"""Scripts without torchbp to compare with: ``python -m torchbp.benchmark._peers PEER DATA EPOCHS``.

DATA is ``breast_cancer``, ``digits``, or a CSV file with a column ``label`` of 0 and 1. Network, cost, batches, epochs, split
and metrics are those of ``torchbp fit`` with the options in :mod:`torchbp.benchmark._command`.
"""

import sys
import warnings
from typing import Any

SETTINGS = {"breast_cancer": ([16], 32, 0.5), "digits": ([64], 32, 3.0)}  # hidden_sizes, batch_size, lr as in configs/
TABLE = ([64], 256, 0.5)


def read(data: str) -> tuple[Any, Any]:
    """x (N, features) and y (N), as NumPy arrays."""
    if data in SETTINGS:
        from sklearn import datasets

        return getattr(datasets, f"load_{data}")(return_X_y=True)
    import polars as pl

    table = pl.read_csv(data)
    return table.drop("label").to_numpy(), table["label"].to_numpy()


def split(x: Any, y: Any) -> Any:
    """x and y for training and validation; a fifth is held out for a test."""
    from sklearn.model_selection import train_test_split

    x, _, y, _ = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    return train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)


def sklearn(data: str, epochs: int) -> None:
    """Fit a pipeline with MLPClassifier; print its accuracy on the validation split."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    hidden, batch, lr = SETTINGS.get(data, TABLE)
    x, x_val, y, y_val = split(*read(data))
    classifier = MLPClassifier(
        hidden,
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=batch,
        learning_rate="constant",
        learning_rate_init=lr,
        max_iter=epochs,
        tol=0,
        momentum=0,
        nesterovs_momentum=False,
        n_iter_no_change=epochs + 1,
    )
    warnings.simplefilter("ignore")
    print(make_pipeline(StandardScaler(), classifier).fit(x, y).score(x_val, y_val))


def lightning(data: str, epochs: int) -> None:
    """Train a LightningModule with the same metrics, TensorBoard's logger and checkpoints of the best and the last epoch."""
    import torch
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, TensorDataset
    from torchmetrics import MetricCollection
    from torchmetrics.classification import AUROC, Accuracy, AveragePrecision, F1Score

    hidden, batch, lr = SETTINGS.get(data, TABLE)
    x, x_val, y, y_val = split(*read(data))
    outputs = 10 if data == "digits" else 1
    kind: dict[str, Any] = {"task": "multiclass", "num_classes": outputs} if outputs > 1 else {"task": "binary"}

    class Network(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(x.shape[1], hidden[0]), nn.Sigmoid(), nn.Linear(hidden[0], outputs)]
            self.network = nn.Sequential(*layers)
            self.cost = nn.CrossEntropyLoss() if outputs > 1 else nn.BCEWithLogitsLoss()
            metrics: dict[str, Any] = {"accuracy": Accuracy(**kind), "f1": F1Score(**kind)}
            ranked: dict[str, Any] = {"auroc": AUROC(**kind), "average_precision": AveragePrecision(**kind)}
            self.of_train = MetricCollection(metrics, postfix="/train")
            self.of_val = MetricCollection({**metrics, **ranked}, postfix="/val").clone()

        def _step(self, batch: list[Tensor], name: str, metrics: MetricCollection) -> Tensor:
            inputs, target = batch
            z = self.network(inputs)
            if outputs > 1:
                cost, prediction = self.cost(z, target), z.softmax(1)
            else:
                cost, prediction = self.cost(z[:, 0], target.float()), z[:, 0].sigmoid()
            metrics.update(prediction, target)
            self.log(name, cost, on_step=False, on_epoch=True, batch_size=len(inputs))
            self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(inputs))
            return cost

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self._step(batch, "cost/train", self.of_train)

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self._step(batch, "cost/val", self.of_val)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=lr)

    def loader(inputs: Any, target: Any, **options: Any) -> DataLoader:
        scaled = (inputs - x.mean(0)) / (x.std(0) + 1e-12)
        return DataLoader(TensorDataset(torch.tensor(scaled, dtype=torch.float32), torch.tensor(target).long()), **options)

    warnings.simplefilter("ignore")
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=epochs,
        logger=TensorBoardLogger("."),
        callbacks=[ModelCheckpoint(monitor="cost/val", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Network(), loader(x, y, batch_size=batch, shuffle=True), loader(x_val, y_val, batch_size=8192))
    print(trainer.callback_metrics["accuracy/val"].item())


def descent(data: str, epochs: int) -> None:
    """Take only the steps of ``torchbp fit``, on the first 36,000 pictures of a ``.npy`` file, in order."""
    import numpy as np
    import torch

    from torchbp.descent import Descent
    from torchbp.nn import BPNetwork

    x = torch.from_numpy(np.load(data)[:36_000].reshape(36_000, -1)).float() / 255
    y = torch.nn.functional.one_hot(torch.arange(36_000) % 10).float()
    network = Descent(BPNetwork([x.shape[1], 30, 10], "softmax"), lr=0.1)
    for _ in range(epochs):
        network.steps(x, y, 10)


if __name__ == "__main__":
    {"sklearn": sklearn, "lightning": lightning, "descent": descent}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
