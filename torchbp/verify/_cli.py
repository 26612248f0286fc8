"""``torchbp gradcheck``: the audit from the command line."""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from torchbp.cli import OneLineParser, console
from torchbp.verify._own import available_devices, gradcheck, own_functionals
from torchbp.verify._report import summary


def run(args: Sequence[str]) -> int:
    """Audit, print, and return 1 if a check failed."""
    parser = OneLineParser(
        "torchbp gradcheck",
        description="Audit torchbp's own derivatives, or those of your own torch.autograd.Function:\n\n"
        "  torchbp gradcheck\n  torchbp gradcheck --function mypackage.layers:MyFunction --inputs '4,3 2,3 2'\n"
        "  torchbp gradcheck --function layers:Embedding --inputs layers:some_inputs --only backward,vmap\n\n"
        "where some_inputs() returns a tuple of all arguments; those to differentiate by are float64 and require grad.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "all"), help="where; all: on every device there is")
    parser.add_argument("--function", help="one of torchbp's own, or package.module:Function; all of torchbp's own by default")
    parser.add_argument(
        "--inputs", help="for your own: shapes of float64 tensors, or package.module:callable that returns them"
    )
    parser.add_argument("--reference", help="for your own: package.module:callable of PyTorch's with the same outputs")
    parser.add_argument("--only", help="the checks to make, such as 'backward,torch compile'; all by default")
    parser.add_argument("--module", help="another module with functions of torchbp.functional's names, audited instead")
    parser.add_argument("--verbose", action="store_true", help="a row a check, as for a single function")
    parser.add_argument("--json", action="store_true", help="every row, for machines")
    options = parser.parse_args(args)
    only = None if options.only is None else [name.strip() for name in options.only.split(",")]
    devices = available_devices() if options.device == "all" else [options.device]
    audits = gradcheck(devices, options.function, options.inputs, options.reference, options.module, only)
    if options.json:
        results = list(audits)
        print(json.dumps([row for result in results for row in result.to_json()], indent=2))
        return 0 if all(result.passed for result in results) else 1
    count = 1 if options.function else len(own_functionals())
    progress = Console(stderr=True)
    results = list(track(audits, "auditing", count, console=progress, transient=True, disable=not progress.is_terminal))
    for table in [result.table() for result in results] if options.verbose or options.function else [summary(results)]:
        console().print(table)
    return 0 if all(result.passed for result in results) else 1
