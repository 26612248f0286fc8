"""Two processes, as on two machines, compared with one, and with plain gradient descent on their batches."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_run import CSV, ENGINES, OPTIONS, call, data_of, module_of, predicted, train, write_files
from torch import Tensor
from torch.nn import functional as F
from training_runs import quiet_trainer, train_rows

from torchbp.curvature import lr_from_curvature

SCRIPT = Path(__file__).parent / "distributed_run.py"


def started(command: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environment, **output)


def ended_well(nodes: Sequence[subprocess.Popen]) -> list[str]:
    """The outputs of the processes."""
    try:
        outputs = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:  # a process that waits for another waits long
            node.terminate()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    return outputs


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files()
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[dict[str, Any]]:
    """The results of each process."""
    command = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    ended_well([started([*command, "--node_rank", str(rank), str(SCRIPT), str(folder)], folder) for rank in range(2)])
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)


def rows_of(batches: Sequence[Sequence[Tensor]]) -> list[int]:
    """The rows' positions in their file."""
    return [int(number) // 2 for x, _ in batches for number in x[:, 0]]


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["builtin", "held"])
def test_two_processes_are_one_on_the_same_global_batches(runs: list[dict], kind: str, engine: str) -> None:
    expected = train(kind, engine)
    rows = len(train_rows(data_of(kind, 32))[0])
    assert expected["steps"] == 2 * -(-rows // 32)
    for rank, run in enumerate(found[f"{kind} {engine}"] for found in runs):
        assert (run["rank"], run["steps"]) == (rank, expected["steps"])
        close(run["state"], expected["state"])
        assert run["metrics"] == pytest.approx(expected["metrics"], abs=1e-6)
        assert sum(len(x) for x, _ in run["train"]) == rows  # half the rows of two epochs


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["builtin", "held", "mapped", "arrays"])
def test_two_processes_descend_on_both_their_batches(runs: list[dict], kind: str, engine: str) -> None:
    data = data_of(kind, 32)
    both = [run[f"{kind} {engine}"] for run in runs]
    x, y = (tensor.double() for tensor in train_rows(data))
    weight = (1 - y).sum(0) / y.sum(0)
    network = module_of(data, engine).double().network
    parameters = [parameter for layer in network.layers for parameter in (layer.weight, layer.bias)]
    batches = []
    for (x0, y0), (x1, y1) in zip(both[0]["train"], both[1]["train"], strict=True):
        assert len(x0) == len(x1)
        a = (torch.cat([x0, x1]).double() - x.mean(0)) / x.std(0, correction=0)
        batches.append((a, torch.cat([y0, y1]).double()))
    lr = lr_from_curvature(network, batches, pos_weight=weight)
    assert [run["lr"] for run in both] == [pytest.approx(lr, rel=1e-9)] * 2
    for a, y in batches:
        z = F.linear(F.linear(a, *parameters[:2]).sigmoid(), *parameters[2:])
        cost = F.binary_cross_entropy_with_logits(z, y, pos_weight=weight)
        gradients = torch.autograd.grad(cost, parameters)
        parameters = [(w - lr * dw).detach().requires_grad_() for w, dw in zip(parameters, gradients, strict=True)]
    expected = {"mean": x.mean(0), "scale": x.std(0, correction=0), "weight": weight}
    expected |= dict(enumerate(parameters))
    for run in both:
        trained = [value for name, value in run["state"].items() if name.startswith("network.")]
        fitted = [run["state"][name] for name in ("input_scaling.mean", "input_scaling.scale", "pos_weight")]
        for value, other in zip([*fitted, *trained], expected.values(), strict=True):
            torch.testing.assert_close(value, other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["held", "mapped", "arrays"])
