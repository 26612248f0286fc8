"""Compares the sequence configurations with torch.nn.RNN, trained the same way, and with 1-nearest-neighbour; prints a table.

    python tests/measure_sequences.py                     # all, five seeds: about twenty minutes on one core
    python tests/measure_sequences.py sunspots digit_rows # these alone

It needs ``pip install '.[sequences]'``. A seed decides weights, split and order. Scores are those of the test split after the
last epoch: accuracy, or for regression the root mean squared error. torch.nn.RNN begins with the same weights and sees the same
batches, so its score should be ours; the table also shows the largest difference of a parameter at the end. The nearest
neighbour is found from the standardised steps, 0 after the end. For regression the baseline is the last value, "as last year",
or if that is another quantity, the mean.
"""

import logging
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from training_runs import config, quiet_trainer

import torchbp.data
from torchbp.data import RowsDataModule
from torchbp.training import BPModule

NAMES = ("digit_rows", "italy_power_demand", "japanese_vowels", "sunspots", "adding")
SEEDS = range(5)
COSTS = {"binary": "binary_cross_entropy_with_logits", "multiclass": "cross_entropy", "regression": "mse_loss"}


def data_of(settings: dict[str, Any], seed: int) -> RowsDataModule:
    """A configuration's data; for archives, the files that come with sktime."""
    arguments = dict(settings["data"]["init_args"])
    if str(arguments.get("path")).endswith(".ts"):
        spec = find_spec("sktime")
        if spec is None or spec.origin is None:
            raise SystemExit("sktime is not installed; pip install '.[sequences]'")
        folder = Path(spec.origin).parent / "datasets" / "data" / arguments["path"].removesuffix("_TRAIN.ts")
        arguments.update({name: folder / arguments[name] for name in ("path", "test_path")})
    return getattr(torchbp.data, settings["data"]["class_path"].rpartition(".")[2])(**arguments, seed=seed)


def scheduler_of(settings: dict[str, Any], optimizer: Any) -> Any:
    said = settings["model"].get("lr_scheduler")
    return said and getattr(torch.optim.lr_scheduler, said["class_path"].rpartition(".")[2])(optimizer, **said["init_args"])


class Peer(nn.Module):
    """torch.nn.RNN followed by a Linear, with the weights of our network, which has one recurrent layer."""

    def __init__(self, module: BPModule) -> None:
        super().__init__()
        hidden, last = module.network.layers
        self.rnn = nn.RNN(hidden.input_size, hidden.hidden_size, batch_first=True)
        self.rnn.load_state_dict(hidden.state_dict())
        self.last = nn.Linear(last.in_features, last.out_features)
        self.last.load_state_dict(last.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        ends = (~x[..., 0].isnan()).sum(1) - 1
        return self.last(self.rnn(x.nan_to_num(0))[0][torch.arange(len(x)), ends])


def train_peer(peer: Peer, module: BPModule, data: RowsDataModule, settings: dict[str, Any]) -> None:
    """Trains the peer as :class:`BPModule` is trained; ``module`` provides the scaling."""
    optimizer = torch.optim.SGD(peer.parameters(), settings["model"]["lr"])
    scheduler, loader = scheduler_of(settings, optimizer), data.train_dataloader()
    cost = getattr(nn.functional, COSTS[module.task])
    for epoch in range(settings["trainer"]["max_epochs"]):
        loader.set_epoch(epoch)
        for x, y in loader:
            y = y if module.target_scaling is None else module.target_scaling(y)
            optimizer.zero_grad()
            cost(peer(module.input_scaling(x)), y).backward()
            nn.utils.clip_grad_norm_(peer.parameters(), settings["trainer"]["gradient_clip_val"])
            optimizer.step()
        if scheduler:
            scheduler.step()


def score(prediction: Tensor, y: Tensor, task: str) -> float:
    if task == "regression":
        return (prediction - y).square().mean().sqrt().item()
    return (classes(prediction, task) == classes(y, task)).double().mean().item()


def classes(values: Tensor, task: str) -> Tensor:
    return values.argmax(1) if task == "multiclass" else values[:, 0] > 0.5


def simplest(module: BPModule, data: RowsDataModule) -> float:
    """The score of the nearest neighbour's class; for regression, of the last value or of the mean."""
    (x, y), (x_test, y_test) = (data.split_rows(part).all() for part in ("train", "test"))
    if module.task == "regression":
        forecast = x_test[:, -1, :1] if y.shape[1] == x.shape[2] else y.mean(0).expand_as(y_test)
        return score(forecast, y_test, module.task)
    flat = [module.input_scaling(values).nan_to_num(0) for values in (x, x_test)]
    steps = max(values.shape[1] for values in flat)
    x, x_test = (nn.functional.pad(values, (0, 0, 0, steps - values.shape[1])).flatten(1).numpy() for values in flat)
    neighbour = KNeighborsClassifier(1).fit(x, classes(y, module.task).numpy())
    return float((neighbour.predict(x_test) == classes(y_test, module.task).numpy()).mean())


def measured(name: str, seed: int, engine: str = "fused", **trainer: Any) -> list[float]:
    """Our score, the peer's, the largest difference of a parameter, and the baseline's score."""
    settings = config(name)
    settings["trainer"].update(trainer)
    arguments = {name: value for name, value in settings["model"].items() if name != "lr_scheduler"}
    seed_everything(seed, verbose=False)
    data = data_of(settings, seed)
    how: dict[str, Any] = {"task": data.task, "sequences": data.sequences, "engine": engine, **arguments}
    if "lr_scheduler" in settings["model"]:
        how["lr_scheduler"] = lambda optimizer: scheduler_of(settings, optimizer)
    module = BPModule(data.num_features, data.num_outputs, **how)
    peer = Peer(module)
    # Validation changes no parameter, so it is left out.
    quiet_trainer(**settings["trainer"], limit_val_batches=0).fit(module, datamodule=data)
    train_peer(peer, module, data_of(settings, seed), settings)
    x, y = data.split_rows("test").all()
    with torch.no_grad():
        ours, z = module.eval()(x), peer(module.input_scaling(x))
    theirs = z.sigmoid() if module.task == "binary" else module.target_scaling.inverse(z) if module.target_scaling else z
    pairs = zip(module.network.layers.parameters(), peer.parameters(), strict=True)
    apart = max((a - b).abs().max().item() for a, b in pairs)
    return [score(ours, y, module.task), score(theirs, y, module.task), apart, simplest(module, data)]


def report(names: list[str]) -> None:
    if unknown := [name for name in names if name not in NAMES]:
        raise SystemExit(f"no configuration {unknown[0]!r}; there are {', '.join(NAMES)}")
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print("| configuration | torchbp (least to most) | torch.nn.RNN | parameters apart | nearest neighbour, or as last year |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    for name in names or NAMES:
        ours, theirs, apart, simple = np.array([measured(name, seed) for seed in SEEDS]).T
        ours_said = f"{ours.mean():.3f} ({ours.min():.3f} to {ours.max():.3f})"
        print(f"| {name} | {ours_said} | {theirs.mean():.3f} | {apart.max():.1g} | {simple.mean():.3f} |", flush=True)


if __name__ == "__main__":
    report(sys.argv[1:])
