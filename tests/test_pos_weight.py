"""The weight of the positive class: in the cost, in the whole network's Function, in place, and in training runs."""

import copy
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import Tensor
from torch.nn import functional as TF
from torch.testing import assert_close
from training_runs import CONFIGS, quiet_trainer, train_rows

from torchbp import functional as F
from torchbp import verify
from torchbp.cli import main
from torchbp.data import Rows, RowsDataModule
from torchbp.descent import Descent
from torchbp.nn import BCEWithLogitsLoss, BPNetwork
from torchbp.training import BPModule
from torchbp.training.checkpoint import load_checkpoint, load_module

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's own warning, at its first forward-mode derivative.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    # PyTorch's own warning, whenever torch.compile traces an autograd.Function.
    "ignore:.*Function'> should not be instantiated:DeprecationWarning",
)

each_device = pytest.mark.parametrize("device", DEVICES)
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def double(*shape: int, **options: Any) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, **options)


@each_device
@each_reduction
@pytest.mark.parametrize("w", [0.0, 1e-6, 0.3, 1.0, 7.3, 1e6])
def test_saturated_as_torch(w: float, reduction: str, device: str) -> None:
    z = torch.linspace(-700, 700, 1401, dtype=torch.float64, device=device).unsqueeze(1).requires_grad_()
    y = double(1401, 1, device=device)
    y[::3], y[1::3] = 0, 1
    pos_weight = torch.tensor([w], dtype=torch.float64, device=device)
    ours, theirs = (
        make(z, y, reduction=reduction, pos_weight=pos_weight)
        for make in (F.binary_cross_entropy_with_logits, TF.binary_cross_entropy_with_logits)
    )
    scale = max(w, 1)
    assert_close(ours, theirs, rtol=1e-13, atol=1e-12 * scale)
    gradients = (torch.autograd.grad(cost.sum(), z)[0] for cost in (ours, theirs))
    assert_close(*gradients, rtol=0, atol=4e-16 * scale)


@each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "of_weight"), [((), ()), ((5,), ()), ((5,), (5,)), ((4, 3), (3,)), ((2, 4, 3), (4, 1)), ((4, 3), (4, 3))]
)
def test_shapes_and_types_of_torch(shape: tuple[int, ...], of_weight: tuple[int, ...], dtype: Any, device: str) -> None:
    z, y, w = torch.randn(shape, device=device), torch.rand(shape, device=device), 4 * torch.rand(of_weight, device=device)
    results = []
    for make, type_ in ((F.binary_cross_entropy_with_logits, dtype), (TF.binary_cross_entropy_with_logits, torch.float64)):
        leaves = [t.to(dtype).to(type_).requires_grad_() for t in (z, y)]
        cost = make(*leaves, pos_weight=w.to(dtype).to(type_))
        assert cost.dtype == type_
        results.append([t.double() for t in (cost, *torch.autograd.grad(cost, leaves))])
    tolerance = 32 * torch.finfo(dtype).eps
    assert_close(*results, rtol=tolerance, atol=tolerance)


