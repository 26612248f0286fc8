"""Audit the published Functions of the study: ``python tests/published/audit_functions.py [NAME ...]``."""

import importlib.metadata
import signal
import sys
from types import FrameType

import torch
from functions import ACTIVATIONS, SURROGATES, TENSORS
from published import declare_torchvision_operators
from solvers import SOLVERS

from torchbp.verify import audit

CASES = {**ACTIVATIONS, **SURROGATES, **TENSORS, **SOLVERS}


SECONDS = 60  # an adaptive solver may never reach its tolerance in float16


def stop(signal_number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer within {SECONDS} s")


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    declare_torchvision_operators()
    signal.signal(signal.SIGALRM, stop)
    for name in [n for n in CASES if not names or any(word in n for word in names)]:
        case = CASES[name]
        torch.manual_seed(0)
        signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
        try:
            function, inputs = case.build()
            result = audit(function, inputs, reference=case.reference, name=name)
        except (ImportError, ValueError) as error:
            print(f"## {name}: not audited: {error}", flush=True)
            continue
        print(f"## {name}, {case.distribution} {importlib.metadata.version(case.distribution)}", flush=True)
        for row in result.rows:
            if row.detail and not (case.surrogate and row.check == "backward"):
                print(f"   {row.status} {row.check} {row.dtype}: {row.detail[:200]}".replace("\n", " | "), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
