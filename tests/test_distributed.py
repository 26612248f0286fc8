"""Two processes, as on two machines, against one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_run import train

SCRIPT = Path(__file__).parent / "distributed_run.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    nodes = [
        subprocess.Popen(
            [*command, "--node_rank", str(rank), str(SCRIPT), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for node in nodes:
        output, _ = node.communicate(timeout=240)
        assert node.returncode == 0, output
    # One process writes: one run, one event file.
    assert len(list(folder.glob("logs/moons/*"))) == len(list(folder.glob("logs/moons/version_0/events.*"))) == 1
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_are_one_on_the_same_global_batches(runs: list[dict]) -> None:
    for engine in ("autograd", "fused"):
        expected = train(engine)
        assert expected["steps"] == 2 * 19
        for rank, run in enumerate(found[engine] for found in runs):
            assert (run["rank"], run["steps"]) == (rank, expected["steps"])
            for parameter, other in zip(run["parameters"], expected["parameters"], strict=True):
                torch.testing.assert_close(parameter, other, rtol=0, atol=1e-12)
            assert run["metrics"] == pytest.approx(expected["metrics"], abs=1e-6)
            assert run["rows"] == 600  # half of those of two epochs
