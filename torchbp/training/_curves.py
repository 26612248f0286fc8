"""Draws learnable activations, g(z; θ) over z, as images in TensorBoard."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from torchbp.activations import Activation
from torchbp.training._budget import Budget

HEIGHT, WIDTH, Z_MAX = 240, 320, 8.0
CURVES = 32  # at most, if each unit has parameters of its own
WHITE, GRID, START, NOW = (255, 255, 255), (215, 215, 215), (150, 150, 150), (31, 119, 180)


class ActivationCurves(Callback):
    """Draws each learnable activation over z in [-8, 8], as ``g/1`` for layer 1; its initial curve is grey.

    If a layer's units share a parameter, it is also a scalar.

    Args:
        every_n_epochs: draw after every n-th epoch.
        budget: decides when to draw, instead of ``every_n_epochs``.
    """

    def __init__(self, every_n_epochs: int = 1, budget: Budget | None = None) -> None:
        self.every_n_epochs, self.budget = every_n_epochs, budget

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Every process must ask: the answer is broadcast.
        due = self.budget.due(trainer) if self.budget else (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            with self.budget.spending() if self.budget else nullcontext():
                self._draw(trainer.logger.experiment, pl_module, trainer.global_step)

    def _draw(self, writer: Any, pl_module: LightningModule, step: int) -> None:
        network: Any = pl_module.network
        for number, (g, layer) in enumerate(zip(network.activations, network.layers, strict=False), 1):
            if not g.parameters:
                continue
            writer.add_image(f"g/{number}", curve_image(g, layer.activation_parameters), step)
            for name, theta in zip(g.parameters, layer.activation_parameters, strict=True):
                if theta.numel() == 1:
                    writer.add_scalar(f"{name}/{number}", theta, step)


@torch.no_grad()
def curve_image(g: Activation, theta: list[Tensor]) -> np.ndarray:
    """g(z; θ) over z in [-8, 8] as pixels (3, height, width); one curve per unit if units have their own parameters.

    Args:
        g: the activation.
        theta: its parameters, each (C, 1), or (C, n) for n units.
    """
    units = min(max(t.shape[-1] for t in theta), CURVES)
    z = torch.linspace(-Z_MAX, Z_MAX, WIDTH).unsqueeze(1)
    now = g.value(z.repeat(1, units), *(t[:, :units].float().cpu() for t in theta)).numpy()
    start = g.value(z, *(parameter.start() for parameter in g.parameters.values())).numpy()
    low, high = min(now.min(), start.min(), 0.0), max(now.max(), start.max(), 1.0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin

    def row_of(value: Any) -> np.ndarray:
        return np.round((high - np.asarray(value)) / (high - low) * (HEIGHT - 1)).astype(int)

    image = np.full((HEIGHT, WIDTH, 3), WHITE, np.uint8)
    for value in (0.0, 1.0):
        image[row_of(value)] = GRID
    image[:, WIDTH // 2] = GRID
    line(image, row_of(start[:, 0]), START)
    for unit in range(units):
        line(image, row_of(now[:, unit]), NOW)
    return image.transpose(2, 0, 1)


def line(image: np.ndarray, rows: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draw a curve with one row for each column; fill steep parts from row to row."""
    for column, (row, before) in enumerate(zip(rows, [rows[0], *rows[:-1]], strict=True)):
        image[min(row, before) : max(row, before) + 2, column] = color
