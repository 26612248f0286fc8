"""The base of all data modules: checks rows, splits them, and loads them in batches."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from typing_extensions import Self

from torchbp._plain import plain_arguments, read_plain
from torchbp.data._loader import RowLoader
from torchbp.data._split import PARTS, draw_split
from torchbp.data.content import content_of
from torchbp.data.rows import Rows, where
from torchbp.tasks import Task

BatchSize = int | Literal["full"]
Places = Literal["last", "each"]
Split = Literal["train", "val", "test", "predict"]

EVALUATION_ROWS = 8192  # minimum rows per batch to validate, test or predict: small batches take longer


class RowsDataModule(LightningDataModule):
    """Rows, split into train, val and test by seed, with the same share of each class.

    A subclass defines ``load``. Batches are ``(x, y)`` with x (B, num_features) and y (B, num_outputs), both float32: one
    column of 0 and 1 for ``binary``, one column per class (one-hot) for ``multiclass``, one per label for ``multilabel``.
    Sequences are x (B, T, num_features), NaN after the end of each, with a y as above for each sequence, or
    (B, T, num_outputs) for each step, NaN after the end.

    With several processes, each has a share of the rows for training, validation and test, and all rows to predict. Each holds
    all data in memory, because an epoch's order is that of one process; of rows in files each reads one part of every split.

    Args:
        batch_size: the rows of a gradient-descent step; ``'full'`` for all training rows.
        val_size: the share of all rows held out for validation.
        test_size: the share held out for the test. If both are 0, every split is the whole set.
        standardize: whether a network trained on this data standardises its inputs by the training split's mean and deviation.
        seed: the seed of the split and of the order of the training batches.

    Raises:
        ValueError: an argument is outside its range.
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
        if not (val_size >= 0 and test_size >= 0 and val_size + test_size < 1):
            raise ValueError(f"val_size is {val_size} and test_size {test_size}; they must be at least 0 and below 1 together")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}; it must be from 0 to {2**32 - 1}")
        self.batch_size = batch_size if batch_size == "full" else min(batch_size, 2**63 - 1)
        self.val_size = val_size
        self.test_size = test_size
        self.standardize = standardize
        self.seed = seed
        self.save_hyperparameters(logger=False)
        self.hparams["batch_size"] = self.batch_size  # limited to what a checkpoint can hold
        # A checkpoint names its data module; torchbp's own are found by this name.
        package = ".".join(name for name in type(self).__module__.split(".") if not name.startswith("_"))
        self.hparams.setdefault("_class_path", f"{package}.{type(self).__qualname__}")
        self._rows: Rows | None = None
        self._parts: dict[str, Rows] = {}
        self._given_split: tuple[Tensor | None, int] | None = None  # the arguments of with_parts

    @classmethod
    def saved_arguments(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The saved arguments that a checkpoint may set: no paths, and no settings of memory and caches.

        Raises:
            ValueError: an argument does not fit its annotation.
        """
        arguments = plain_arguments(cls.__init__, saved, "the checkpoint is damaged: its data's ")
        return {name: value for name, value in arguments.items() if name not in ("memory", "keep_cache")}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **arguments: Any) -> Self:  # type: ignore[override]
        """Load the data module of a checkpoint; ``arguments`` override its own, and must have all paths.

        Raises:
            ValueError: the file is not a checkpoint, or holds more than tensors and plain values.
        """
        arguments.pop("weights_only", None)  # always true
        checkpoint = read_plain(checkpoint_path)
        if not isinstance(checkpoint, dict) or not isinstance(saved := checkpoint.get("datamodule_hyper_parameters"), dict):
            raise ValueError(f"{checkpoint_path} does not name the data it was trained on")
        data = cls(**{**cls.saved_arguments(saved), **arguments})
        if state := checkpoint.get(cls.__qualname__):
            data.load_state_dict(state)
        return data

    def with_parts(self, part_of: Tensor | None, fewest: int = 1) -> Self:
        """The same data with another split; columns and classes are fitted anew to its training rows.

        Args:
            part_of: each row's part, (N): 0 for train, 1 for val, 2 for test, any other number for none. If None, every split
                is the whole set.
            fewest: a class with fewer rows is rare.
        """
        data = copy.copy(self)
        data._parts, data._given_split = {}, (part_of, fewest)
        return data

    # A subclass sets these.
    task: Task
    name: str
    path: Path | None = None
    class_names: Sequence[str] = ()
    sequences: Places | None = None  # for sequences, whether the last step has a target or each
    image_shape: tuple[int, ...] | None = None  # if each row of x is a picture: (height, width), and its colours

    def load(self) -> Rows:
        """All rows: x (N, num_features) and y (N, num_outputs) that :func:`check_rows` accepts."""
        raise NotImplementedError(f"{type(self).__name__} has no rows of its own; use one of its subclasses")

    @property
    def rows(self) -> Rows:
        """All rows, loaded once."""
        if self._rows is None:
            self._rows = self.load()
            if self.path is not None:  # a checkpoint identifies its file by content, not only by name
                self.hparams["_content"] = content_of(self.path)
        return self._rows

    @property
    def num_features(self) -> int:
        return self.rows.shapes[0][-1]

    @property
    def num_outputs(self) -> int:
        return self.rows.shapes[1][-1]

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows: a part held out, or the whole set if nothing is held out."""
        return self.val_size > 0 or self.test_size == 0

    def part_of(self) -> Tensor | None:
        """Each row's part, (N): 0 for train, 1 for val, 2 for test; None if every split is the whole set."""
        if self._given_split:
            return self._given_split[0]
        if self.val_size == self.test_size == 0:
            return None
        return draw_split(classes_of(self.rows, self.task), (self.val_size, self.test_size), self.seed, self.class_names)

    def split_rows(self, name: Split) -> Rows:
        """The rows of a split, in their original order; ``predict`` is all rows."""
        if not self._parts:
            rows, part_of = self.rows, self.part_of()
            indices = [None if part_of is None else where(part_of == part) for part in range(len(PARTS))]
            self._parts = dict(zip((*PARTS, "predict"), map(rows.part, [*indices, None]), strict=True))
        return self._parts[name]

    def split_numbers(self, name: Split) -> Tensor:
        """The numbers of a split's rows among :attr:`rows`, in order."""
        part_of = None if name == "predict" else self.part_of()
        return torch.arange(len(self.rows)) if part_of is None else where(part_of == PARTS.index(name))

    # Load rows here, not in setup: between the two, Lightning restores the data's state from a checkpoint.
    def train_dataloader(self) -> RowLoader:
        rows = self.split_rows("train")
        if self.trainer is None:
            return RowLoader(rows, self._batch_size(rows), self.seed)
        return RowLoader(
            rows.to(self.trainer.strategy.root_device),
            self._batch_size(rows),
            self.seed,
            *self._process,
            getattr(self.trainer.lightning_module, "updates_ahead", None),
        )

    def val_dataloader(self) -> RowLoader:
        return self._evaluation_loader(self.split_rows("val"), *self._process)

    def test_dataloader(self) -> RowLoader:
        rows = self.split_rows("test")
        if not len(rows):
            raise ValueError("no row is held out for the test; train with --data.test_size above 0, or test another file")
        return self._evaluation_loader(rows, *self._process)

    def predict_dataloader(self) -> RowLoader:
        """All rows, in order; in every process."""
        return self._evaluation_loader(self.split_rows("predict"))

    @property
    def _process(self) -> tuple[int, int]:
        """The number of this process, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, rows: Rows, rank: int = 0, world_size: int = 1) -> RowLoader:
        if 0 < len(rows) < world_size:  # the other processes would wait for one without rows
            raise ValueError(f"to validate or test, each of {world_size} processes needs a row; there are {len(rows)}")
        return RowLoader(rows, max(self._batch_size(rows), EVALUATION_ROWS), rank=rank, world_size=world_size)

    def _batch_size(self, rows: Rows) -> int:
        return max(len(rows), 1) if self.batch_size == "full" else min(self.batch_size, max(len(rows), 1))


def classes_of(rows: Rows, task: Task) -> Tensor:
    """Each row's class, (N); 0 for tasks without classes."""
    if task in ("multilabel", "regression"):
        return torch.zeros(len(rows), dtype=torch.uint8)
    # A target may be a probability: round it to a class.
    return torch.cat([(y[:, 0] > 0.5).byte() if task == "binary" else y.argmax(1) for (y,) in rows.only(1).chunks()])


def refuse_not_finite(name: str, values: Tensor, first: int) -> None:
    """Refuse rows (B, n) that hold NaN or infinity; ``first`` rows came before.

    Raises:
        ValueError: a value is not finite.
    """
    # If the sum is finite, so is every value; this takes a tenth of the time.
    if not values.sum().isfinite() and len(bad := (~values.isfinite()).nonzero()):
        row, column = bad[0].tolist()
        value = values[row, column].item()
        raise ValueError(f"{name} holds {value} in row {first + row}, column {column}; all values must be finite in float32")


def check_rows(rows: Rows, task: Task) -> None:
    """Refuse rows that cannot be learned from.

    Raises:
        ValueError: there are no rows, shapes do not fit, a value is not finite, or targets are outside [0, 1] or of one class.
    """
    x_shape, y_shape = rows.shapes
    if len(x_shape) != 2 or len(y_shape) != 2 or x_shape[0] != y_shape[0]:
        raise ValueError(f"x has shape {x_shape} and y {y_shape}; they must be (N, features) and (N, outputs)")
    if len(rows) == 0:
        raise ValueError("the data has no rows; at least one is needed")
    start, first, constant = 0, None, None
    for x, y in rows.chunks():
        refuse_not_finite("x", x, start)
        refuse_not_finite("y", y, start)
        if task != "regression":
            low, high = y.aminmax()
            if low < 0 or high > 1:
                raise ValueError(f"y reaches from {low.item():g} to {high.item():g}; for task {task} it must lie in [0, 1]")
            classes = y.argmax(1, keepdim=True) if task == "multiclass" else y
            first = classes[:1] if first is None else first
            same = (classes == first).all(0)
            constant = same if constant is None else constant & same
        start += len(x)
    if constant is not None and constant.any():
        raise ValueError("the target has a single class; at least two are needed")
