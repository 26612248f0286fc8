"""Several networks in one module: their joint cost, their own rows, and what they cannot do."""

from typing import Any

import torch
from torch import Tensor

from torchbp.data import RowsDataModule
from torchbp.functions import positives_weighted
from torchbp.nn import BPNetwork


def refuse_networks(networks: int | None, bootstrap: bool, engine: str, cuda_graph: bool, sequences: str | None) -> None:
    """Refuse a number of networks, and what asks for another engine than theirs.

    Raises:
        ValueError: it cannot be.
    """
    if networks is None:
        if bootstrap:
            raise ValueError("bootstrap is True; it is for several networks: say networks: 8")
        return
    if networks < 2:
        raise ValueError(f"networks is {networks}; it must be 2 or more, or null for one")
    if sequences is not None:
        raise ValueError(f"networks is {networks}; several are for rows, and the data are sequences")
    if engine in ("autograd", "compiled") or cuda_graph:
        asked = f"engine is {engine}" if engine in ("autograd", "compiled") else "cuda_graph is True"
        raise ValueError(f"networks is {networks} and {asked}; several are trained by engine: fused, without cuda_graph")


def cost_of_mean(
    network: BPNetwork,
    kept: Tensor,
    x: Tensor,
    y: Tensor,
    cost: str | None = None,
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean cost of the mean prediction of the networks that are ``kept``, (K) of True and False, and that prediction.

    The rest is as for :meth:`BPNetwork.cost` of one.
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
    """Have a loader's rows come with a weight for each of K networks, (B, K): how often it has drawn them.

    Raises:
        ValueError: the rows are of no data module of this package, or have weights already.
    """
    rows = getattr(loader, "rows", None)
    if rows is None or len(rows.shapes) != 2:
        raise ValueError(f"bootstrap is True; it takes rows of {RowsDataModule.__module__.rpartition('.')[0]}, x and y alone")
    generator = torch.Generator().manual_seed(loader.seed or 0)
    drawn = [torch.randint(len(rows), (len(rows),), generator=generator) for _ in range(networks)]
    loader.rows = rows.beside(torch.stack([torch.bincount(one, minlength=len(rows)) for one in drawn], 1).float())
