"""Draws what a network has learned in TensorBoard: the boundary between classes, and the first layer's weights."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from torchbp.data import RowsDataModule
from torchbp.data.rows import evenly_spaced
from torchbp.training._budget import Budget

SIDE = 200  # pixels of the boundary's picture
POINTS = 512  # maximum rows of the training split that are drawn into it
UNITS = 64  # maximum units whose weights are drawn
TILE = 32  # minimum pixels of one unit's weights
COLOURS = np.array(
    [
        *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)),
        *((140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207)),
    ],
    dtype=np.float32,
)


class Pictures(Callback):
    """Draws ``boundary`` for classes with two features, and ``W/1/pictures`` if the data module says that rows are pictures.

    Args:
        budget: when they are drawn; None for every epoch.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        data = getattr(trainer, "datamodule", None)
        self._points: tuple[Tensor, ...] | None = None
        self._shape: tuple[int, ...] | None = None
        if not isinstance(data, RowsDataModule) or not isinstance(trainer.logger, TensorBoardLogger):
            return
        if module.hparams["num_features"] == 2 and not data.sequences and module.task in ("binary", "multiclass"):
            rows = data.split_rows("train")
            self._points = rows.take(evenly_spaced(len(rows), POINTS))[:2]
        if data.image_shape is not None and math.prod(data.image_shape) == module.hparams["num_features"]:
            self._shape = data.image_shape

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Every process must ask: the answer is broadcast.
        due = self.budget is None or self.budget.due(trainer)
        if not (due and trainer.is_global_zero and (self._points or self._shape)):
            return
        module: Any = pl_module
        writer = trainer.logger.experiment  # type: ignore[union-attr]
        with self.budget.spending() if self.budget else nullcontext():
            if self._points:
                writer.add_image("boundary", boundary_image(module, *self._points), trainer.global_step)
            if self._shape:
                weights = module.network.layers[0].weight.detach()
                writer.add_image("W/1/pictures", weight_images(weights, self._shape), trainer.global_step)


@torch.no_grad()
def boundary_image(predict: Any, x: Tensor, y: Tensor) -> np.ndarray:
    """The plane of two features as pixels (3, 200, 200): class colours mixed by probability, rows as dots.

    Args:
        predict: a module that makes predictions (B, C) from x (B, 2).
        x: the rows (N, 2); the first feature goes to the right, the second upwards.
        y: their targets, (N, C).
    """
    low, high = x.amin(0), x.amax(0)
    margin = (0.1 * (high - low)).clamp(min=1e-6)
    low, high = low - margin, high + margin
    place = torch.linspace(0, 1, SIDE).unsqueeze(1)
    across, upwards = (low + place * (high - low)).unbind(1)
    grid = torch.stack([across.repeat(SIDE), upwards.flip(0).repeat_interleave(SIDE)], 1)
    like = next(predict.parameters())
    shares = _shares(predict(grid.to(like)))
    image = (255 - (255 - _mixed(shares)) * 0.5).reshape(SIDE, SIDE, 3)
    likeliest = shares.argmax(1).reshape(SIDE, SIDE)
    edge = np.zeros((SIDE, SIDE), bool)
    edge[:, 1:] |= likeliest[:, 1:] != likeliest[:, :-1]
    edge[1:] |= likeliest[1:] != likeliest[:-1]
    image[edge] = 0
    columns, heights = ((x - low) / (high - low) * (SIDE - 1)).round().long().numpy().T
    dots = _mixed(_shares(y)) * 0.8
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            image[SIDE - 1 - heights + down, columns + right] = dots
    return np.round(image).astype(np.uint8).transpose(2, 0, 1)


def _shares(prediction: Tensor) -> np.ndarray:
    """Each class's share, (B, C), from predictions (B, C), or (B, 1) for two classes."""
    shares = prediction.float().cpu().numpy()
    return np.hstack([1 - shares, shares]) if shares.shape[1] == 1 else shares / np.maximum(shares.sum(1, keepdims=True), 1e-9)


def _mixed(shares: np.ndarray) -> np.ndarray:
    """The classes' colours, mixed by their shares: (B, 3) from 0 to 255."""
    return shares @ COLOURS[np.arange(shares.shape[1]) % len(COLOURS)]


def weight_images(weights: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the first units as tiles of one picture (3, height, width): red above 0, blue below.

    Args:
        weights: (n, features), for rows that are pictures; for standardised inputs, the weights of those.
        shape: a picture's (height, width), with a dimension of colours before or after, which is averaged.
    """
    w = weights[:UNITS].float().cpu().numpy().reshape(-1, *shape)
    if w.ndim == 4:
        w = w.mean(-1 if shape[-1] <= 4 else 1)
    count, height, width = w.shape
    scale = np.abs(w).max() or 1.0
    w = w / scale
    rgb = np.stack([1 + np.minimum(w, 0), 1 - np.abs(w), 1 - np.maximum(w, 0)], -1)
    times = max(1, -(-TILE // max(height, width)))
    rgb = rgb.repeat(times, 1).repeat(times, 2)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    image = np.zeros((rows * (height * times + 1) - 1, columns * (width * times + 1) - 1, 3), np.float32)
    for number, tile in enumerate(rgb):
        top, left = (number // columns) * (height * times + 1), (number % columns) * (width * times + 1)
        image[top : top + height * times, left : left + width * times] = tile
    return np.round(255 * image).astype(np.uint8).transpose(2, 0, 1)
