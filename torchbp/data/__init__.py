"""LightningDataModules whose batches suit :class:`torchbp.training.BPModule`."""

from torchbp.data._arrays import ArraysDataModule
from torchbp.data._builtin import BuiltinDataModule

__all__ = ["ArraysDataModule", "BuiltinDataModule"]
