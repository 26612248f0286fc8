"""Compares compiled blocks of steps with steps in place, and with JAX's jitted scan if JAX is installed."""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch

from torchbp.benchmark._rows import Progress, Row, compare, interleaved
from torchbp.benchmark._steps import FUSED, LR, name_of
from torchbp.descent import Descent
from torchbp.nn import BPNetwork

BLOCKS, JAX = "compiled", "JAX, jitted scan"
STEPS = 32
SETTINGS: list[tuple[list[int], int]] = [([30, 16, 1], 32), ([784, 30, 10], 10), ([28, 64, 1], 256)]


def block_times(rounds: int, block: float, progress: Progress) -> list[Row]:
    """Seconds per step, with 32 steps per call."""
    rows = []
    for sizes, batch in SETTINGS:
        setting = name_of(sizes, batch)
        x, y = torch.randn(STEPS * batch, sizes[0]), torch.rand(STEPS * batch, sizes[-1]).round()
        calls: dict[str, Callable[[], object]] = {}
        gaps: dict[str, str] = {}
        for name, compile in ((FUSED, False), (BLOCKS, True)):
            progress(f"{setting}: {name}")
            descent = Descent(BPNetwork(sizes), lr=LR, compile=compile)
            try:
                descent.steps(x, y, batch)
            except ValueError as error:  # no compiler
                gaps[name] = str(error)
            else:
                calls[name] = lambda descent=descent: descent.steps(x, y, batch)  # type: ignore[misc]  # noqa: B023
        if find_spec("jax"):
            progress(f"{setting}: {JAX}")
            calls[JAX] = jax_scan(sizes, batch, x, y)
        else:
            gaps[JAX] = "jax is not installed"
        times = interleaved(calls, rounds, block, STEPS, lambda done: progress(f"{setting}: {done}"))  # noqa: B023
        pairs = ((BLOCKS, FUSED), (BLOCKS, JAX), (FUSED, JAX))
        rows += [compare("step time, 32 in a call", setting, ours, peer, "s", times, gaps) for ours, peer in pairs]
    return rows


def jax_scan(sizes: list[int], batch: int, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """The same steps in JAX: ``jax.grad`` in ``jax.lax.scan``, compiled. Each call returns the parameters after all steps."""
    if torch.get_num_threads() == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax
    import jax.numpy as jnp

    def cost(parameters: list, batch: tuple) -> "jax.Array":
        a, target = batch
        *hidden, (W, b) = parameters
        for V, c in hidden:
            a = jax.nn.sigmoid(a @ V.T + c)
        z = a @ W.T + b
        return (jnp.logaddexp(0, z) - target * z).mean()

    def step(parameters: list, batch: tuple) -> tuple[list, None]:
        return jax.tree.map(lambda p, d: p - LR * d, parameters, jax.grad(cost)(parameters, batch)), None

    rows = tuple(jnp.asarray(t.numpy()).reshape(STEPS, batch, -1) for t in (x, y))
    values = [jnp.asarray(parameter.detach().numpy()) for parameter in BPNetwork(sizes).ordered_parameters()]
    start = [*zip(values[::2], values[1::2], strict=True)]
    scan = jax.jit(lambda parameters: jax.lax.scan(step, parameters, rows)[0])
    return lambda: jax.block_until_ready(scan(start))
