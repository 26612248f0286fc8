"""Compares one step (forward, cost, backward, update) of the engines with PyTorch, and with the matrix products alone."""

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

from torchbp.benchmark._rows import Progress, Row, compare, interleaved
from torchbp.descent import Descent
from torchbp.nn import BCEWithLogitsLoss, BPNetwork

Steps = Callable[[], object]

FUSED, AUTOGRAD, EAGER, COMPILED, PRODUCTS = "fused", "autograd", "torch.nn eager", "torch.compile", "matrix products"
PER_LAYER = "one Function per layer"
SETTINGS: list[tuple[list[int], int]] = [
    ([30, 16, 1], 32),
    ([784, 100, 10], 10),
    ([784, 512, 512, 10], 128),
    ([1024, 1024, 1024, 1024, 16], 1024),
]
LR = 0.1
ROWS = 512  # rows of a call, which takes one step on each batch of them


def step_times(
    settings: Sequence[tuple[list[int], int]], rounds: int, block: float, compiled: bool, progress: Progress
) -> list[Row]:
    """Both engines against PyTorch's step, eager and compiled, against one Function per layer, and against the products."""
    rows = []
    for sizes, batch in settings:
        setting = name_of(sizes, batch)
        steps, gaps = {**contestants(sizes, batch), PER_LAYER: per_layer_step(sizes, batch)}, {}
        if compiled:
            progress(f"{setting}: torch.compile")
            try:
                steps[COMPILED] = compiled_step(sizes, batch)
            except Exception as error:  # compiling may raise anything: no compiler, an unsupported Python ...
                gaps[COMPILED] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        else:
            gaps[COMPILED] = "left out"
        times = interleaved(steps, rounds, block, batches_of(batch), lambda done: progress(f"{setting}: {done}"))  # noqa: B023
        rows += [
            compare("step time", setting, ours, peer, "s", times, gaps)
            for ours in (FUSED, AUTOGRAD)
            for peer in (EAGER, COMPILED, PER_LAYER, PRODUCTS)
        ]
    return rows


def name_of(sizes: Sequence[int], batch: int) -> str:
    """A setting's name, such as ``30-16-1, B 32``; three or more equal widths are joined, as in ``1024x4-16``."""
    runs = [[width, len([*same])] for width, same in groupby(sizes)]
    names = [f"{width}x{count}" if count > 2 else "-".join([str(width)] * count) for width, count in runs]
    return f"{'-'.join(names)}, B {batch}"


def batches_of(batch: int) -> int:
    """The number of steps in a call."""
    return max(1, ROWS // batch)


def contestants(sizes: list[int], batch: int) -> dict[str, Steps]:
    """The steps of each contestant, each with its own network and batches."""
    return {
        FUSED: fused_step(sizes, batch),
        AUTOGRAD: autograd_step(sizes, batch),
        EAGER: eager_step(sizes, batch),
        PRODUCTS: products(sizes, batch),
    }


def fused_step(sizes: list[int], batch: int) -> Steps:
    x, y = rows_of(sizes, batch)
    descent = Descent(BPNetwork(sizes), lr=LR)
    return lambda: descent.steps(x, y, batch)


def autograd_step(sizes: list[int], batch: int) -> Steps:
    x, y = rows_of(sizes, batch)
    network = BPNetwork(sizes)
    # foreach=False is SGD's default on a CPU; setting it saves the choice at each step.
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, foreach=False)
    return steps_of(lambda x, y: network.cost(x, y)[0], optimizer, x.split(batch), y.split(batch))


def per_layer_step(sizes: list[int], batch: int) -> Steps:
    """torchbp's autograd Functions, one per layer and one for the cost."""
    x, y = rows_of(sizes, batch)
    network, cost = BPNetwork(sizes), BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, foreach=False)
    return steps_of(lambda x, y: cost(network.logits(x), y), optimizer, x.split(batch), y.split(batch))


def eager_step(sizes: list[int], batch: int) -> Steps:
    x, y = rows_of(sizes, batch)
    network, cost = plain_network(sizes), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    return steps_of(lambda x, y: cost(network(x), y), optimizer, x.split(batch), y.split(batch))


def compiled_step(sizes: list[int], batch: int) -> Steps:
    """The eager step with network and cost compiled; raises what compiling raises."""
    x, y = rows_of(sizes, batch)
    network, cost = plain_network(sizes), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(lambda x, y: cost(network(x), y))
        steps = steps_of(compiled, optimizer, x.split(batch), y.split(batch))
        steps()
    return steps


def products(sizes: list[int], batch: int) -> Steps:
    """Only the matrix products of equations 2.1, 2.3, 3.2d, 3.2e and 3.2f, in preallocated memory."""
    operands: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        a, W, dz = torch.rand(batch, n_in), torch.rand(n_out, n_in), torch.rand(batch, n_out)
        operands += [(a, W.t(), torch.empty(batch, n_out)), (dz.t(), a, torch.empty(n_out, n_in))]
        if layer:
            operands.append((dz, W, torch.empty(batch, n_in)))

    def steps() -> None:
        for left, right, out in operands * batches_of(batch):
            torch.mm(left, right, out=out)

    return steps


def plain_network(sizes: Sequence[int]) -> nn.Sequential:
    """Linear and Sigmoid layers in turn; the cost has the last Sigmoid."""
    layers = [layer for n_in, n_out in pairwise(sizes) for layer in (nn.Linear(n_in, n_out), nn.Sigmoid())]
    return nn.Sequential(*layers[:-1])


def rows_of(sizes: Sequence[int], batch: int) -> tuple[Tensor, Tensor]:
    rows = batch * batches_of(batch)
    return torch.randn(rows, sizes[0]), torch.rand(rows, sizes[-1]).round()


def steps_of(
    cost: Callable[[Tensor, Tensor], Tensor], optimizer: torch.optim.Optimizer, X: Sequence[Tensor], Y: Sequence[Tensor]
) -> Steps:
    def steps() -> None:
        for x, y in zip(X, Y, strict=True):
            optimizer.zero_grad()
            cost(x, y).backward()
            optimizer.step()

    return steps
