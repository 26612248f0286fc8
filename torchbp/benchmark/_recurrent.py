"""Compares backpropagation through time, a layer and whole steps of both engines, with torch.nn.RNN and the products alone."""

from collections.abc import Callable, Sequence

import torch

from torchbp import nn
from torchbp.benchmark._memory import peak
from torchbp.benchmark._rows import Progress, Row, compare, interleaved
from torchbp.benchmark._steps import AUTOGRAD, FUSED, PRODUCTS, Steps
from torchbp.recurrent_descent import RecurrentDescent

RNN, WITH_SGD = "torch.nn.RNN", "torch.nn.RNN with SGD"
LR = 1e-3
SETTINGS = [(28, 64, 28, 64), (100, 16, 8, 32), (150, 32, 1, 64)]  # steps, batch, inputs and units

Layer = Callable[[int, int], torch.nn.Module]


def recurrent_times(settings: Sequence[tuple[int, int, int, int]], rounds: int, block: float, progress: Progress) -> list[Row]:
    """Seconds and peak bytes of forward and backward of a tanh layer, and seconds of whole steps."""
    rows = []
    for sizes in settings:
        setting = "T {}, B {}, {}-{}".format(*sizes)
        steps = {AUTOGRAD: step(nn.RNN, *sizes), RNN: step(torch.nn.RNN, *sizes), PRODUCTS: products(*sizes)}
        times = interleaved(steps, rounds, block, progress=lambda done: progress(f"recurrent, {setting}: {done}"))  # noqa: B023
        rows += [compare("recurrent step", setting, AUTOGRAD, peer, "s", times, {}) for peer in (RNN, PRODUCTS)]
        own, theirs = peak(step, nn.RNN, *sizes), peak(step, torch.nn.RNN, *sizes)
        rows.append(Row("recurrent peak memory", setting, AUTOGRAD, RNN, "B", own, theirs, theirs / own, 0.0))
        times = interleaved(whole_steps(*sizes), rounds, block, progress=lambda done: progress(f"recurrent, {setting}: {done}"))  # noqa: B023
        rows += [compare("recurrent whole step", setting, ours, WITH_SGD, "s", times, {}) for ours in (FUSED, AUTOGRAD)]
    return rows


def step(layer: Layer, steps: int, batch: int, n_in: int, n_out: int) -> Steps:
    """Forward and backward of a layer, with an upstream gradient at every time step."""
    rnn, x, above = layer(n_in, n_out), torch.randn(steps, batch, n_in), torch.randn(steps, batch, n_out)

    def call() -> None:
        rnn.zero_grad()
        rnn(x)[0].backward(above)

    return call


def whole_steps(steps: int, batch: int, n_in: int, n_out: int) -> dict[str, Steps]:
    """Forward, cost, backward and update of a network that predicts one value per sequence from its last state."""
    x, y = torch.randn(batch, steps, n_in), torch.randn(batch, 1)
    network, in_place = (nn.RecurrentNetwork([n_in, n_out, 1], "linear") for _ in range(2))
    descent, optimizer = RecurrentDescent(in_place, lr=LR), torch.optim.SGD(network.parameters(), LR)
    rnn, last = torch.nn.RNN(n_in, n_out, batch_first=True), torch.nn.Linear(n_out, 1)
    peer = torch.optim.SGD([*rnn.parameters(), *last.parameters()], LR)

    def by_autograd() -> None:
        optimizer.zero_grad()
        network.cost(x, y)[0].backward()
        optimizer.step()

    def by_peer() -> None:
        peer.zero_grad()
        _, h = rnn(x)
        torch.nn.functional.mse_loss(last(h[0]), y).backward()
        peer.step()

    return {FUSED: lambda: descent.step(x, y), AUTOGRAD: by_autograd, WITH_SGD: by_peer}


def products(steps: int, batch: int, n_in: int, n_out: int) -> Steps:
    """Only the matrix products of equations 5.1 to 5.3, in preallocated memory."""
    x, a, dz = (torch.randn(steps * batch, n) for n in (n_in, n_out, n_out))
    Wi, Wh = torch.randn(n_out, n_in), torch.randn(n_out, n_out)
    z, dWi, dWh = torch.empty_like(a), torch.empty_like(Wi), torch.empty_like(Wh)
    Wit, Wht, dzt = Wi.t(), Wh.t(), dz.t()
    each = list(zip(a.split(batch), dz.split(batch), z.split(batch), strict=True))

    def call() -> None:
        torch.mm(x, Wit, out=z)
        for at, _, zt in each:
            torch.mm(at, Wht, out=zt)
        for _, error, zt in each:
            torch.mm(error, Wh, out=zt)
        torch.mm(dzt, x, out=dWi)
        torch.mm(dzt, a, out=dWh)

    return call
