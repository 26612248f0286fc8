"""Modules that are copied, pickled, trained under autocast, or share parameters: same gradients, by torchbp's backward."""

import copy
import pickle

import pytest
import torch
from devices import DEVICES
from test_settings import gradients, make_wrong
from torch.testing import assert_close

from torchbp import nn

each_device = pytest.mark.parametrize("device", DEVICES)

MODULES = [
    nn.Linear(4, 3),
    nn.SigmoidLinear(4, 3, bias=False),
    nn.BPNetwork([4, 5, 3]),
    nn.MSELoss(reduction="sum"),
    nn.BCELoss(torch.tensor([1.0, 2.0, 3.0, 4.0]), reduction="none"),
    nn.BCEWithLogitsLoss(),
    nn.CrossEntropyLoss(reduction="sum"),
]
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)


@each_device
@each_module
def test_copied_and_pickled_module_has_the_same_gradients(module: torch.nn.Module, device: str) -> None:
    module = copy.deepcopy(module).to(device)
    inputs = [torch.rand(2, 4, device=device) for _ in range(1 if list(module.parameters()) else 2)]
    results = []
    for same in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        tensors = [t.clone().requires_grad_() for t in inputs]
        results.append(gradients(same(*tensors), [*tensors, *same.parameters()]))
        assert repr(same) == repr(module)
    assert_close(results[1], results[0], rtol=0, atol=0)
    assert_close(results[2], results[0], rtol=0, atol=0)


@each_device
@each_module
def test_wrong_backward_shows_in_copies(module: torch.nn.Module, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = copy.deepcopy(module).to(device)
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        tensors = [torch.rand(2, 4, device=device, requires_grad=True) for _ in range(1 if list(module.parameters()) else 2)]
        right = gradients(same(*tensors), tensors)
        with monkeypatch.context() as patch:
            make_wrong("backward", torch.zeros_like, patch)
            assert all(r.any() and not g.any() for g, r in zip(gradients(same(*tensors), tensors), right, strict=True))


@each_device
def test_parameters_shared_between_layers(device: str) -> None:
    """One layer used twice, and one weight in two layers: gradients add up as with torch.nn, also in copies."""
    layer, last = (nn.SigmoidLinear(4, 4, device=device, dtype=torch.float64) for _ in range(2))
    last.weight = layer.weight
    shared = torch.nn.Sequential(layer, layer, last)
    reference_layer, reference_last = (torch.nn.Linear(4, 4, device=device, dtype=torch.float64) for _ in range(2))
    reference_last.weight = reference_layer.weight
    sigmoid = torch.nn.Sigmoid()
    reference = torch.nn.Sequential(reference_layer, sigmoid, reference_layer, sigmoid, reference_last, sigmoid)
    reference_layer.load_state_dict(layer.state_dict())
    reference_last.load_state_dict(last.state_dict())
    assert len(list(shared.parameters())) == len(list(reference.parameters())) == 3
    x = torch.randn(5, 4, device=device, dtype=torch.float64, requires_grad=True)
    expected = gradients(reference(x), [x, *reference.parameters()])
    for same in (shared, copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert same[0].weight is same[2].weight
        assert_close(gradients(same(x), [x, *same.parameters()]), expected)


@each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", ["MSELoss", "BCEWithLogitsLoss"])
def test_training_under_autocast_has_the_dtypes_of_torch_nn(loss: str, dtype: torch.dtype, device: str) -> None:
    net = nn.BPNetwork([4, 5, 3], output="linear", device=device)
    reference = torch.nn.Sequential(
        torch.nn.Linear(4, 5, device=device), torch.nn.Sigmoid(), torch.nn.Linear(5, 3, device=device)
    )
    reference.load_state_dict(dict(zip(reference.state_dict(), net.state_dict().values(), strict=True)))
    x, y = torch.randn(8, 4, device=device), torch.rand(8, 3, device=device)
    results = []
    for model, package in ((net, nn), (reference, torch.nn)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with torch.autocast(device, dtype):
            output = model(x)
            L = getattr(package, loss)()(output, y)
        L.backward()
        optimizer.step()
        results.append([output, L, *(p.grad for p in model.parameters()), *model.parameters()])
    # assert_close also compares the types.
    assert_close(*results, rtol=0.02, atol=0.02)
    assert [t.dtype for t in results[0]] == [dtype, *[torch.float32] * 9]
