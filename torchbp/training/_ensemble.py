"""Several networks in one module: the cost of their mean prediction, bootstrapped rows, and settings that they refuse."""

from typing import Any

import torch
from torch import Tensor

from torchbp.data import RowsDataModule
from torchbp.functions import positives_weighted
from torchbp.nn import BPNetwork

MAX_NETWORKS = 10_000


def refuse_networks(networks: int | None, bootstrap: bool, engine: str, cuda_graph: bool, sequences: str | None) -> None:
    """Refuse a number of networks outside 2 to 10,000, and settings that several networks cannot be trained with.

    Raises:
        ValueError: such a number or setting.
    """
    if networks is None:
        if bootstrap:
            raise ValueError("bootstrap is True; it is for several networks: set networks, for example networks: 8")
        return
    if not 2 <= networks <= MAX_NETWORKS:
        raise ValueError(f"networks is {networks}; it must be from 2 to {MAX_NETWORKS}, or null for one")
    if sequences is not None:
        raise ValueError(f"networks is {networks}; several networks are for rows, and the data are sequences")
    if engine in ("autograd", "compiled") or cuda_graph:
        asked = f"engine is {engine}" if engine in ("autograd", "compiled") else "cuda_graph is True"
        raise ValueError(f"networks is {networks} and {asked}; several networks need engine: fused, without cuda_graph")


def cost_of_mean(
    network: BPNetwork,
    kept: Tensor,
    x: Tensor,
    y: Tensor,
    cost: str | None = None,
    weight: Tensor | None = None,
    *,
    pos_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean cost of the networks' mean prediction, a scalar, and that prediction, (B, nL).

    Args:
        kept: which networks count, (K) of bool.
        network, x, y, cost, weight, pos_weight: as for :meth:`BPNetwork.cost`.
    """
    output = network.output_with(cost)
    z = output.pooled(network.logits(x)[kept])
    a = output.activation(z)
    u = None
    if pos_weight is not None:
        u, y = positives_weighted(y, pos_weight)
    value = output.value(z, a, y)
    for factor in (u, None if weight is None else weight.unsqueeze(-1)):
        value = value if factor is None else value * factor
    return value.mean(), a.detach()


def bootstrap(loader: Any, networks: int) -> None:
    """Add to a loader's rows a weight for each of K networks, (B, K): how often the network's bootstrap sample has the row.

    Raises:
        ValueError: the loader is not from a data module of this package, or its rows already have weights.
    """
    rows = getattr(loader, "rows", None)
    if rows is None or len(rows.shapes) != 2:
        package = RowsDataModule.__module__.rpartition(".")[0]
        raise ValueError(f"bootstrap is True; it needs a data module of {package}, without weights of rows")
    generator = torch.Generator().manual_seed(loader.seed or 0)
    drawn = [torch.randint(len(rows), (len(rows),), generator=generator) for _ in range(networks)]
    loader.rows = rows.with_source(torch.stack([torch.bincount(one, minlength=len(rows)) for one in drawn], 1).float())
