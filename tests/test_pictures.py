"""Pictures of what a network has learned: the colours of their pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from training_runs import quiet_trainer

from torchbp.data import ArrayDataModule, BuiltinDataModule
from torchbp.training import BoardLogger, BPModule, Pictures
from torchbp.training._pictures import COLOURS, boundary_image, weight_images


class Half(nn.Linear):
    """Predicts class 1 with certainty where the first feature is above 0.25 and the second above 0."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return ((x[:, :1] > 0.25) & (x[:, 1:] > 0)).float()


def test_the_boundary_is_where_the_likeliest_class_changes() -> None:
    x, y = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0]])  # the picture reaches from -1.2 to 1.2
    image = boundary_image(Half(), x, y).transpose(1, 2, 0).astype(float)
    height, width, _ = image.shape

    def at(a: float, b: float) -> np.ndarray:
        return image[round((1.2 - b) / 2.4 * (height - 1)), round((a + 1.2) / 2.4 * (width - 1))]

    light = (255 + COLOURS[:2]) / 2
    np.testing.assert_allclose([at(-0.5, 0.5), at(0.5, 0.5), at(0.5, -0.5)], light[[0, 1, 0]], atol=1)
    np.testing.assert_allclose([at(-1, -1), at(1, 1)], 0.8 * COLOURS[:2], atol=1)
    black = image.sum(-1) == 0
    rows, columns = black.nonzero()
    assert (columns.min() / (width - 1) * 2.4 - 1.2) == pytest.approx(0.25, abs=0.03)
    assert (1.2 - rows.max() / (height - 1) * 2.4) == pytest.approx(0, abs=0.03)
    assert black.sum() == (height - rows.min() + columns.max()) - height + rows.max() - columns.min() + 1 - rows.min()


def test_three_classes_have_a_colour_each() -> None:
    class Thirds(Half):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(3)[(x[:, 0] > -0.4).long() + (x[:, 0] > 0.4).long()]

    image = boundary_image(Thirds(), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.eye(3)[:2]).transpose(1, 2, 0)
    found = [image[60, round(share * (image.shape[1] - 1))] for share in (0.2, 0.5, 0.8)]
    np.testing.assert_allclose(found, (255 + COLOURS[:3]) / 2, atol=1)


def test_weights_are_tiles_red_above_zero_and_blue_below() -> None:
    weights = torch.zeros(5, 6)
    weights[1, 4], weights[3, 0] = 2.0, -1.0  # pictures of 2 x 3 pixels: at row 1, column 1 and at row 0, column 0
    image = weight_images(weights, (2, 3)).transpose(1, 2, 0)
    times = (image.shape[1] + 1 - 3) // 9  # three tiles of three pixels each in a row, with lines between them
    assert image.shape == (2 * (2 * times + 1) - 1, 3 * (3 * times + 1) - 1, 3)
    assert image[times + 1, 3 * times + 1 + times + 1].tolist() == [255, 0, 0]
    assert image[2 * times + 1 + 1, 1].tolist() == [127, 127, 255] or image[2 * times + 2, 1].tolist() == [128, 128, 255]
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[-1, -1].tolist() == [0, 0, 0]  # there is no sixth unit
    coloured = torch.stack([weights, weights, weights], -1).flatten(1)
    assert (weight_images(coloured, (2, 3, 3)).transpose(1, 2, 0) == image).all()


@pytest.mark.parametrize(
    ("kind", "tags"), [("moons", ["boundary"]), ("digits", ["W/1/pictures"]), ("array", ["W/1/pictures"]), ("diabetes", [])]
)
def test_a_run_draws_what_its_data_are(kind: str, tags: list[str], tmp_path: Path) -> None:
    data: Any
    if kind == "array":
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "pictures.npz", x=rng.random((40, 5, 4)), y=np.arange(40) % 3)
        data = ArrayDataModule(tmp_path / "pictures.npz")
    else:
        data = BuiltinDataModule(kind)  # type: ignore[arg-type]
    logger = BoardLogger(tmp_path)
    module = BPModule(data.num_features, data.num_outputs, (4,), task=data.task, lr=0.1)
    quiet_trainer(max_epochs=2, logger=logger, callbacks=[Pictures()]).fit(module, datamodule=data)
    logger.finalize("success")
    board = EventAccumulator(logger.log_dir, {"images": 0}).Reload()
    assert board.Tags()["images"] == tags
    for tag in tags:
        assert len(board.Images(tag)) == 2
