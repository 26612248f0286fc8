"""Makes the training and test rows of each fold with scikit-learn's splitters."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from torchbp.data._split import draw_split
from torchbp.data._tabular import DROPPED, TabularDataModule
from torchbp.data._written import days, moments, order_of
from torchbp.data.base import RowsDataModule, classes_of
from torchbp.data.rows import where
from torchbp.data.values import as_text, counted, is_date, natural, shown

__all__ = ["Fold", "folds_of", "refuse_folds"]


@dataclass
class Fold:
    """One split of the rows.

    Attributes:
        repeat, number: the numbers of the repeat and of the fold in it, from 1.
        part_of: each row's part, (N): 0 for train, 1 for val, 2 for test, any other number for none.
    """

    repeat: int
    number: int
    part_of: Tensor

    def rows(self, part: int) -> Tensor:
        """The indices of a part's rows."""
        return where(self.part_of == part)


def folds_of(
    data: RowsDataModule,
    folds: int,
    repeats: int = 1,
    val_size: float = 0.0,
    groups: str | None = None,
    order: str | None = None,
) -> list[Fold]:
    """The folds of each repeat, drawn by the data's seed, with the same share of each class as far as groups allow it.

    Args:
        data: all rows, from :meth:`RowsDataModule.with_parts` with None.
        folds: the number of folds, 2 or more.
        repeats: how often to draw folds, 1 or more.
        val_size: the share of a fold's training rows that is held out for validation.
        groups: a column; rows with the same value stay in one part.
        order: a column; test rows come after training rows in its order.

    Raises:
        ValueError: there are too few rows, classes or groups for this number of folds, or a column cannot be used.
    """
    refuse_folds(data, folds, repeats, groups, order)
    kept, classes = _kept(data)
    if len(kept) < folds:
        raise ValueError(f"the data has {counted(len(kept), 'row', 'rows')}; {folds} folds need at least as many")
    of_group = None if groups is None else _groups(data.column(groups))[kept.numpy()]  # type: ignore[attr-defined]
    if order is not None:
        kept = kept[torch.from_numpy(_moments(data.column(order))[kept.numpy()]).argsort(stable=True)]  # type: ignore[attr-defined]
    stratified = data.task in ("binary", "multiclass") and order is None
    if stratified and groups is None:
        _refuse_rare(classes, folds, data)
    result = []
    for repeat in range(repeats):
        splitter = _splitter(folds, data.seed + repeat, stratified, groups is not None, order is not None)
        for number, (train, test) in enumerate(_split(splitter, classes, of_group, folds, groups)):
            val, seed = np.zeros(len(train), bool), data.seed + repeat
            if val_size and order is not None:
                val[-max(round(val_size * len(train)), 1) :] = True
            elif val_size:
                val = _held_out(classes[train], None if of_group is None else of_group[train], val_size, seed, stratified, data)
            part_of = torch.full((len(data.rows),), DROPPED, dtype=torch.uint8)
            part_of[kept[train]] = torch.from_numpy(val.astype(np.uint8))
            part_of[kept[test]] = 2
            result.append(Fold(repeat + 1, number + 1, part_of))
    return result


def refuse_folds(data: RowsDataModule, folds: int, repeats: int, groups: str | None, order: str | None) -> None:
    """Refuse arguments of :func:`folds_of` that do not fit together, before any row is read.

    Raises:
        ValueError: a number is too small, or a column cannot be used.
    """
    for option, value, least in (("folds", folds, 2), ("repeats", repeats, 1)):
        if value < least:
            raise ValueError(f"{option} is {value}; it must be {least} or more")
    if groups and order:
        raise ValueError(f"groups is {groups!r} and order {order!r}; rows are split by one of them")
    if order and repeats > 1:
        raise ValueError(f"repeats is {repeats}; rows in the order of {order!r} can be split in one way only, set --repeats 1")
    for name in filter(None, (groups, order)):
        if not isinstance(data, TabularDataModule):
            raise ValueError(f"the data has no column {name!r}: groups and order need a table")


