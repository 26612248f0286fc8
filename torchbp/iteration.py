"""The forward and the backward pass of a whole network, each written once: equations 2.1 to 2.4, and 3.2d to 3.2f.

The caller chooses where results go. A layer writes to memory that it was given, or to new memory. Gradients go to a
:class:`Sink`, which collects them, writes them to ``.grad``, or subtracts each from its parameter as it is computed.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.elman import Bidirectional, Elman, Padding
from torchbp.outputs import Output

__all__ = ["Collect", "Dense", "Network", "Sink", "backward", "forward", "layers_of"]


class Sink(Protocol):
    """Takes gradients. ``slot`` is the index of a parameter in the network."""

    def wants(self, slot: int) -> bool:
        """Whether this parameter's gradient is needed."""

    def product(self, slot: int, dzt: Tensor, x: Tensor) -> None:
        """∂L/∂W = dZᵀ X. Equations 3.2d and 3.2f."""

    def rows(self, slot: int, dz: Tensor, dzt: Tensor) -> None:
        """∂L/∂b = Σ_rows dZ. Equations 3.2d and 3.2f."""

    def other(self, slot: int, gradient: Tensor) -> None:
        """∂L/∂θ. Equation 4.1."""


class Dense:
    """One layer in an iteration, z = x Wᵀ + b and a = g(z; θ); it keeps what the backward pass needs.

    Args:
        g: the activation.
        slot: the index of W in the network's parameters; b and θ follow.
        W, b, theta: the parameters. K networks have W (K, m, n), b (K, 1, m) and θ (K, C, u).

    Attributes:
        x, z, a: the layer's input, weighted input and activation; z and a may be the same tensor.
        reuses: whether results may overwrite tensors that are no longer needed; False if autograd records the pass.
        z_memory, a_memory, dz_memory, da_memory: memory for z, a, dZ and for dA of the layer's input; None to allocate it.
        dzt: the view dZᵀ of ``dz_memory``, made once; None to make it in each pass.
    """

    reuses = False
    z_memory: Tensor | None = None
    a_memory: Tensor | None = None
    dz_memory: Tensor | None = None
    da_memory: Tensor | None = None
    dzt: Tensor | None = None

    def __init__(self, g: Activation, slot: int, W: Tensor, b: Tensor, *theta: Tensor) -> None:
        self.g, self.slot, self.W, self.Wt, self.b, self.theta = g, slot, W, W.mT, b, theta

    def weigh(self, x: Tensor) -> Tensor:
        """z = x Wᵀ + b. Equations 2.1 and 2.3."""
        self.x = x
        self.z = eq.weighted_input(x, self.Wt, self.b, out=self.z_memory)
        return self.z

    def activate(self) -> Tensor:
        """a = g(z; θ), written over z if backward needs only a. Equation 2.2."""
        g, z = self.g, self.z
        self.a = g.value(z, *self.theta, out=z if self.reuses and g.keeps == "a" else self.a_memory)
        return self.a

    def carry(self, dz: Tensor) -> Tensor:
        """The gradient of the layer's input, dA = dZ W. In equation 3.2e."""
        return eq.activation_gradient(dz, self.W, out=self.da_memory)

    def error(self, da: Tensor, sink: Sink) -> Tensor:
        """dZ = dA * g'(Z), and the gradients of θ. Equations 3.2e and 4.1."""
        g = self.g
        kept = self.a if g.keeps == "a" else self.z
        gradients = self._theta_gradients(da, kept, sink) if self.theta else ()
        del self.z, self.a  # no longer needed
        dz = g.error(da, kept, *self.theta, out=da if self.reuses and self.dz_memory is None else self.dz_memory)
        for slot, gradient in gradients:
            sink.other(slot, gradient)  # this may change θ, so dZ is computed before
        return dz

    def _theta_gradients(self, da: Tensor, z: Tensor, sink: Sink) -> list[tuple[int, Tensor]]:
        numbered = zip(itertools.count(self.slot + 2), self.theta, self.g.parameters.values(), strict=False)
        return [
            (slot, parameter.gradient(da, z, *self.theta).sum_to_size(theta.shape))  # 4.1
            for slot, theta, parameter in numbered
            if sink.wants(slot)
        ]

    def give(self, dz: Tensor, sink: Sink) -> None:
        """Pass the gradients of W and b to the sink. Equations 3.2d and 3.2f."""
        dzt = dz.mT if self.dzt is None else self.dzt
        sink.product(self.slot, dzt, self.x)
        del self.x  # no longer needed
        sink.rows(self.slot + 1, dz, dzt)


