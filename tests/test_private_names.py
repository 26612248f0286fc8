"""The private names of other packages that torchbp uses: each is tested by its effect, so that a failure shows the change."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter
from training_runs import quiet_trainer

from torchbp import _pytorch
from torchbp.training import _jsonargparse, _lightning

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def test_transforms_and_forward_levels() -> None:
    seen: list[tuple[bool, int]] = []

    def f(x: Tensor) -> Tensor:
        seen.append((_pytorch.transforms_active(), _pytorch.forward_levels()))
        return x.sin()

    x = torch.tensor(1.0)
    for call in (f, torch.func.grad(f), torch.func.jacfwd(f), torch.func.jacfwd(torch.func.grad(torch.func.jacfwd(f)))):
        call(x)
    assert seen == [(False, 0), (True, 0), (True, 1), (True, 2)]


def test_more_than_gradients() -> None:
    assert not _pytorch.more_than_gradients()
    with torch.autocast("cpu"):
        assert _pytorch.more_than_gradients()
    with torch.autograd.forward_ad.dual_level():
        assert _pytorch.more_than_gradients()
    assert torch.func.vmap(lambda x: x + _pytorch.more_than_gradients())(torch.zeros(1)).item() == 1
    assert torch.compile(lambda x: x + _pytorch.more_than_gradients(), backend="eager")(torch.zeros(1)).item() == 1


def test_keeps_graph_and_is_one() -> None:
    seen: list[tuple[bool, bool]] = []
    x = torch.zeros((), requires_grad=True)
    y = x * 1
    y.register_hook(lambda dy: seen.append((_pytorch.keeps_graph(), _pytorch.is_one(dy))))
    y.backward(retain_graph=True)
    y.backward(torch.tensor(2.0))
    assert seen == [(True, True), (False, False)]
    assert not _pytorch.is_one(torch.ones((), device="meta"))


def test_optimizer_parameters_and_tensorboard(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    assert [*_pytorch.parameters_of(layer)] == ["weight", "bias"]
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    _pytorch.mark_stepped(optimizer)
    scheduler.step()  # would warn, an error here, if it had seen no step
    assert _pytorch.graph_node()("a", "Kind").op == "Kind"
    with torch.no_grad():  # cumulative sum
        carried, each = _pytorch.scan()(lambda h, x: (h + x, (h + x).clone()), torch.zeros(1), torch.ones(3, 1))
    assert carried.tolist() == [3]
    assert each.flatten().tolist() == [1, 2, 3]
    with SummaryWriter(tmp_path) as writer:
        from torch.utils.tensorboard.summary import scalar

        _pytorch.file_writer(writer).add_summary(scalar("a", 2.0), 3)
    (event,) = EventAccumulator(str(tmp_path)).Reload().Scalars("a")
    assert (event.step, event.value) == (3, 2.0)


def test_lightning_and_jsonargparse() -> None:
    assert _lightning.every_n_train_steps(ModelCheckpoint(every_n_train_steps=7)) == 7
    assert _lightning.every_n_train_steps(ModelCheckpoint()) == 0
    trainer = quiet_trainer(max_epochs=1)
    assert not _lightning.copies_this_process(trainer)
    assert _lightning.copies_this_process(quiet_trainer(max_epochs=1, devices=2, strategy="ddp_spawn"))
    _lightning.count_stepped_batches(trainer, 5)
    assert trainer.fit_loop.epoch_loop.on_save_checkpoint()["_batches_that_stepped"] == 5
    parser = ArgumentParser()
    parser.add_argument("--a", help="old")
    _jsonargparse.set_help(parser, "a", "new words")
    assert "new words" in parser.format_help()
    assert "old" not in parser.format_help()
    _jsonargparse.hide(parser, lambda option: option == "a")
    assert "new words" not in parser.format_help()