def test_metrics_are_those_of_one_process_on_all_rows(runs: list[dict], kind: str, engine: str) -> None:
    data = data_of(kind, 32)
    module = module_of(data, engine).double()
    module.load_state_dict(runs[0][f"{kind} {engine}"]["state"])
    alone = quiet_trainer(precision="64-true")
    expected = {
        **alone.validate(module, datamodule=data, verbose=False)[0],
        **alone.test(module, datamodule=data, verbose=False)[0],
    }
    assert len(expected) == 10
    for run in (found[f"{kind} {engine}"] for found in runs):
        assert {name: run["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-7)


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["mapped", "arrays"])
def test_each_process_reads_its_own_part_of_a_file(runs: list[dict], kind: str, engine: str) -> None:
    data = data_of(kind, 32)
    first, second = (run[f"{kind} {engine}"] for run in runs)
    for split in ("train", "val", "test"):
        rows = rows_of([data.split_rows(split).all()])
        assert len(rows) % 2 == 1
        own, others = rows_of(first[split]), rows_of(second[split])
        assert max(own) < min(others)
        if split == "train":  # each epoch has all rows once, and one of the second's twice, so that both have as many
            assert len(own) == len(others) == len(rows) + 1
            for epoch in (slice(0, len(own) // 2), slice(len(own) // 2, None)):
                assert len(set(own[epoch])) == len(own[epoch]) == len(others[epoch])
                assert sorted({*own[epoch], *others[epoch]}) == rows
        else:
            epochs = 2 if split == "val" else 1
            assert sorted(own + others) == sorted(rows * epochs)
            assert len(first[split]) == 2 * len(second[split])  # batches


def test_one_process_writes_a_tables_cache(runs: list[dict]) -> None:
    assert sorted(runs[0]["written"] + runs[1]["written"]) == ["Cache._make", "Cache._make", "NpyFile.append", "NpyFile.append"]


def test_each_machine_removes_what_is_not_to_be_kept(runs: list[dict]) -> None:
    assert [run["left"] for run in runs] == [0, 0]


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("kind", ["mapped", "arrays"])
def test_each_process_predicts_all_rows_in_their_order(runs: list[dict], kind: str) -> None:
    expected = predicted(runs[0][f"{kind} fused"]["state"], kind)
    assert len(expected) == 1501
    for run in runs:
        torch.testing.assert_close(run[f"{kind} predicted"], expected, rtol=0, atol=1e-12)


def test_fewer_rows_than_processes_are_refused(runs: list[dict]) -> None:
    assert {run["refused"] for run in runs} == {"to validate or test, each of 2 processes needs a row; there are 1"}


@pytest.mark.usefixtures("_there")
def test_the_command_line_tests_and_refuses_to_predict(runs: list[dict]) -> None:
    assert [run[command][0] for run in runs for command in ("fit", "test", "predict")] == [0, 0, 1] * 2
    # One process writes: one run, one event file, one report.
    assert len([*Path().glob("logs/table/*")]) == len([*Path().glob("logs/table/version_0/events.*")]) == 1
    assert "best checkpoint" in runs[0]["fit"][1]
    assert runs[1]["fit"][1:] == runs[1]["test"][1:] == ("", "")
    outputs = runs[0]["test"][1], call("test", "--ckpt_path", "best")[1]
    # Rows, scores, classes and the confusion matrix count every row once.
    found, expected = ([line for line in text.splitlines() if line.startswith("│")] for text in outputs)
    assert found == expected
    assert any("accuracy" in line for line in found)
    refusal = "torchbp: error: predictions are written by one process, not 2; set --trainer.devices 1 --trainer.num_nodes 1\n"
    assert runs[0]["predict"][2].endswith(refusal)
    assert Path("old.csv").read_text() == "precious"


def test_slurm_trains_the_same(folder: Path, runs: list[dict]) -> None:
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "torchbp", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": free_port()}
    job |= {"SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}
    command = ["torchbp", "fit", *CSV, "--trainer.max_epochs", "2", "--model.engine", "fused", *OPTIONS]
    ranks = [{"SLURM_NODEID": str(rank), "SLURM_PROCID": str(rank)} for rank in range(2)]
    first, second = ended_well([started(command, folder, **job, **rank) for rank in ranks])
    assert second == ""
    by_torchrun, by_slurm = (re.findall(r"cost/val (\S+)", text) for text in (runs[0]["fit"][1], first))
    assert by_torchrun == by_slurm != []
