"""Reads arrays from NumPy's files."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbp._plain import refuse_misfit
from torchbp.data._loader import RowLoader
from torchbp.data._memory import GIB, most_bytes, refuse_large, refuse_one_hot
from torchbp.data.base import BatchSize, RowsDataModule, check_rows
from torchbp.data.rows import Mapped, Rows
from torchbp.data.suffixes import ARRAYS
from torchbp.data.values import counted, listed
from torchbp.tasks import Task, check_task

FEW = 1000  # maximum distinct integers of y that are taken for classes


class ArrayDataModule(RowsDataModule):
    """Rows of arrays: x (N, ...) with features of any shape, and y (N) or (N, outputs).

    Args:
        path: an ``.npz`` file with both arrays, or a ``.npy`` file of x.
        target: the ``.npy`` file of y, if ``path`` is a ``.npy`` file.
        x, y: the names of the arrays in an ``.npz`` file.
        task: the task. Inferred if None: integers, booleans or names (N) are classes, ``binary`` if there are two, else
            ``multiclass``; integers or booleans (N, outputs) that are all 0 or 1 are ``multilabel``; anything else is
            ``regression``.
        divide_by: x is divided by this, such as 255 for the bytes of images.
        batch_size, val_size, test_size, standardize, seed: as for :class:`RowsDataModule`.
        memory: GiB, as float32, up to which x of a ``.npy`` file is held in memory. A larger x is read from the file block by
            block, and shuffled among nearby rows.

    Raises:
        ValueError: an argument is outside its range; when the rows are first needed, the arrays cannot be read or learned from.
        FileNotFoundError: when the rows are first needed, the file does not exist.
    """

    def __init__(
        self,
        path: str | Path,
        target: str | Path | None = None,
        x: str = "x",
        y: str = "y",
        task: Task | None = None,
        divide_by: float = 1.0,
        batch_size: BatchSize = 32,
        val_size: float = 0.2,
        test_size: float = 0.2,
        standardize: bool = True,
        seed: int = 0,
        memory: float = 1.0,
    ) -> None:
        # Plain values, because they are saved with the checkpoint.
        path, target = str(path), None if target is None else str(target)
        super().__init__(batch_size, val_size, test_size, standardize, seed)
        if task is not None:
            check_task(task)
        if not (divide_by and np.isfinite(divide_by)):
            raise ValueError(f"divide_by is {divide_by}; it must be a finite number other than 0")
        if not memory >= 0:
            raise ValueError(f"memory is {memory}; it must be 0 GiB or more")
        self.path: Path = Path(path)
        self.target = None if target is None else Path(target)
        suffix = self.path.suffix.lower()
        if suffix not in ARRAYS:
            raise ValueError(f"{path} has the extension {suffix!r}; it must be one of {', '.join(ARRAYS)}")
        if suffix == ".npz" and target is not None:
            raise ValueError(f"target is {target}; in an .npz file the target is the array {y!r}, so leave target out")
        if self.target and self.target.suffix.lower() != ".npy":
            raise ValueError(f"target is {target}; it must be the .npy file of y")
        self._names = x, y
        self._given_task = task
        self._divide_by, self._memory = divide_by, memory
        self._target: ArrayTarget | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.stem

    @property
    def task(self) -> Task:  # type: ignore[override]
        return self._fitted_target.task

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        return [str(value) for value in self._fitted_target.classes]

    @property
    def num_features(self) -> int:
        return self._fitted_target.num_features

    @property
    def num_outputs(self) -> int:
        return self._fitted_target.num_outputs

    @property
    def _fitted_target(self) -> "ArrayTarget":
        if self._target is None:
            _ = self.rows
        assert self._target is not None
        return self._target

    def load(self) -> Rows:
        y, x = self._y(), self._x()
        if len(x) != len(y):
            raise ValueError(f"x has shape {x.shape} and y {y.shape}; they must have the same number of rows")
        if self._target is None:
            self._target = fit_target(y, self._given_task, math.prod(x.shape[1:]))
        self.image_shape = x.shape[1:] if x.ndim in (3, 4) else None
        rows = Rows(self._source(x), torch.from_numpy(self._target.encode(y)))
        check_rows(rows, self._target.task)
        return rows

    def predict_dataloader(self) -> RowLoader:
        """All rows of x, without y; in every process."""
        return self._evaluation_loader(Rows(self._source(self._x())))

    def _source(self, x: np.ndarray) -> Tensor | Mapped:
        """The rows of x as float32: in memory, or in their file."""
        if self._target is not None and math.prod(x.shape[1:]) != self._target.num_features:
            raise ValueError(f"x has shape {x.shape}; the network takes {self._target.num_features} values per row")
        if isinstance(x, np.memmap) and x.size * 4 > self._memory * GIB:
            return Mapped(self.path, self._divide_by)
        if not isinstance(x, np.memmap):  # the file may be compressed, and its numbers small
            refuse_large(f"x in {self.path}, of shape {x.shape}: its numbers in float32", 4 * x.size)
        with np.errstate(over="ignore"):  # infinity is refused later
            rows = torch.from_numpy(x.reshape(len(x), -1).astype(np.float32))
        return rows if self._divide_by == 1 else rows.div_(self._divide_by)

    def _x(self) -> np.ndarray:
        x = read(self.path, self._names[0])
        if x.dtype.kind not in "buif" or x.ndim == 0 or not x.size:
            raise ValueError(f"x in {self.path} has type {x.dtype} and shape {x.shape}; it must be numbers, at least one row")
        return x if x.ndim > 1 else x[:, None]

    def _y(self) -> np.ndarray:
        if self.target is None and self.path.suffix.lower() == ".npy":
            raise ValueError(f"target is None; for {self.path} it must be the .npy file of y")
        path = self.target or self.path
        y = read(path, self._names[1])
        if y.dtype.kind not in "buifU" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
            raise ValueError(f"y in {path} has type {y.dtype} and shape {y.shape}; it must be numbers, (N) or (N, outputs)")
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y

    def state_dict(self) -> dict[str, Any]:
        """The target's task, widths and classes, as plain values; empty before they are known."""
        return {} if self._target is None else asdict(self._target)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Use the classes of the run that saved this state.

        Raises:
            ValueError: that run had another task.
        """
        refuse_misfit("the checkpoint's state of the arrays", state_dict, ArrayTarget)
        target = ArrayTarget(**state_dict)
        if self._given_task not in (None, target.task):
            raise ValueError(f"the checkpoint's task is {target.task}, here it is {self._given_task}")
        if target != self._target:
            self._target, self._rows, self._parts = target, None, {}


@dataclass
class ArrayTarget:
    """How an array y becomes targets.

    Args:
        task: the task.
        num_features, num_outputs: the widths of x and y.
        classes: the distinct values of y, sorted, if each row has one class; else empty.
    """

    task: Task
    num_features: int
    num_outputs: int
    classes: list[float | str | bool]

    def encode(self, y: np.ndarray) -> np.ndarray:
        """y (N, num_outputs), float32.

        Raises:
            ValueError: a class is not among ``classes``, or y has another number of outputs.
        """
        if not self.classes:
            if y.dtype.kind == "U":
                raise ValueError(f"y holds names, such as {str(y.flat[0])!r}; for task {self.task} it must hold numbers")
            rows = y.reshape(len(y), -1).astype(np.float32)
            if rows.shape[1] != self.num_outputs:
                raise ValueError(
                    f"y has {counted(rows.shape[1], 'output', 'outputs')}; the checkpoint's network has {self.num_outputs}"
                )
            return rows
        classes = np.array(self.classes)
        code = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        if len(unknown := np.flatnonzero(classes[code] != y)):
            raise ValueError(f"y holds {y[unknown[0]]} in row {unknown[0]}; the classes are {listed(self.classes)}")
        if self.task == "binary":
            return code[:, None].astype(np.float32)
        refuse_one_hot(len(y), len(classes))
        return np.eye(len(classes), dtype=np.float32)[code]


def fit_target(y: np.ndarray, task: Task | None, num_features: int) -> ArrayTarget:
    """The task and classes of y, inferred as :class:`ArrayDataModule` says.

    Raises:
        ValueError: the values do not fit the task.
    """
    whole = y.dtype.kind in "buiU"
    if task is None and y.ndim == 2:
        task = "multilabel" if whole and np.isin(y, (0, 1)).all() else "regression"
    if y.ndim == 2 or not (whole or task == "multiclass") or task in ("multilabel", "regression"):
        return ArrayTarget(task or "regression", num_features, y.shape[1] if y.ndim == 2 else 1, [])
    classes = np.unique(y).tolist()
    task = task or ("binary" if len(classes) == 2 else "multiclass")
    if task == "binary" and len(classes) != 2:
        raise ValueError(f"y has {counted(len(classes), 'class', 'classes')}, {listed(classes)}; task binary has two")
    if len(classes) > FEW:
        hint = "" if y.dtype.kind == "U" else "; set task='regression' if they are quantities"
        raise ValueError(f"y has {len(classes)} distinct values; at most {FEW} classes are allowed{hint}")
    return ArrayTarget(task, num_features, 1 if task == "binary" else len(classes), classes)


def read(path: Path, name: str) -> np.ndarray:
    """The array of a ``.npy`` file, memory-mapped, or the array called ``name`` in an ``.npz`` file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be read without running code, or has no array of that name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        mapped = path.suffix.lower() == ".npy"
        with path.open("rb") as file:  # NumPy would leave a damaged archive open
            loaded = np.load(path if mapped else file, mmap_mode="r" if mapped else None, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                names = list(loaded.files)
                if name in names:
                    size, most = sum(entry.file_size for entry in loaded.zip.infolist()), 2 * most_bytes()
                    if size > most:  # a small compressed file may hold more than the memory
                        raise ValueError(f"its arrays take {size / GIB:.3g} GiB; this machine can read {most / GIB:.3g} GiB")
                    return loaded[name]
    except (ValueError, OSError, EOFError, MemoryError, OverflowError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "pickled" in reason:  # NumPy says this of any file that is not its own
            reason = "it holds no array; Python objects are not loaded, because that could run code"
        raise ValueError(f"{path} cannot be read as {path.suffix[1:].upper()}: {reason}") from None
    raise ValueError(f"{path} has no array {name!r}; it has {listed(names)}")
