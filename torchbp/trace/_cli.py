"""``torchbp trace``: one iteration, from the command line."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp._files import replacing
from torchbp.cli import OneLineParser, console
from torchbp.nn import BPNetwork
from torchbp.trace._iteration import Trace, trace
from torchbp.trace._text import Report, markdown

SAMPLE = ("--x", "--y")


def run(args: Sequence[str]) -> int:
    """Trace an iteration on a sample given by ``--x``, or on one of a configuration's, and print it."""
    args = list(args)
    if "--config" in " ".join(args) or any(arg.startswith(("--data", "--model")) for arg in args):
        from torchbp.trace._config import from_config  # Lightning, which takes seconds to import

        traced, source, path = from_config(args)
    else:
        traced, source, path = _from_sample(args)
    if path is None:
        console().print(Report(traced, source))
    elif path == "-":
        print(markdown(traced, source), end="")
    else:
        with replacing(path) as partial:
            partial.write_text(markdown(traced, source), encoding="utf-8")
    return 0


def _from_sample(args: list[str]) -> tuple[Trace, str, str | None]:
    parser = OneLineParser(
        "torchbp trace",
        description="One iteration of the text, equation by equation, each value beside PyTorch's own: of a network with\n"
        "weights drawn by --seed on samples given here, or of a configuration's on its data.\n\n"
        "  torchbp trace --x 0,1 --y 1 --hidden_sizes '[2]'\n"
        "  torchbp trace --config configs/xor.yaml --samples 4 --markdown xor.md",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--x", required=True, help="the inputs, such as 0,1; several samples: '0,1; 1,1'")
    parser.add_argument("--y", required=True, help="the targets, such as 1; several samples: '1; 0'")
    parser.add_argument("--hidden_sizes", default="[2]", help="widths of the hidden layers, such as '[3, 2]' (default: [2])")
    parser.add_argument("--cost", default="cross_entropy", choices=("cross_entropy", "squared_error"))
    parser.add_argument("--output", default="sigmoid", choices=("sigmoid", "linear"), help="the last layer's activation")
    parser.add_argument("--init", default="glorot", choices=("glorot", "normal"), help="how the weights are drawn")
    parser.add_argument("--lr", type=float, default=0.5, help="the learning rate α (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--markdown", metavar="FILE", help="write Markdown with LaTeX formulas instead; - for standard output")
    options = parser.parse_args(_joined(args))
    if not 0 <= options.seed < 2**32:
        parser.error(f"seed is {options.seed}; it must be from 0 to {2**32 - 1}")
    x, y = _matrix("x", options.x), _matrix("y", options.y)
    torch.manual_seed(options.seed)
    sizes = [x.shape[1], *_sizes(options.hidden_sizes), y.shape[1]]
    network = BPNetwork(sizes, options.output, options.init, dtype=torch.float64)
    source = f"Weights drawn by seed {options.seed} ({options.init})."
    return trace(network, x, y, options.cost, options.lr), source, options.markdown


def _joined(args: list[str]) -> list[str]:
    """``--x -1,0`` as ``--x=-1,0``: argparse takes a value that begins with a minus for an option."""
    joined: list[str] = []
    for arg in args:
        if joined and joined[-1] in SAMPLE:
            joined[-1] += f"={arg}"
        else:
            joined.append(arg)
    return joined


def _matrix(name: str, text: str) -> Tensor:
    """Samples from ``'0,1; 1,1'``, (B, n) in float64."""
    try:
        matrix = torch.tensor([[float(value) for value in row.split(",")] for row in text.split(";")], dtype=torch.float64)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be numbers such as 0,1, or '0,1; 1,1' for several samples") from None
    if not matrix.isfinite().all():
        raise ValueError(f"{name} is {text!r}; its numbers must be finite")
    return matrix


def _sizes(text: str) -> list[int]:
    """Widths from ``'[3, 2]'`` or ``3,2``; none from ``'[]'``."""
    try:
        return [int(size) for size in text.strip(" []").split(",") if size.strip()]
    except ValueError:
        raise ValueError(f"hidden_sizes is {text!r}; it must be integers such as '[3, 2]'") from None
