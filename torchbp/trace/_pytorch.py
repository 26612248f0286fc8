"""The same iteration with PyTorch only: the entries' references, autograd and torch.optim.SGD."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as TF

from torchbp.iteration import Network, layers_of
from torchbp.trace._in_time import inner_by_pytorch


@torch.enable_grad()
def by_pytorch(network: Network, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, lr: float) -> dict[str, Tensor]:
    """The value of every symbol; parameters have their values after the step."""
    leaves = {symbol: value.clone().requires_grad_() for symbol, value in parameters.items()}
    *hidden, last = layers_of(network, list(leaves.values()))
    output, depth, a = network.output, len(network.layers), x
    inner: dict[str, Tensor] = {}
    if network.pooling is not None:
        a, hidden = inner_by_pytorch(hidden, x, inner, network.pooling), []
    for l, layer in enumerate(hidden, 1):
        z = inner[f"Z{l}"] = TF.linear(a, layer.W, layer.b)
        a = inner[f"A{l}"] = layer.g.reference(z, *layer.theta)
    z = inner[f"Z{depth}"] = TF.linear(a, last.W, last.b)
    for t in inner.values():
        t.retain_grad()
    # From z, as in training: autograd would lose the error in a saturated activation.
    cost = output.reference(z, y).mean()
    cost.backward()
    found = {**inner, "L": cost, **{f"d{symbol}": t.grad for symbol, t in (inner | leaves).items() if t.grad is not None}}
    if not output.predicts_z:
        found |= _at_the_end(network, z.detach(), y, depth)
    torch.optim.SGD(leaves.values(), lr).step()
    return {symbol: t.detach() for symbol, t in (found | leaves).items()}


def _at_the_end(network: Network, z: Tensor, y: Tensor, depth: int) -> dict[str, Tensor]:
    """The prediction, and the derivatives of the cost by it and of it by z."""
    output = network.output
    predict = output.activation_reference if output.g is None else output.g.reference
    assert predict is not None
    a = predict(z.requires_grad_())
    found = {f"A{depth}": a}
    if output.of_activation is not None:
        (found[f"∂A{depth}/∂Z{depth}"],) = torch.autograd.grad(a.sum(), z)
        a = a.detach().requires_grad_()
        found["L"] = output.of_activation.reference(a, y).mean()
        (found[f"dA{depth}"],) = torch.autograd.grad(found["L"], a)
    return found
