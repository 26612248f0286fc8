"""The values of each output over the whole range, and the ways to name one; test_symbolic proves the formulas."""

import copy
import pickle

import pytest
import torch
from devices import DEVICES
from references import targets
from test_activations import whole_range
from torch.testing import assert_close

from torchbp.outputs import OUTPUTS, Output, output_for, output_of

each_output = pytest.mark.parametrize("output", OUTPUTS.values(), ids=lambda output: f"{output.name}-{output.cost}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@each_output
def test_cost_and_derivatives_are_the_references_over_the_whole_range(output: Output, dtype: torch.dtype, device: str) -> None:
    z = whole_range(dtype, 200, device)
    z = z[torch.randperm(len(z), device=device)].view(-1, 4)
    y = targets(output, *z.shape, dtype=dtype, device=device)
    exact_z, exact_y = (t.double().requires_grad_() for t in (z, y))
    expected = output.reference(exact_z, exact_y)
    slopes = torch.autograd.grad(expected.sum(), (exact_z, exact_y))
    a = output.activation(z)
    found = output.value(z, a, y), output.error(z, a, y), output.target_derivative(z, a, y)
    for number, right in zip(found, (expected.detach(), *slopes), strict=True):
        # Rounding errors scale with the largest terms; those of a square and its slope are z².
        tolerance = 16 * torch.finfo(dtype).eps
        assert_close(number, right.to(dtype), rtol=tolerance, atol=tolerance * (1 + output.predicts_z * 10))


@each_output
def test_in_place_forms(output: Output) -> None:
    z, y = torch.randn(3, 4), targets(output, 3, 4, dtype=torch.float32)
    a = output.activation(z)
    dz = output.error(z, a, y)
    a_into, dz_into = torch.empty_like(z), torch.empty_like(z)
    with torch.no_grad():
        output.activation(z, out=a_into)
        output.error(z, a, y, out=dz_into)
        over_a = a.clone()
        output.error(z, over_a, y, out=over_a)
    assert_close([a_into, dz_into, over_a], [a, dz, dz])


def test_entries_are_themselves_when_copied_or_pickled() -> None:
    for (cost, name), output in OUTPUTS.items():
        assert copy.deepcopy(output) is pickle.loads(pickle.dumps(output)) is output_of(cost, name) is output


def test_a_task_has_a_first_output_and_others() -> None:
    for output in OUTPUTS.values():
        for task in output.tasks:
            assert output_for(task, output.cost, output.name) is output
            assert task in output_for(task).tasks
    with pytest.raises(ValueError, match="cost 'squared_error' with output 'softmax' is not for task multiclass"):
        output_for("multiclass", "squared_error", "softmax")
    with pytest.raises(ValueError, match=r"cost is 'hinge' with output 'linear'; it must be .*'squared_error' with 'linear'"):
        output_of("hinge", "linear")
