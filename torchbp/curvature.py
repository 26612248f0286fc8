"""Finds a learning rate from the curvature of the cost, if none was given."""

from collections.abc import Iterable, Sequence
from itertools import islice
from math import nan

import torch
from torch import Tensor

from torchbp.nn import BPNetwork

__all__ = ["check_lrs", "largest_eigenvalue", "lr_from_curvature", "lrs_from_curvature"]

BATCHES = 8
ROWS = 1024  # at most, of each batch: the curvature hardly changes with more
PRODUCTS = 12
GROWTH = 1.01  # the iteration stops when a product makes the eigenvalue grow by less


def lr_from_curvature(
    network: BPNetwork, batches: Iterable[Sequence[Tensor]], cost: str | None = None, pos_weight: Tensor | None = None
) -> float:
    """The learning rate 1/λ, where λ is the largest eigenvalue of the cost's Hessian, averaged over the first 8 batches.

    After LeCun, Simard and Pearlmutter (1993). With this curvature, a learning rate below 2/λ makes the cost fall. Batches must
    have the size that is used in training: the cost of a small batch has more curvature than that of all rows. The network is
    not changed, and no global random number is drawn.

    Args:
        network: with its initial parameters.
        batches: ``(x, y)``, with x (B, n0) and y (B, nL) as the network's cost takes them, or ``(x, y, weight)``, weight (B).
        cost, pos_weight: as for :meth:`torchbp.nn.BPNetwork.cost`.

    Raises:
        ValueError: there is no batch, or the cost has no curvature (saturated units).
        FloatingPointError: the cost is not finite.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> round(lr_from_curvature(BPNetwork([1, 1], "linear"), [(x, 2 * x)]), 3)  # the Hessian is [[10, 4], [4, 2]]
    0.086
    """
    lr = lrs_from_curvature(network, batches, cost, pos_weight)
    check_lrs(lr)
    return lr.item()


def lrs_from_curvature(
    network: BPNetwork, batches: Iterable[Sequence[Tensor]], cost: str | None = None, pos_weight: Tensor | None = None
) -> Tensor:
    """:func:`lr_from_curvature` for each of K networks side by side: (K), float64; (1) for one network.

    Batches are (K, B, n), weights (K, B). A network gets NaN if its cost is not finite, infinity if its cost has no curvature.

    Raises:
        ValueError: there is no batch.
    """
    direction = _start(network)
    eigenvalues, counts = [], []
    for x, y, *weight in islice(batches, BATCHES):
        w = weight[0][..., :ROWS] if weight and weight[0] is not None else None
        x, y = (t[:ROWS] if network.networks is None else t[..., :ROWS, :] for t in (x, y))
        # Starting from the last batch's direction, which is near this one's, takes few products.
        eigenvalue, direction = _power_iteration(network, x, y, direction, cost, pos_weight, w)
        eigenvalues.append(eigenvalue)
        # A network with fewer rows than others has batches without a row that counts: they say nothing about its cost.
        counts.append(torch.ones_like(eigenvalue) if w is None else (w > 0).any(-1).to(eigenvalue).expand_as(eigenvalue))
    if not eigenvalues:
        raise ValueError("lr is 'auto', but there is no batch to find it from; give lr a number")
    mean = torch.stack(eigenvalues).sum(0) / torch.stack(counts).sum(0)
    return (1 / mean).where(mean.isfinite(), nan)


def check_lrs(lrs: Tensor) -> None:
    """Refuse results of :func:`lrs_from_curvature` that are not finite.

    Raises:
        ValueError: the cost of a network has no curvature.
        FloatingPointError: it is not finite.
    """
    if lrs.isnan().any():
        raise FloatingPointError("the cost is not finite at the start: x, y or the weights are not finite, or too large")
    if lrs.isinf().any():
        raise ValueError("lr is 'auto', but the cost has no curvature at the start; give lr a number")


def largest_eigenvalue(
    network: BPNetwork,
    x: Tensor,
    y: Tensor,
    cost: str | None = None,
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """The magnitude of the largest eigenvalue of the mean cost's Hessian by all parameters, by power iteration.

    Args:
        network: the Hessian is by its parameters that require a gradient.
        x, y, cost, pos_weight, weight: as for :meth:`torchbp.nn.BPNetwork.cost`.
    """
    return _power_iteration(network, x, y, _start(network), cost, pos_weight, weight)[0].item()


@torch.enable_grad()
def _power_iteration(
    network: BPNetwork,
    x: Tensor,
    y: Tensor,
    direction: list[Tensor],
    cost: str | None,
    pos_weight: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Each network's largest eigenvalue, (K) or (1), and its eigenvector of length 1."""
    parameters, k = _trained(network), network.networks or 1
    if network.networks is None:
        value, _ = network.cost(x, y, cost, weight, pos_weight=pos_weight)
    else:  # each cost depends only on its network's parameters, so the Hessian of the sum has one block per network
        costs, _ = network.cost(x, y, cost, weight, reduction="none", pos_weight=pos_weight)
        value = costs.mean((-2, -1)).sum()
    gradients = torch.autograd.grad(value, parameters, create_graph=True)
    eigenvalue = x.new_zeros(k, dtype=torch.float64)
    going = torch.ones_like(eigenvalue, dtype=torch.bool)
    for _ in range(PRODUCTS):
        # Of the scalar, because for grad_outputs PyTorch imports SymPy, which takes 0.3 s.
        along = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
        product = torch.autograd.grad(along, parameters, retain_graph=True, materialize_grads=True)
        # In float64, squares of float32 numbers do not overflow.
        length = torch.stack([p.reshape(k, -1).norm(dim=1, dtype=torch.float64) for p in product]).norm(dim=0)
        before, eigenvalue = eigenvalue, torch.where(going, length, eigenvalue)
        going &= length.isfinite() & (length > 0)
        direction = [
            torch.where(_along(going, p), p / _along(length, p), d).detach() for p, d in zip(product, direction, strict=True)
        ]
        going &= eigenvalue >= GROWTH * before
        if not going.any():
            break
    return eigenvalue, direction


def _along(values: Tensor, parameter: Tensor) -> Tensor:
    """Each network's value (K), shaped to broadcast over a parameter (K, ...); one network's value (1) stays (1)."""
    return values.to(parameter.dtype if values.is_floating_point() else values.dtype).view(
        -1, *[1] * (parameter.dim() - 1 if len(values) > 1 else 0)
    )


def _start(network: BPNetwork) -> list[Tensor]:
    """A random vector of length 1, the same on every device and for each of K networks."""
    generator = torch.Generator().manual_seed(0)
    own = 0 if network.networks is None else 1
    drawn = [torch.randn(p.shape[own:], generator=generator) for p in _trained(network)]
    length = torch.stack([d.norm() for d in drawn]).norm()
    return [(d / length).to(p).expand_as(p) for d, p in zip(drawn, _trained(network), strict=True)]


def _trained(network: BPNetwork) -> list[Tensor]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
