"""Small data sets, from scikit-learn's package or from a formula: nothing is downloaded."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from torchbp.data.base import BatchSize, RowsDataModule
from torchbp.data.rows import Rows
from torchbp.tasks import Task

BuiltinName = Literal["xor", "moons", "sines", "breast_cancer", "digits", "diabetes", "digit_rows", "adding"]

# scikit-learn's files, and the number of header lines. The last number of each row is its class.
FILES = {"breast_cancer": ("breast_cancer.csv", 1), "digits": ("digits.csv.gz", 0)}


class BuiltinDataModule(RowsDataModule):
    """A small data set that is always available.

    ============== ====== ========= ============ =================================================================
    name           rows   features  task         content
    ============== ====== ========= ============ =================================================================
    xor            4      2         binary       the exclusive or; every split is the whole set
    moons          1000   2         binary       two half moons with noise of 0.1, drawn by ``seed``
    sines          2000   4         regression   outputs of a 4-4-1 network with sine activations, drawn by ``seed``
    breast_cancer  569    30        binary       patients: is the tumour malignant (0) or benign (1)?
    digits         1797   64        multiclass   handwritten digits, 8x8 pixels
    diabetes       442    10        regression   patients: the disease's progression in a year
    digit_rows     1797   8         multiclass   the digits as sequences, one row of 8 pixels per step
    adding         2000   2         regression   sequences of 30 numbers, drawn by ``seed``; the second channel marks one of
                                                 the first 15 and one of the last 15: what is the sum of these two?
    ============== ====== ========= ============ =================================================================

    Args:
        name: the data set.
        batch_size, val_size, test_size, standardize, seed: as for :class:`RowsDataModule`.

    Raises:
        ValueError: an unknown ``name``.
    """

    def __init__(
        self,
        name: BuiltinName,
        batch_size: BatchSize = 32,
        val_size: float = 0.2,
        test_size: float = 0.2,
        standardize: bool = True,
        seed: int = 0,
    ) -> None:
        if name not in get_args(BuiltinName):
            raise ValueError(f"name is {name!r}; it must be one of {', '.join(get_args(BuiltinName))}")
        if name == "xor":
            val_size = test_size = 0
        super().__init__(batch_size, val_size, test_size, standardize, seed)
        self.name = name
        tasks: dict[str, Task] = {"digits": "multiclass", "digit_rows": "multiclass"}
        tasks |= dict.fromkeys(("diabetes", "sines", "adding"), "regression")
        self.task = tasks.get(name, "binary")
        self.sequences = "last" if name in ("digit_rows", "adding") else None
        self.image_shape = (8, 8) if name == "digits" else None

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        named = {"breast_cancer": ("malignant", "benign"), **dict.fromkeys(("digits", "digit_rows"), tuple("0123456789"))}
        return named.get(self.name, () if self.task == "regression" else ("0", "1"))

    def load(self) -> Rows:
        x: Any
        y: Any
        if drawn := {"sines": _sines, "adding": _adding}.get(self.name):
            x, y = drawn(torch.Generator().manual_seed(self.seed))
        else:
            x, y = _read(self.name.replace("digit_rows", "digits"), self.seed)
            x = x.reshape(-1, 8, 8) if self.name == "digit_rows" else x
        inputs, targets = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)
        if self.task == "multiclass":
            return Rows(inputs, torch.nn.functional.one_hot(targets).float())
        return Rows(inputs, targets.float().unsqueeze(1))


def _sines(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x from N(0, 1), (2000, 4), and Σ_j v_j sin(1.25 w_j · x + c_j) of four hidden units, (2000); w, c, v are drawn too."""
    x, W, c, v = (torch.randn(shape, generator=generator) for shape in ((2000, 4), (4, 4), 4, 4))
    return x, torch.sin(1.25 * x @ W.t() + c) @ v


def _adding(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers from 0 to 1 and marks, (2000, 30, 2), and the sums of the two marked numbers, (2000): Hochreiter's task, 1997."""
    values = torch.rand(2000, 30, generator=generator)
    places = torch.randint(15, (2000, 2), generator=generator) + torch.tensor([0, 15])
    marks = torch.zeros_like(values).scatter_(1, places, 1.0)
    return torch.stack([values, marks], 2), (values * marks).sum(1)


def _read(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y as ``sklearn.datasets`` has them. Importing that takes nearly as long as PyTorch, so files are read here."""
    if name == "xor":
        return np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    spec = find_spec("sklearn")
    if name in FILES and spec and spec.origin:
        file, lines = FILES[name]
        path = Path(spec.origin).parent / "datasets" / "data" / file
        if path.is_file():
            values = np.loadtxt(path, delimiter=",", skiprows=lines)
            return values[:, :-1], values[:, -1].astype(int)
    from sklearn import datasets

    if name == "moons":
        return datasets.make_moons(1000, noise=0.1, random_state=seed)
    return getattr(datasets, f"load_{name}")(return_X_y=True)
