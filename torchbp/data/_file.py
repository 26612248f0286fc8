"""What data modules of tables and of sequences share: a file each, or a part of one, for each split, and a fitted target."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from torchbp.data._target import Target
from torchbp.data.base import BatchSize, RowsDataModule
from torchbp.data.rows import Rows
from torchbp.tasks import Task, check_task


class FileDataModule(RowsDataModule):
    """Rows of a file, whose target is known once the file was read or a checkpoint was loaded.

    A subclass gives ``load``, ``fitted_target``, ``feature_names`` and ``offsets``.

    Args:
        path: the file.
        val_path, test_path: files of the rows to validate and to test on; None for a part of ``path``.
        task: what is learned; None to infer it.
        batch_size, val_size, test_size, standardize, seed: as for :class:`RowsDataModule`, the sizes as they are drawn.

    Raises:
        ValueError: as :class:`RowsDataModule`, or no such task.
    """

    # What a subclass says of its file, once that was read or a checkpoint was loaded.
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
        self.hparams.update(val_size=val_size, test_size=test_size)  # as they turned out
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
        """What was taken from each target in float64, to be added to predictions; empty where nothing was."""
        return self.fitted_target.offsets

    @property
    def has_validation(self) -> bool:
        return bool(self.other_paths["val"]) or self.val_size > 0 or (self.test_size == 0 and not self.other_paths["test"])

    def part_of(self) -> Tensor | None:
        _ = self.rows  # it is settled as they are loaded
        return self._part_of
