"""LightningDataModules whose batches suit :class:`torchbp.training.BPModule`."""

from torchbp.data._arrays import ArraysDataModule
from torchbp.data._builtin import BuiltinDataModule
from torchbp.data._tabular import TabularDataModule

__all__ = ["ArraysDataModule", "BuiltinDataModule", "TabularDataModule"]
