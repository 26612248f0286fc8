"""Backpropagation through time: forward and backward of a recurrent layer, beside torch.nn.RNN and the products alone."""

from collections.abc import Callable, Sequence

import torch

from torchbp import nn
from torchbp.benchmark._memory import peak
from torchbp.benchmark._rows import Progress, Row, compare, interleaved
from torchbp.benchmark._steps import AUTOGRAD, PRODUCTS, Steps

RNN = "torch.nn.RNN"
SETTINGS = [(28, 64, 28, 64), (100, 16, 8, 32), (150, 32, 1, 64)]  # steps, batch, inputs and units

Layer = Callable[[int, int], torch.nn.Module]


def recurrent_times(settings: Sequence[tuple[int, int, int, int]], rounds: int, block: float, progress: Progress) -> list[Row]:
    """Seconds and peak bytes of a layer of tanh with a gradient for every parameter."""
    rows = []
    for sizes in settings:
        setting = "T {}, B {}, {}-{}".format(*sizes)
        steps = {AUTOGRAD: step(nn.RNN, *sizes), RNN: step(torch.nn.RNN, *sizes), PRODUCTS: products(*sizes)}
        times = interleaved(steps, rounds, block, progress=lambda done: progress(f"recurrent, {setting}: {done}"))  # noqa: B023
        rows += [compare("recurrent step", setting, AUTOGRAD, peer, "s", times, {}) for peer in (RNN, PRODUCTS)]
        own, theirs = peak(step, nn.RNN, *sizes), peak(step, torch.nn.RNN, *sizes)
        rows.append(Row("recurrent peak memory", setting, AUTOGRAD, RNN, "B", own, theirs, theirs / own, 0.0))
    return rows


def step(layer: Layer, steps: int, batch: int, n_in: int, n_out: int) -> Steps:
    """Forward and backward, from a gradient above at every step."""
    rnn, x, above = layer(n_in, n_out), torch.randn(steps, batch, n_in), torch.randn(steps, batch, n_out)

    def call() -> None:
        rnn.zero_grad()
        rnn(x)[0].backward(above)

    return call


def products(steps: int, batch: int, n_in: int, n_out: int) -> Steps:
    """Nothing but the products of 5.1 to 5.3, in memory that is there."""
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
