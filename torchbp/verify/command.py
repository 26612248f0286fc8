"""``torchbp gradcheck``: the audit from the command line."""

import json
import os
import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from torchbp._imports import imported_module
from torchbp.cli import OneLineParser, console
from torchbp.verify._explain import explain, overview
from torchbp.verify._outcome import STATUSES
from torchbp.verify._own import available_devices, gradcheck, own_functionals
from torchbp.verify._report import junit, markdown, summary
from torchbp.verify._result import Result
from torchbp.verify._scan import scan

FAIL_ON = ("wrong", "error", "unsupported", "wasteful")


def run(args: Sequence[str]) -> int:
    """Run ``torchbp gradcheck``; returns 1 if a check's status is ``--fail-on`` or worse, else 0."""
    options = _parser().parse_args(args)
    if options.explain is not None:
        from rich.markdown import Markdown

        console().print(Markdown(explain(options.explain) if options.explain else overview()))
        return 0
    if options.scan:
        return _scan(options.scan)
    results = _results(options)
    if options.junit:
        Path(options.junit).write_text(junit(results, options.fail_on), encoding="utf-8")
    if options.markdown:
        with Path(options.markdown).open("a", encoding="utf-8") as file:  # GitHub jobs append to their summary
            file.write(markdown(results))
    known = _known(options.baseline) if options.baseline else set()
    new = [
        row
        for result in results
        for row in result.at_least(options.fail_on)
        if (result.function, row.check, row.device, row.dtype, row.status) not in known
    ]
    if options.json:
        print(json.dumps([row for result in results for row in result.to_json()], indent=2))
        return 1 if new else 0
    shown = results
    if options.baseline:
        shown = [_without_known(result, known) for result in results]
        count = sum(len(result.rows) for result in results) - sum(len(result.rows) for result in shown)
        console().print(f"{count} known findings of {options.baseline} are left out")
    for table in [result.table() for result in shown] if options.verbose or options.function else [summary(shown)]:
        console().print(table)
    return 1 if new else 0


def _parser() -> ArgumentParser:
    parser = OneLineParser(
        "torchbp gradcheck",
        description="Audit torchbp's own derivatives, or those of your own torch.autograd.Function:\n\n"
        "  torchbp gradcheck\n  torchbp gradcheck --function mypackage.layers:MyFunction --inputs '4,3 2,3 2'\n"
        "  torchbp gradcheck --function layers:Embedding --inputs layers:some_inputs --only backward,vmap\n"
        "  torchbp gradcheck --explain 'two threads'\n  torchbp gradcheck --scan mypackage\n\n"
        "some_inputs() returns a tuple of all arguments; tensors to differentiate by are float64 and require grad.\n\n"
        "The status of a check:\n" + "\n".join(f"  {status:<12}{meaning}" for status, meaning in STATUSES.items()),
        formatter_class=RawDescriptionHelpFormatter,
    )
    audited = parser.add_argument_group("what to audit")
    audited.add_argument("--function", help="one of torchbp's own, or package.module:Function; all of torchbp's own by default")
    audited.add_argument(
        "--inputs", help="for your own: shapes of float64 tensors, or package.module:callable that returns them"
    )
    audited.add_argument(
        "--reference", help="for your own: package.module:callable of a PyTorch function with the same outputs"
    )
    audited.add_argument(
        "--surrogate",
        help="for a derivative that is not meant to be forward's: package.module:callable with the meant derivative, "
        "or 'consistency' if there is none",
    )
    audited.add_argument("--tolerance", type=float, default=0.0, help="the largest absolute and relative error allowed")
    audited.add_argument("--device", default="cpu", choices=("cpu", "cuda", "all"), help="where to audit; all: on every device")
    audited.add_argument("--only", help="the checks to run, such as 'backward,torch compile'; all by default")
    audited.add_argument("--jobs", type=_jobs, default=_cores(), metavar="N", help="processes (default: one for each core)")
    audited.add_argument("--module", help="another module with functions of torchbp.functional's names, to audit instead")
    output = parser.add_argument_group("output")
    output.add_argument("--fail-on", default="error", choices=FAIL_ON, help="exit with 1 for this or worse (default: error)")
    output.add_argument("--baseline", metavar="FILE", help="known findings, an earlier --json output; only others fail")
    output.add_argument("--verbose", action="store_true", help="one row per check, as for a single function")
    output.add_argument("--json", action="store_true", help="print every row as JSON")
    output.add_argument("--junit", metavar="FILE", help="also write JUnit XML")
    output.add_argument("--markdown", metavar="FILE", help='also append Markdown, such as to "$GITHUB_STEP_SUMMARY"')
    help = "say what a check asks and how to fix a fault, with an example; without CHECK, list the checks"
    output.add_argument("--explain", metavar="CHECK", nargs="?", const="", help=help)
    output.add_argument("--scan", metavar="PACKAGE", help="list the autograd Functions of an installed package")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"the number of processes is {text!r}; it must be 1 or more")
    return int(text)


def _results(options: Namespace) -> list[Result]:
    only = None if options.only is None else [name.strip() for name in options.only.split(",")]
    devices = available_devices() if options.device == "all" else [options.device]
    own = own_functionals() if options.module is None else own_functionals(imported_module(options.module))
    settings = {"devices": devices, "module": options.module, "only": only, "tolerance": options.tolerance}
    jobs = min(options.jobs, len(own))
    if options.function or options.inputs or options.reference or options.surrogate or jobs < 2:
        audits = gradcheck(
            function=options.function,
            inputs=options.inputs,
            reference=options.reference,
            surrogate=options.surrogate,
            **settings,
        )
    else:
        audits = _in_processes(jobs, [sample.name for sample in own], settings)
    count = 1 if options.function else len(own)
    progress = Console(stderr=True)
    return list(track(audits, "auditing", count, console=progress, transient=True, disable=not progress.is_terminal))


def _in_processes(jobs: int, names: Sequence[str], settings: dict[str, Any]) -> Iterator[Result]:
    """Audit torchbp's own functions in parallel processes, one thread each; yields the results in order."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), _ignore_interrupts) as pool:
        for results in pool.map(partial(_audits, settings), names):
            yield from results


def _audits(settings: dict[str, Any], name: str) -> list[Result]:
    torch.set_num_threads(1)
    return list(gradcheck(function=name, **settings))


def _ignore_interrupts() -> None:
    """Ctrl-C ends the parent process, which then ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _scan(package: str) -> int:
    found, failed = scan(imported_module(package))
    print(*found, sep="\n")
    print(f"{len(found)} autograd Functions in {package}: torchbp gradcheck --function PATH --inputs ... audits one")
    if failed:
        print(f"{len(failed)} modules could not be imported: {', '.join(failed)}")
    return 0


def _known(path: str) -> set[tuple[str, ...]]:
    """The function, check, device, dtype and status of each row of an earlier ``--json`` output."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        return {tuple(row[key] for key in ("function", "check", "device", "dtype", "status")) for row in json.loads(text)}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is not a baseline; it must be the output of torchbp gradcheck --json") from None


def _without_known(result: Result, known: set[tuple[str, ...]]) -> Result:
    found = result.findings
    rows = [
        row
        for row in result.rows
        if row not in found or (result.function, row.check, row.device, row.dtype, row.status) not in known
    ]
    return replace(result, rows=rows)
