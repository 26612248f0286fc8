"""What test_distributed.py runs in each process: train with each engine, test, and write what came of it to a folder."""

import os
import sys
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback
from training_runs import CONFIGS, quiet_trainer

from torchbp.cli import main
from torchbp.data import BuiltinDataModule
from torchbp.training import BPModule


class RowsSeen(Callback):
    """Counts the rows that this process trains on."""

    rows = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows += len(batch[0])


def train(engine: str, **trainer: Any) -> dict[str, Any]:
    """Two epochs on 600 points, in batches of 32 over all processes: parameters, metrics, steps, this process's rows."""
    torch.manual_seed(0)
    run = quiet_trainer(max_epochs=2, precision="64-true", callbacks=[rows := RowsSeen()], **trainer)
    data = BuiltinDataModule("moons", batch_size=32 // run.world_size)
    module = BPModule(2, 1, (8,), engine=engine, steps_per_execution=5 if engine == "fused" else None)
    run.fit(module, datamodule=data)
    metrics = {**run.callback_metrics, **run.test(module, datamodule=data, verbose=False)[0]}
    return {
        "parameters": [parameter.detach() for parameter in module.network.parameters()],
        "metrics": {name: float(value) for name, value in metrics.items()},
        "steps": run.global_step,
        "rows": rows.rows,
        "rank": run.global_rank,
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.chdir(sys.argv[1])
    runs = {engine: train(engine, strategy="ddp", num_nodes=2, devices=1) for engine in ("autograd", "fused")}
    torch.save(runs, f"{runs['fused']['rank']}.pt")
    ddp = ["--trainer.strategy", "ddp", "--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.accelerator", "cpu"]
    fit = ["fit", "--config", str(CONFIGS / "moons.yaml"), "--trainer.max_epochs", "2", "--model.engine", "fused"]
    sys.exit(main([*fit, *ddp]))