@each_device
def test_it_passes_the_audit_by_weight_too(device: str) -> None:
    z, y, w = (torch.randn(3, 2, dtype=torch.float64).requires_grad_(), double(3, 2).requires_grad_(), double(2) + 0.5)

    def cost(z: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.binary_cross_entropy_with_logits(z, y, reduction=how, pos_weight=w) for how in ("mean", "sum", "none"))

    def reference(z: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        costs = w * y * TF.softplus(-z) + (1 - y) * TF.softplus(z)
        return costs.mean(), costs.sum(), costs

    result = verify.audit(cost, (z, y, w.requires_grad_()), devices=device, reference=reference)
    assert result.failures == []


def weighted_network(device: str, requires_grad: bool) -> tuple[Any, Any, list[Tensor]]:
    """network_cost and PyTorch's, of x, y, w and two layers' parameters."""

    def ours(x: Tensor, y: Tensor, w: Tensor, *parameters: Tensor) -> Tensor:
        return F.network_cost(x, y, parameters, pos_weight=w)[0]

    def theirs(x: Tensor, y: Tensor, w: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
        z = TF.linear(torch.sigmoid(TF.linear(x, W1, b1)), W2, b2)
        return (w * y * TF.softplus(-z) + (1 - y) * TF.softplus(z)).mean()

    shapes = [(3, 2), (3, 2), (2,), (3, 2), (3,), (2, 3), (2,)]
    tensors = [double(*shape, device=device).requires_grad_() for shape in shapes]
    for tensor in tensors[1:3]:
        tensor.requires_grad_(requires_grad)
    return ours, theirs, tensors


@each_device
@pytest.mark.parametrize("requires_grad", [False, True], ids=["one_node", "weight_has_gradient"])
def test_the_network_passes_the_audit(requires_grad: bool, device: str) -> None:
    ours, theirs, tensors = weighted_network(device, requires_grad)
    assert ("NetworkCost" in ours(*tensors).grad_fn.name()) != requires_grad
    result = verify.audit(ours, tensors, devices=device, reference=theirs)
    assert result.failures == []


@each_reduction
@pytest.mark.parametrize("rows", [(4,), (), (2, 4)])
def test_the_network_equals_the_layers(rows: tuple[int, ...], reduction: Any) -> None:
    network, w = BPNetwork([3, 5, 2], dtype=torch.float64), torch.tensor([0.3, 7.0])  # float32, which is converted
    x, y = torch.randn(*rows, 3, dtype=torch.float64), double(*rows, 2)
    cost, _ = network.cost(x, y, reduction=reduction, pos_weight=w)
    expected = BCEWithLogitsLoss(reduction=reduction, pos_weight=w)(network.logits(x), y)
    assert_close(cost, expected, rtol=0, atol=1e-14)
    assert_close(cost, TF.binary_cross_entropy_with_logits(network.logits(x), y, pos_weight=w.double(), reduction=reduction))
    with torch.no_grad():
        assert_close(network.cost(x, y, reduction=reduction, pos_weight=w)[0], cost)


@each_device
def test_100_steps_of_sgd_as_torch(device: str) -> None:
    """By the Function, and by the iteration in place, which reads the weight at every step."""
    options: Any = {"dtype": torch.float64, "device": device}
    expected = BPNetwork([4, 6, 3], **options)
    functions, in_place = copy.deepcopy(expected), copy.deepcopy(expected)
    w = torch.ones(3, **options)
    descent = Descent(in_place, lr=0.3, pos_weight=w)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.3) for network in (expected, functions)]
    layers = expected.layers
    for step in range(100):
        x, y = torch.randn(7, 4, **options), torch.rand(7, 3, **options).round()
        w.uniform_(0.1, 10)
        z = TF.linear(torch.sigmoid(TF.linear(x, layers[0].weight, layers[0].bias)), layers[1].weight, layers[1].bias)
        cost = TF.binary_cross_entropy_with_logits(z, y, pos_weight=w)
        own, _ = functions.cost(x, y, pos_weight=w)
        for optimizer, value in zip(optimizers, (cost, own), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        assert_close(descent.step(x, y, keep_gradients=step % 2 == 1), cost.detach(), rtol=0, atol=1e-12)
        assert_close(descent.prediction, torch.sigmoid(z).detach(), rtol=0, atol=1e-12)
    for network in (functions, in_place):
        for parameter, other in zip(network.parameters(), expected.parameters(), strict=True):
            assert_close(parameter, other, rtol=0, atol=1e-12)
            assert_close(parameter.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_types_and_reduced_gradients(dtype: torch.dtype) -> None:
    one = BPNetwork([3, 4, 2], dtype=dtype)
    other = copy.deepcopy(one)
    x, y, w = torch.randn(12, 3).to(dtype), torch.rand(12, 2).round().to(dtype), torch.tensor([0.5, 6.0], dtype=torch.float64)
    costs = Descent(one, pos_weight=w).steps(x, y, 5)
    reduced = Descent(other, reduce=lambda gradients: None, pos_weight=w).steps(x, y, 5)
    assert costs.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps
    assert_close(costs, reduced, rtol=0, atol=tolerance)
    for parameter, expected in zip(one.parameters(), other.parameters(), strict=True):
        assert_close(parameter, expected, rtol=0, atol=tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_takes_the_same_steps() -> None:
    options: Any = {"dtype": torch.float64, "device": "cuda"}
    eager = BPNetwork([4, 6, 2], **options)
    graphed = copy.deepcopy(eager)
    one, other = Descent(eager), Descent(graphed, cuda_graph=True)
    x, y = torch.randn(66, 4, **options), torch.rand(66, 2, **options)
    for w in (None, torch.tensor(3.0, **options), torch.tensor([0.2, 5.0], **options), None):
        one.pos_weight = other.pos_weight = w
        assert_close(other.steps(x, y, 16), one.steps(x, y, 16), rtol=0, atol=1e-12)
    for parameter, expected in zip(graphed.parameters(), eager.parameters(), strict=True):
        assert_close(parameter, expected, rtol=0, atol=1e-12)


class Rare(RowsDataModule):
    """Two overlapping classes, one of them rare, and further outputs as requested."""

    name, task = "rare", "multilabel"

    def __init__(self, *others: Tensor) -> None:
        super().__init__(batch_size=32, val_size=0, test_size=0)
        generator = torch.Generator().manual_seed(0)
        rare = torch.rand(2000, 1, generator=generator) < 0.05
        self.x = torch.randn(2000, 2, generator=generator) + 1.5 * rare
        self.y = torch.cat([rare.float(), *others], 1)

    def load(self) -> Rows:
        return Rows(self.x, self.y)


def trained(data: RowsDataModule, engine: str = "autograd", **options: Any) -> BPModule:
    torch.manual_seed(0)
    module = BPModule(2, data.num_outputs, (4,), data.task, engine=engine, **options)  # type: ignore[arg-type]
    quiet_trainer(max_epochs=3, precision="64-true").fit(module, datamodule=data)
    return module


def recall(module: BPModule, data: RowsDataModule) -> float:
    x, y = train_rows(data)
    found = module(x.double())[:, 0] > 0.5
    return (found & (y[:, 0] == 1)).sum().item() / y[:, 0].sum().item()


BALANCED = {"pos_weight": "balanced"}


def test_a_balanced_weight_finds_the_rare_class_and_both_engines_agree() -> None:
    data = Rare(torch.ones(2000, 1).index_fill_(0, torch.arange(500), 0))
    plain, balanced, fused = (trained(data, **options) for options in ({}, BALANCED, {**BALANCED, "engine": "fused"}))
    positives = data.y.double().sum(0)
    assert_close(balanced.pos_weight, (2000 - positives) / positives)
    assert recall(plain, data) < 0.5 < 0.75 < recall(balanced, data)
    for parameter, expected in zip(fused.network.parameters(), balanced.network.parameters(), strict=True):
        assert_close(parameter, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_output_of_one_class_alone_is_not_weighted(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # A target with one class is refused, but a split may have only one class.
    monkeypatch.setattr("torchbp.data._arrays.check_rows", lambda *_: None)
    module = BPModule(2, 2, task="multilabel", pos_weight="balanced")
    module.fit_scaling(Rare(torch.full((2000, 1), value)))
    assert module.pos_weight[0] > 10
    assert module.pos_weight[1] == 1


def test_the_checkpoint_stores_it(tmp_path: Any) -> None:
    data = Rare(torch.arange(2000.0).unsqueeze(1) % 2)
    module = BPModule(2, 2, (4,), "multilabel", pos_weight="balanced")
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_module(load_checkpoint(tmp_path / "last.ckpt"))
    assert torch.equal(loaded.pos_weight, module.pos_weight)
    assert module.pos_weight[0] > 10
    x, y = train_rows(data)
    assert_close(loaded.cost_and_prediction(x, y), module.cost_and_prediction(x, y))
    assert "pos_weight" not in BPModule(2, 1).state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pos_weight": 0.0}, "pos_weight is 0.0; it must be 'balanced', or a finite number above 0, or a list of 2 of them"),
        ({"pos_weight": float("nan")}, "pos_weight is nan"),
        ({"pos_weight": [1.0, float("inf")]}, r"pos_weight is \[1.0, inf\]"),
        ({"pos_weight": [1.0]}, r"pos_weight is \[1.0\]; .* a list of 2 of them"),
        ({"pos_weight": "even"}, "pos_weight is even"),
        (
            {"pos_weight": 2, "cost": "squared_error"},
            "here the cost is 'squared_error' with sigmoid outputs",
        ),
        ({"pos_weight": "balanced", "task": "regression"}, "here the cost is 'squared_error' with linear outputs"),
    ],
)
def test_what_the_module_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BPModule(3, 2, **options)


def test_what_is_refused_elsewhere() -> None:
    network, linear, w = BPNetwork([3, 2]), BPNetwork([3, 2], "linear"), torch.ones(3)
    x, y = torch.rand(4, 3), torch.rand(4, 2)
    shape = r"pos_weight has shape \(3,\); it must broadcast to \(4, 2\)"
    for call in (
        lambda: F.binary_cross_entropy_with_logits(torch.rand(4, 2), y, pos_weight=w),
        lambda: network.cost(x, y, pos_weight=w),
        lambda: Descent(network, pos_weight=w).step(x, y),
    ):
        with pytest.raises(ValueError, match=shape):
            call()
    with pytest.raises(ValueError, match=r"pos_weight has shape \(5, 1, 2\)"):  # and the cost not to it
        F.binary_cross_entropy_with_logits(torch.rand(1, 2), torch.rand(1, 2), pos_weight=torch.ones(5, 1, 2))
    for call in (
        lambda: linear.cost(x, y, "squared_error", pos_weight=w),
        lambda: Descent(linear, "squared_error", pos_weight=w),
    ):
        with pytest.raises(ValueError, match="here the cost is 'squared_error' with linear outputs"):
            call()
    with pytest.raises(ValueError, match=r"pos_weight is 'balanced'; that needs a data module of torchbp\.data"):
        BPModule(3, 2, task="multilabel", pos_weight="balanced").fit_scaling(None)


def test_the_trace_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--config", str(CONFIGS / "xor.yaml"), "--model.pos_weight", "2"]) == 1
    assert "pos_weight is 2.0; the text's iteration has none" in capsys.readouterr().err
