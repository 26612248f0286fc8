"""The base of data modules of tables and sequences: one file, or one per split, and a fitted target."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from torchbp.data._target import Target
from torchbp.data.base import BatchSize, RowsDataModule
from torchbp.data.rows import Rows
from torchbp.tasks import Task, check_task


class FileDataModule(RowsDataModule):
    """Rows of a file. The target is known after the file was read or a checkpoint was loaded.

    A subclass defines ``load``, ``fitted_target``, ``feature_names`` and ``offsets``.

    Args:
        path: the file.
        val_path, test_path: the files of the validation and the test rows; None for a part of ``path``.
        task: the task; None to infer it.
        batch_size, val_size, test_size, standardize, seed: as for :class:`RowsDataModule`; the sizes are not None.

    Raises:
        ValueError: as for :class:`RowsDataModule`, or the task is unknown.
    """

    # Defined by a subclass, after the file was read or a checkpoint was loaded.
    fitted_target: Target  # how the target becomes y
    feature_names: list[str]  # of x's columns, or channels
    path: Path

    def __init__(
        self,
        path: str,
        val_path: str | None,
        test_path: str | None,
        task: Task | None,
        batch_size: BatchSize,
        val_size: float,
        test_size: float,
        standardize: bool,
        seed: int,
    ) -> None:
        super().__init__(batch_size, val_size, test_size, standardize, seed)
        self.hparams.update(val_size=val_size, test_size=test_size)  # the values used, not None
        if task is not None:
            check_task(task)
        self.path = Path(path)
        self.other_paths = {"val": val_path, "test": test_path}
        self._given_task = task
        self._part_of: Tensor | None = None
        self._others: dict[str, Rows] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.stem

    @property
    def task(self) -> Task:  # type: ignore[override]
        return self.fitted_target.task

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        return self.fitted_target.class_names

    @property
    def num_features(self) -> int:
        return len(self.feature_names)

    @property
    def num_outputs(self) -> int:
        return self.fitted_target.num_outputs

    @property
    def target_offsets(self) -> Sequence[float]:
        """What was subtracted from each target in float64; add it to predictions. Empty if nothing was."""
        return self.fitted_target.offsets

    @property
    def has_validation(self) -> bool:
        return bool(self.other_paths["val"]) or self.val_size > 0 or (self.test_size == 0 and not self.other_paths["test"])

    def part_of(self) -> Tensor | None:
        _ = self.rows  # loading them sets it
        return self._part_of
