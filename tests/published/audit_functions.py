"""Audit the published Functions of the study: ``python tests/published/audit_functions.py [WORD ...]``.

Each has its own process: a check that is stopped inside a transform leaves PyTorch's state changed.
"""

import importlib.metadata
import multiprocessing
import sys

import torch
from functions import ACTIVATIONS, SURROGATES, TENSORS
from published import declare_torchvision_operators
from solvers import SOLVERS

from torchbp.verify import audit

CASES = {**ACTIVATIONS, **SURROGATES, **TENSORS, **SOLVERS}
SECONDS = 120


def audit_case(name: str) -> None:
    """Audit one, and print what did not pass."""
    case = CASES[name]
    torch.manual_seed(0)
    declare_torchvision_operators()
    try:
        function, inputs = case.build()
        meant = "consistency" if case.surrogate else None
        result = audit(function, inputs, reference=case.reference, surrogate=meant, name=name, only=case.only)
    except (ImportError, ValueError) as error:
        print(f"## {name}: not audited: {error}", flush=True)
        return
    print(f"## {name}, {case.distribution} {importlib.metadata.version(case.distribution)}", flush=True)
    for row in result.rows:
        if row.detail:
            print(f"   {row.status} {row.check} {row.dtype}: {row.detail[:200]}".replace("\n", " | "), flush=True)


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    processes = multiprocessing.get_context("fork")
    for name in [n for n in CASES if not words or any(word in n for word in words)]:
        process = processes.Process(target=audit_case, args=(name,))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            print(f"## {name}: no answer within {SECONDS} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
