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

from torchbp.cli import OneLineParser, console
from torchbp.verify._explain import explain
from torchbp.verify._outcome import STATUSES
from torchbp.verify._own import available_devices, gradcheck, imported_module, own_functionals
from torchbp.verify._report import junit, markdown, summary
from torchbp.verify._result import Result
from torchbp.verify._scan import scan

FAIL_ON = ("wrong", "error", "unsupported", "wasteful")


def run(args: Sequence[str]) -> int:
    """Audit, print, and return 1 if a check ended as ``--fail-on`` or worse."""
    options = _parser().parse_args(args)
    if options.explain:
        from rich.markdown import Markdown

        console().print(Markdown(explain(options.explain)))
        return 0
    if options.scan:
        return _scan(options.scan)
    results = _results(options)
    if options.junit:
        Path(options.junit).write_text(junit(results, options.fail_on), encoding="utf-8")
    if options.markdown:
        with Path(options.markdown).open("a", encoding="utf-8") as file:  # as a job on GitHub adds to its summary
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
        "where some_inputs() returns a tuple of all arguments; those to differentiate by are float64 and require grad.\n\n"
        "How a check can end:\n" + "\n".join(f"  {status:<12}{meaning}" for status, meaning in STATUSES.items()),
        formatter_class=RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is audited")
    what.add_argument("--function", help="one of torchbp's own, or package.module:Function; all of torchbp's own by default")
    what.add_argument("--inputs", help="for your own: shapes of float64 tensors, or package.module:callable that returns them")
    what.add_argument("--reference", help="for your own: package.module:callable of PyTorch's with the same outputs")
    what.add_argument(
        "--surrogate",
        help="for a derivative that is meant to be another than forward's: package.module:callable whose derivative is meant, "
        "or 'consistency', where there is none",
    )
    what.add_argument("--tolerance", type=float, default=0.0, help="how far off any number may be, absolutely and relatively")
    what.add_argument("--device", default="cpu", choices=("cpu", "cuda", "all"), help="where; all: on every device there is")
    what.add_argument("--only", help="the checks to make, such as 'backward,torch compile'; all by default")
    what.add_argument("--jobs", type=_jobs, default=_cores(), metavar="N", help="processes (default: one for each core)")
    what.add_argument("--module", help="another module with functions of torchbp.functional's names, audited instead")
    told = parser.add_argument_group("what is told")
    told.add_argument("--fail-on", default="error", choices=FAIL_ON, help="exit with 1 for this or worse (default: error)")
    told.add_argument("--baseline", metavar="FILE", help="known findings, as --json printed them earlier; only others fail")
    told.add_argument("--verbose", action="store_true", help="a row a check, as for a single function")
    told.add_argument("--json", action="store_true", help="every row, for machines")
    told.add_argument("--junit", metavar="FILE", help="write JUnit's XML as well")
    told.add_argument("--markdown", metavar="FILE", help='append Markdown as well, such as to "$GITHUB_STEP_SUMMARY"')
    told.add_argument("--explain", metavar="CHECK", help="what a check asks, an example of a fault, and how to mend it")
    told.add_argument("--scan", metavar="PACKAGE", help="list the autograd Functions of an installed package")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number of processes; it must be 1 or more")
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
    """The audits of torchbp's own functions, in order, some at a time: they are far too small for more than one thread each."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), _ignore_interrupts) as pool:
        for results in pool.map(partial(_audits, settings), names):
            yield from results


def _audits(settings: dict[str, Any], name: str) -> list[Result]:
    torch.set_num_threads(1)
    return list(gradcheck(function=name, **settings))


def _ignore_interrupts() -> None:
    """Ctrl-C ends the process that waits for these, and that one ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _scan(package: str) -> int:
    found, failed = scan(imported_module(package))
    print(*found, sep="\n")
    print(f"{len(found)} autograd Functions in {package}: torchbp gradcheck --function PATH --inputs ... audits one")
    if failed:
        print(f"{len(failed)} modules could not be imported: {', '.join(failed)}")
    return 0


def _known(path: str) -> set[tuple[str, ...]]:
    """Function, check, device, dtype and status of each row of an earlier ``--json``."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        return {tuple(row[key] for key in ("function", "check", "device", "dtype", "status")) for row in json.loads(text)}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is no baseline; it must be what torchbp gradcheck --json prints") from None


def _without_known(result: Result, known: set[tuple[str, ...]]) -> Result:
    found = result.findings
    rows = [
        row
        for row in result.rows
        if row not in found or (result.function, row.check, row.device, row.dtype, row.status) not in known
    ]
    return replace(result, rows=rows)
