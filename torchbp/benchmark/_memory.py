"""Measures the peak memory of a step with PyTorch's profiler."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.profiler import ProfilerActivity, profile

from torchbp.benchmark._rows import Row
from torchbp.benchmark._steps import AUTOGRAD, EAGER, FUSED, Steps, autograd_step, batches_of, eager_step, fused_step, name_of

FLOAT = 4  # bytes


def step_memory(sizes: list[int], batch: int) -> list[Row]:
    """Peak bytes of a step, with workspaces and gradients: in total, and without parameters and batch, which all must hold."""
    steps = {FUSED: fused_step, AUTOGRAD: autograd_step, EAGER: eager_step}
    given = FLOAT * (
        batch * batches_of(batch) * (sizes[0] + sizes[-1]) + sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))
    )
    total = {name: peak(make, sizes, batch) for name, make in steps.items()}
    result = []
    for measure, less in (("peak memory", 0), ("without parameters, batch", given)):
        for ours in (FUSED, AUTOGRAD):
            own, theirs = total[ours] - less, total[EAGER] - less
            result.append(Row(measure, name_of(sizes, batch), ours, EAGER, "B", own, theirs, theirs / own, 0.0))
    return result


def peak(make: Callable[..., Steps], *arguments: object) -> int:
    """The most bytes held at a time, from the start of ``make(*arguments)`` to the end of the second call of its result."""
    with TemporaryDirectory() as folder, _silent_stderr():
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            steps = make(*arguments)
            steps()
            steps()
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))
        events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    held = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence file descriptor 2: the profiler writes its stages there, not to ``sys.stderr``."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
