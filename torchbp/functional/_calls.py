"""Makes each entry's Function once, and the call of it."""

from collections.abc import Callable

from torch import Tensor
from torch.autograd import Function

from torchbp import functions
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.functions import call_of
from torchbp.outputs import CROSS_ENTROPY_OF_ACTIVATION, OUTPUTS, Output

linear_call = call_of(functions.Linear)
# Skips Function.apply, which looks for torch.func's transforms, as network_cost does: that takes a twentieth of a small step.
network_cost_call = super(Function, functions.NetworkCost).apply

# By id: Dynamo cannot hash a dataclass.
_calls: dict[int, Callable[..., Tensor]] = {
    **{id(g): call_of(functions.activation_function(g)) for g in ACTIVATIONS.values()},
    **{id(output): call_of(functions.cost_function(output)) for output in (*OUTPUTS.values(), CROSS_ENTROPY_OF_ACTIVATION)},
}
_recurrent_calls: dict[int, Callable[..., Tensor]] = {
    id(g): call_of(functions.recurrent_function(g)) for g in ACTIVATIONS.values()
}
_others: list[Activation] = []  # keeps them alive, so that no other entry gets their id


def activation_call(g: Activation) -> Callable[..., Tensor]:
    if id(g) not in _calls:
        _calls[id(g)] = call_of(functions.activation_function(g))
        _others.append(g)
    return _calls[id(g)]


def recurrent_call(g: Activation) -> Callable[..., Tensor]:
    if id(g) not in _recurrent_calls:
        _recurrent_calls[id(g)] = call_of(functions.recurrent_function(g))
        _others.append(g)
    return _recurrent_calls[id(g)]


def cost_call(output: Output) -> Callable[..., Tensor]:
    return _calls[id(output)]