def _kept(data: RowsDataModule) -> tuple[Tensor, np.ndarray]:
    """The indices of the rows that have a target, and their classes."""
    missing = torch.cat([y[:, 0].isnan() for (y,) in data.rows.only(1).chunks()])
    return where(~missing), classes_of(data.rows, data.task).numpy()[~missing.numpy()]


def _refuse_rare(classes: np.ndarray, folds: int, data: RowsDataModule) -> None:
    counts = np.bincount(classes)
    rarest = int(np.where(counts > 0, counts, len(classes) + 1).argmin())
    if counts[rarest] < folds:
        name = data.class_names[rarest] if len(data.class_names) else str(rarest)
        raise ValueError(
            f"class {name!r} has {counted(int(counts[rarest]), 'row', 'rows')}; {folds} folds need {folds} of each class: set "
            "a smaller --folds, or --data.rare_classes drop or merge"
        )


def _splitter(folds: int, seed: int, stratified: bool, grouped: bool, ordered: bool) -> Any:
    from sklearn import model_selection

    if ordered:
        return model_selection.TimeSeriesSplit(folds)
    if grouped:
        kind: Any = model_selection.StratifiedGroupKFold if stratified else model_selection.GroupKFold
    else:
        kind = model_selection.StratifiedKFold if stratified else model_selection.KFold
    return kind(folds, shuffle=True, random_state=seed)


def _split(splitter: Any, classes: np.ndarray, groups: np.ndarray | None, folds: int, name: str | None) -> list[Any]:
    if groups is not None and (count := len(np.unique(groups))) < folds:
        raise ValueError(
            f"groups is {name!r}, which has {counted(count, 'value', 'values')}; {folds} folds need at least as many"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if a class has fewer rows than folds, some folds do not test it
        try:
            splits = list(splitter.split(classes, classes, groups))
        except ValueError as error:
            raise ValueError(f"{folds} folds cannot be made: {error}") from None
    if empty := [number for number, (train, test) in enumerate(splits) if not len(train) or not len(test)]:
        raise ValueError(f"fold {empty[0] + 1} of {folds} has no row; set a smaller --folds")
    return splits


def _held_out(
    classes: np.ndarray, groups: np.ndarray | None, size: float, seed: int, stratified: bool, data: RowsDataModule
) -> np.ndarray:
    """Whether each of a fold's training rows is held out for validation."""
    if groups is None:
        of_each = torch.from_numpy(classes) if stratified else torch.zeros(len(classes), dtype=torch.uint8)
        return draw_split(of_each, (size, 0.0), seed, data.class_names if stratified else ()).numpy() == 1
    from sklearn.model_selection import GroupShuffleSplit

    if len(np.unique(groups)) < 2:
        raise ValueError("a fold's training rows are one group; none can be held out for validation: set --data.val_size 0")
    _, val = next(GroupShuffleSplit(1, test_size=size, random_state=seed).split(classes, groups=groups))
    return np.isin(np.arange(len(classes)), val)


def _groups(values: pl.Series) -> np.ndarray:
    """A number for each row's group, (N)."""
    _refuse_gap(values, "groups")
    return as_text(values).rank("dense").to_numpy()


def _moments(values: pl.Series) -> np.ndarray:
    """The sort keys of a column of numbers or dates, (N), float64."""
    _refuse_gap(values, "order")
    values = natural(values)
    if is_date(values.dtype) or values.dtype == pl.String:
        order = "" if values.dtype != pl.String else order_of(values, 1.0)
        if order is None:
            raise ValueError(
                f"order is {values.name!r}, which holds texts such as {shown(values[0])}; it must hold numbers or dates"
            )
        values = days(moments(values, order))
    return values.cast(pl.Float64).to_numpy()


def _refuse_gap(values: pl.Series, option: str) -> None:
    if values.null_count():
        row = values.is_null().arg_true()[0] + 1
        raise ValueError(f"{option} is {values.name!r}, which has no value in row {row}; every row needs one")
