"""LightningDataModules whose batches suit :class:`torchbp.training.BPModule`."""

from torchbp.data import _memory  # noqa: F401
from torchbp.data._arrays import ArrayDataModule
from torchbp.data._base import RowsDataModule
from torchbp.data._builtin import BuiltinDataModule
from torchbp.data._rows import Mapped, Rows
from torchbp.data._tabular import TabularDataModule

__all__ = ["ArrayDataModule", "BuiltinDataModule", "Mapped", "Rows", "RowsDataModule", "TabularDataModule"]
