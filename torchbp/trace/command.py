"""``torchbp trace``: traces one iteration from the command line."""

import json
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp._deferred import deferred
from torchbp._files import replacing
from torchbp.activations import ACTIVATIONS, Activation, activation_of, import_activation
from torchbp.cli import OneLineParser, console
from torchbp.nn import BPNetwork, RecurrentNetwork
from torchbp.outputs import OUTPUTS
from torchbp.trace._iteration import trace
from torchbp.trace._steps import Trace
from torchbp.trace._text import Report, markdown
from torchbp.trace._words import LANGUAGES

SAMPLE = ("--x", "--y")


def run(args: Sequence[str]) -> int:
    """Run ``torchbp trace`` on the samples of ``--x`` or of a configuration; returns the exit status."""
    args = list(args)
    if "--config" in " ".join(args) or any(arg.startswith(("--data", "--model")) for arg in args):
        with deferred():
            from torchbp.trace._config import from_config  # with Lightning

        traced, source, options = from_config(args)
    else:
        traced, source, options = _from_sample(args)
    path = options.markdown
    if options.lang != "en" and options.html is None:
        raise ValueError(f"lang is {options.lang!r}; it is for the page, --html FILE")
    if options.html is not None:
        from torchbp.trace._page import page

        text = page(traced, source, options.lang)
        with replacing(options.html) as partial:
            partial.write_text(text, encoding="utf-8")
        return 0
    if options.json:
        print(json.dumps({"source": source, **traced.record()}, indent=2, ensure_ascii=False))
    elif path is None:
        console().print(Report(traced, source))
    elif path == "-":
        print(markdown(traced, source), end="")
    else:
        with replacing(path) as partial:
            partial.write_text(markdown(traced, source), encoding="utf-8")
    return 0


def _from_sample(args: list[str]) -> tuple[Trace, str, Any]:
    options = _parser().parse_args(_joined(args))
    x, y = _matrix("x", options.x), _matrix("y", options.y)
    activations = _activations(options.activation)
    if options.sequences is not None:  # x is one sequence, with a row for each step
        x, y = x.unsqueeze(0), y.unsqueeze(0) if options.sequences == "each" else y
        if options.weights is not None:
            raise ValueError(f"weights is {options.weights}; with --sequences they are drawn by --seed")
    if options.weights is not None:
        if options.hidden_sizes is not None:
            raise ValueError(f"hidden_sizes is {options.hidden_sizes!r}; leave it out, the sizes follow from --weights")
        from torchbp.trace._weights import network_from

        network, source = network_from(options.weights, options.output, activations), f"Weights from {options.weights}."
    else:
        torch.manual_seed(options.seed)
        sizes = [x.shape[-1], *_sizes(options.hidden_sizes or "[2]"), y.shape[-1]]
        kind, how = (BPNetwork, {}) if options.sequences is None else (RecurrentNetwork, {"pooling": options.sequences})
        network = kind(sizes, options.output, options.init, activations, dtype=torch.float64, **how)
        source = f"Weights drawn by seed {options.seed} ({options.init})."
    return trace(network, x, y, options.cost, options.lr), source, options


def _parser() -> OneLineParser:
    parser = OneLineParser(
        "torchbp trace",
        description="Show one iteration of the text, equation by equation, each value beside PyTorch's own. The network has\n"
        "weights drawn by --seed or read from --weights, and samples given here; or --config gives network and data.\n\n"
        "  torchbp trace --x 0,1 --y 1 --hidden_sizes '[3, 2]' --activation '[tanh, swish]'\n"
        "  torchbp trace --x 0,1 --y 0,0,1 --output softmax\n"
        "  torchbp trace --weights configs/weights/mazur.yaml --x 0.05,0.1 --y 0.01,0.99 --cost squared_error\n"
        "  torchbp trace --config configs/xor.yaml --samples 4 --markdown xor.md\n"
        "  torchbp trace --x 0,1 --y 1 --html trace.html\n"
        "  torchbp trace --x '0.5; 0.2; -1' --y 1 --sequences last --activation tanh",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, costs, outputs = parser.add_argument, *(list(dict.fromkeys(names)) for names in zip(*OUTPUTS, strict=True))
    add("--x", required=True, help="the inputs, such as 0,1; several samples: '0,1; 1,1'")
    add("--y", required=True, help="the targets, such as 1; several samples: '1; 0'")
    add("--hidden_sizes", help="widths of the hidden layers, such as '[3, 2]' (default: [2])")
    add(
        "--activation",
        default="sigmoid",
        help=f"of the hidden layers, one for all or '[A, B]': {', '.join(ACTIVATIONS)}, or package.module:name",
    )
    add("--cost", choices=costs, help="the cost (default: the first that fits the output)")
    add("--output", default="sigmoid", choices=outputs, help="the last layer's activation (default: sigmoid)")
    add("--weights", metavar="FILE", help="JSON or YAML with W1, b1, ... and activations' parameters, such as beta1")
    places = ("last", "mean", "each")
    add(
        "--sequences",
        choices=places,
        help="x is one sequence, with a row for each step, and a target for its last state, the mean of its states, or each",
    )
    add(
        "--init",
        default="glorot",
        choices=("glorot", "normal", "orthogonal"),
        help="how the weights are drawn (default: glorot)",
    )
    add("--lr", type=float, default=0.5, help="the learning rate α (default: 0.5)")
    add("--seed", type=_seed, default=0, help="the seed of the weights (default: 0)")
    add("--markdown", metavar="FILE", help="write Markdown with LaTeX formulas instead; - for standard output")
    add("--html", metavar="FILE", help="write a page to step through in a browser and change numbers in")
    add("--lang", default="en", choices=LANGUAGES, help="the page's language (default: en)")
    add("--json", action="store_true", help="print every equation with all digits, as JSON")
    return parser


def _joined(args: list[str]) -> list[str]:
    """``--x -1,0`` as ``--x=-1,0``: argparse would take a value that begins with a minus as an option."""
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


def _activations(text: str) -> Activation | list[Activation]:
    """One activation for all hidden layers, or those of a list such as ``'[tanh, relu]'``."""
    names = [name.strip(" '\"") for name in text.strip(" []").split(",")]
    found = [import_activation(name) if ":" in name else activation_of(name) for name in names]
    return found if len(found) > 1 else found[0]


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise ArgumentTypeError(f"seed is {text}; it must be from 0 to {2**32 - 1}")
    return int(text)