@dataclass(frozen=True)
class Network:
    """A network without its parameters: the activations of its hidden layers, and its output.

    Attributes:
        hidden: one activation per hidden layer.
        output: the last layer's activation with its cost.
        pooling: if the hidden layers are recurrent, what the last layer sees of a sequence: its ``last`` state, the ``mean`` of
            its states, or ``each`` state.
        bidirectional: whether recurrent layers read in both directions.
    """

    hidden: tuple[Activation, ...]
    output: Output
    pooling: Literal["last", "mean", "each"] | None = None
    bidirectional: bool = False

    def __post_init__(self) -> None:
        # Every layer with its number of parameters. The output has the last layer's activation: here it is the identity.
        layers = [(g, self._count(g)) for g in self.hidden]
        object.__setattr__(self, "layers", [*layers, (ACTIVATIONS["identity"], 2)])

    layers: list[tuple[Activation, int]] = field(init=False, repr=False, compare=False)

    def _count(self, g: Activation) -> int:
        """The number of a hidden layer's parameters: W, b and θ, or in each direction Wi, Wh, bi, bh and θ."""
        if self.pooling is None:
            return 2 + len(g.parameters)
        return (4 + len(g.parameters)) * (1 + self.bidirectional)


def layers_of(
    network: Network, parameters: Sequence[Tensor], kind: type[Dense] = Dense, recurrent: type[Elman] = Elman
) -> list[Any]:
    """The layers of a network with parameters W1, b1, θ1..., W2, b2, ..., in this order.

    A recurrent layer has Wi, Wh, bi, bh, θ...; a bidirectional one then has the same for the other direction.

    Raises:
        ValueError: the number of parameters is wrong.
    """
    layers: list[Any] = []
    slot = 0
    if sum(count for _, count in network.layers) != len(parameters):
        raise ValueError(f"there are {len(parameters)} parameters; they must be W, b and θ of {len(network.hidden) + 1} layers")
    reuses = not torch.is_grad_enabled()
    padding = None if network.pooling is None else Padding()
    for number, (g, count) in enumerate(network.layers, 1):
        own = parameters[slot : slot + count]
        if padding is None or number == len(network.layers):
            layer: Any = kind(g, slot, *own)
            layer.reuses = reuses
        else:
            each, pooling = count // (1 + network.bidirectional), network.pooling if number == len(network.hidden) else None
            directions = [
                recurrent(g, slot + i, *own[i : i + each], padding=padding, first=number == 1, pooling=pooling)
                for i in range(0, count, each)
            ]
            for layer in directions:
                layer.reuses = reuses
            if network.bidirectional:
                directions[1].backwards = True
                layer = Bidirectional(*directions)
        layers.append(layer)
        slot += count
    return layers


def forward(layers: Sequence[Any], x: Tensor) -> Tensor:
    """The weighted input of the last layer. Equations 2.1 to 2.3, layer by layer."""
    *hidden, last = layers
    for layer in hidden:
        layer.weigh(x)
        x = layer.activate()
    return last.weigh(x)


def backward(layers: Sequence[Any], dz: Tensor, sink: Sink, lowest: int = 0, to_input: bool = False) -> Tensor | None:
    """Carry the last layer's error back and pass every gradient to the sink. Equations 3.2d to 3.2f, layer by layer.

    Args:
        layers: after :func:`forward`.
        dz: the error of the last layer, ∂L/∂z.
        sink: takes the gradients. It may change a layer's W: dA is computed before.
        lowest: the index of the lowest layer whose gradients are needed.
        to_input: whether the gradient of the network's input is needed, with ``lowest`` 0.

    Returns:
        ∂L/∂x, or None.
    """
    for number in range(len(layers) - 1, lowest, -1):
        layer, below = layers[number], layers[number - 1]
        da = layer.carry(dz)  # 3.2e, with W before its update
        layer.give(dz, sink)  # 3.2d, 3.2f
        dz = below.error(da, sink)  # 3.2e
    layer = layers[lowest]
    dx = layer.carry(dz) if to_input else None
    layer.give(dz, sink)  # 3.2f
    return dx


class Collect:
    """A sink that keeps the gradients that ``needs`` selects, in the order of the parameters."""

    def __init__(self, needs: Sequence[bool]) -> None:
        self.needs = needs
        self.gradients: list[Tensor | None] = [None] * len(needs)

    def wants(self, slot: int) -> bool:
        return self.needs[slot]

    def product(self, slot: int, dzt: Tensor, x: Tensor) -> None:
        if self.needs[slot]:
            self.gradients[slot] = eq.weight_gradient(dzt, x)

    def rows(self, slot: int, dz: Tensor, dzt: Tensor) -> None:
        if self.needs[slot]:
            self.gradients[slot] = eq.bias_gradient(dz)

    def other(self, slot: int, gradient: Tensor) -> None:
        self.gradients[slot] = gradient
