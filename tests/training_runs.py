"""Training runs for the tests, in this process."""

from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from torchbp.data import BuiltinDataModule, RowsDataModule
from torchbp.training import BPModule

CONFIGS = Path(__file__).parent.parent / "configs"


def quiet_trainer(**kwargs: Any) -> Trainer:
    """A real Trainer that prints nothing and, unless told otherwise, writes nothing."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**defaults, **kwargs})


def train_rows(data: RowsDataModule) -> tuple[Tensor, Tensor]:
    """x and y of the training split."""
    x, y = data.split_rows("train").take(torch.arange(len(data.split_rows("train"))))
    return x, y


def config(name: str) -> dict[str, Any]:
    """A shipped configuration, read from YAML."""
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def run_config(name: str, seed: int) -> dict[str, float]:
    """Train and test configs/name.yaml with weights, split and order from ``seed``; returns the test metrics."""
    settings = config(name)
    seed_everything(seed, verbose=False)
    data = BuiltinDataModule(**settings["data"]["init_args"], seed=seed)
    module = BPModule(data.num_features, data.num_outputs, task=data.task, **settings["model"])
    # Validation changes no parameter, so it runs only at the end.
    trainer = quiet_trainer(**settings["trainer"], check_val_every_n_epoch=settings["trainer"]["max_epochs"])
    trainer.fit(module, datamodule=data)
    return dict(trainer.test(module, datamodule=data, verbose=False)[0])
