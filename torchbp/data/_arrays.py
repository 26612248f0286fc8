"""What every data module of this package does with its rows: check them, split them, hand them out in batches."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from sklearn.model_selection import train_test_split
from torch import Tensor

from torchbp.data._loader import RowLoader, Rows

Task = Literal["binary", "multilabel", "multiclass", "regression"]
BatchSize = int | Literal["full"]


EVALUATION_ROWS = 8192  # to validate, test or predict, batches of at least so many rows cost less


class ArraysDataModule(LightningDataModule):
    """Rows that fit memory, split into train, val and test by seed, stratified by class.

    A subclass gives ``load``. Batches are ``(x, y)`` with x (B, num_features) and y (B, num_outputs), both float32: one
    column of 0 and 1 for ``binary``, one column a class (one-hot) for ``multiclass``, one a label for ``multilabel``.

    Args:
        batch_size: rows a gradient-descent step: 1 descends sample by sample, ``'full'`` accumulates over the whole set.
        val_size, test_size: the parts held out, as fractions of all rows. Both 0: every split is the whole set.
        standardize: whether a network trained on this data standardises its inputs by the training split's mean and deviation.
        seed: of the split and of the order of the training batches.
    """

    def __init__(
        self,
        batch_size: BatchSize = 32,
        val_size: float = 0.2,
        test_size: float = 0.2,
        standardize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size != "full" and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size is {batch_size!r}; it must be a positive integer or 'full'")
        if val_size < 0 or test_size < 0 or val_size + test_size >= 1:
            raise ValueError(f"val_size is {val_size} and test_size {test_size}; they must be at least 0 and below 1 together")
        self.batch_size = batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.standardize = standardize
        self.seed = seed
        self.save_hyperparameters(logger=False)
        # A checkpoint says what data module it was trained with, so that nothing else is needed to predict.
        self.hparams.setdefault("_class_path", f"{type(self).__module__}.{type(self).__qualname__}")
        self._rows: tuple[Tensor, Tensor] | None = None
        self._splits: dict[str, Rows] = {}

    # What a subclass says of its data.
    task: Task
    name: str
    class_names: Sequence[str] = ()

    def load(self) -> tuple[Tensor, Tensor]:
        """All rows: x (N, num_features) and y (N, num_outputs)."""
        raise NotImplementedError

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows, loaded and checked once."""
        if self._rows is None:
            x, y = self.load()
            check_rows(x, y, self.task)
            self._rows = x, y
        return self._rows

    @property
    def num_features(self) -> int:
        return self.rows[0].shape[1]

    @property
    def num_outputs(self) -> int:
        return self.rows[1].shape[1]

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to validate on: a part held out, or the whole set where nothing is."""
        return self.val_size > 0 or self.test_size == 0

    def split_rows(self, split: Literal["train", "val", "test", "predict"]) -> Rows:
        """The rows of a split; ``predict`` is all of them."""
        if not self._splits:
            self._splits = {name: Rows(*self.rows, subset=index) for name, index in self._split(self.rows[1]).items()}
        return self._splits[split]

    def _split(self, y: Tensor) -> dict[str, Tensor | None]:
        """The index of each split's rows; None is all of them."""
        if self.val_size == self.test_size == 0:
            return dict.fromkeys(("train", "val", "test", "predict"))
        parts = {"val": self.val_size, "test": self.test_size}
        classes = {"binary": y[:, 0], "multiclass": y.argmax(1)}.get(self.task)
        train, splits = np.arange(len(y)), dict[str, Tensor | None]()
        for part, size in parts.items():
            held_out = round(size * len(y))
            splits[part] = torch.tensor([], dtype=torch.long)
            if size and not held_out:
                raise ValueError(f"{len(y)} rows are too few for a {part}_size of {size}; it comes to none")
            if held_out:
                strata = None if classes is None else classes[train]
                try:
                    train, index = train_test_split(train, test_size=held_out, random_state=self.seed, stratify=strata)
                except ValueError as error:
                    raise ValueError(f"{len(y)} rows cannot be split with {part}_size {size}: {error}") from None
                splits[part] = torch.from_numpy(index)
        splits["train"] = torch.from_numpy(train)
        return {**splits, "predict": None}

    # Rows are asked for here, not in setup: between the two Lightning restores what a checkpoint knows of the data.
    def train_dataloader(self) -> RowLoader:
        rows = self.split_rows("train")
        if self.trainer is None:
            return RowLoader(rows, self._batch_size(rows), self.seed)
        return RowLoader(
            rows.to(self.trainer.strategy.root_device),
            self._batch_size(rows),
            self.seed,
            self.trainer.global_rank,
            self.trainer.world_size,
            getattr(self.trainer.lightning_module, "updates_ahead", None),
        )

    def val_dataloader(self) -> RowLoader:
        return self._evaluation_loader(self.split_rows("val"))

    def test_dataloader(self) -> RowLoader:
        return self._evaluation_loader(self.split_rows("test"))

    def predict_dataloader(self) -> RowLoader:
        return self._evaluation_loader(self.split_rows("predict"))

    def _evaluation_loader(self, rows: Rows) -> RowLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return RowLoader(rows, max(self._batch_size(rows), EVALUATION_ROWS), rank=rank, world_size=world_size)

    def _batch_size(self, rows: Rows) -> int:
        return max(len(rows), 1) if self.batch_size == "full" else self.batch_size


def check_rows(x: Tensor, y: Tensor, task: Task) -> None:
    """Refuse rows that cannot be learned from.

    Raises:
        ValueError: no rows, shapes that do not fit, NaN or infinity, targets outside [0, 1] or of a single class.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be (N, features) and (N, outputs)")
    if len(x) == 0:
        raise ValueError("the data has no rows; at least one is needed")
    for name, values in (("x", x), ("y", y)):
        # A sum that is finite says so of every value, in a tenth of the time.
        if not values.sum().isfinite() and len(bad := (~values.isfinite()).nonzero()):
            row, column = bad[0].tolist()
            raise ValueError(
                f"{name} holds {values[row, column].item()} in row {row}, column {column}; all values must be finite"
            )
    if task == "regression":
        return
    if y.min() < 0 or y.max() > 1:
        raise ValueError(f"y reaches from {y.min().item():g} to {y.max().item():g}; for task {task} it must lie in [0, 1]")
    classes = y.argmax(1) if task == "multiclass" else y
    constant = (classes == classes[0]).all(0)
    if constant.any():
        raise ValueError("the target has a single class; there is nothing to tell apart, at least two are needed")
