"""Measures the time to import and the time to the first step, each in a new process."""

import subprocess
import sys
from functools import partial

from torchbp.benchmark._rows import Progress, Row, compare, interleaved

FIRST_STEPS = {
    "fused": """
import torch
from torchbp.descent import Descent
from torchbp.nn import BPNetwork
Descent(BPNetwork([30, 16, 1])).step(torch.randn(32, 30), torch.rand(32, 1))
""",
    "autograd": """
import torch
from torchbp.nn import BPNetwork
network = BPNetwork([30, 16, 1])
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
network.cost(torch.randn(32, 30), torch.rand(32, 1))[0].backward()
optimizer.step()
""",
    "torch.nn eager": """
import torch
from torch import nn
network = nn.Sequential(nn.Linear(30, 16), nn.Sigmoid(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
nn.BCEWithLogitsLoss()(network(torch.randn(32, 30)), torch.rand(32, 1)).backward()
optimizer.step()
""",
}
IMPORTS = {"torchbp": "import torchbp", "torch": "import torch"}


def startup_times(rounds: int, progress: Progress) -> list[Row]:
    """Seconds of a new process, with the interpreter's start."""
    scripts = {**IMPORTS, **FIRST_STEPS}
    progress("startup")
    _run("import torchbp.nn")  # read the files into memory
    calls = {name: partial(_run, script) for name, script in scripts.items()}
    times = interleaved(calls, rounds, None, progress=lambda done: progress(f"startup: {done}"))
    return [
        compare("import", "new process", "torchbp", "torch", "s", times, {}),
        *(compare("first step", "new process", ours, "torch.nn eager", "s", times, {}) for ours in ("fused", "autograd")),
    ]


def _run(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
