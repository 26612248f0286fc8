"""LightningDataModules with batches for :class:`torchbp.training.BPModule`."""

from torchbp.data import _allocator  # noqa: F401
from torchbp.data._arrays import ArrayDataModule
from torchbp.data._builtin import BuiltinDataModule
from torchbp.data._sequences import SequenceDataModule
from torchbp.data._tabular import TabularDataModule
from torchbp.data.base import RowsDataModule
from torchbp.data.rows import Mapped, Rows

__all__ = [
    "ArrayDataModule",
    "BuiltinDataModule",
    "Mapped",
    "Rows",
    "RowsDataModule",
    "SequenceDataModule",
    "TabularDataModule",
]
