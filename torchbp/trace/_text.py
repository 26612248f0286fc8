"""Shows a trace in a terminal of 100 columns, and as Markdown with LaTeX formulas."""

import re
from itertools import groupby
from operator import attrgetter

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from torchbp.trace._formula import latex
from torchbp.trace._iteration import cost_in_words
from torchbp.trace._steps import Trace

# Of larger tensors only the norm is shown.
MAX_ROWS, MAX_COLUMNS = 8, 4
COLUMNS = {
    "forward": ("value", "PyTorch", "difference"),
    "cost": ("value", "PyTorch", "difference"),
    "backward": ("value", "autograd", "difference"),
    "descent": ("before", "after", "difference"),
}


class Report:
    """Prints a trace with rich: each equation on its own line, with its value and PyTorch's side by side below it.

    ``source`` is a sentence that says where the network and the samples come from.
    """

    def __init__(self, trace: Trace, source: str) -> None:
        self.trace, self.source = trace, source

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(headline(self.trace), style="bold")
        yield Text(_explanation(self.trace, self.source))
        yield Text("dW means ∂L/∂W, and so for every symbol. * is the elementwise product.")
        yield Text("\ngiven", style="bold underline")
        for symbol, value in self.trace.given.items():
            yield _given(symbol, value)
            yield _columns(_cell(value))
        for section, steps in groupby(self.trace.steps, attrgetter("section")):
            yield Text(f"\n{section}", style="bold underline")
            yield _columns(*COLUMNS[section], style="dim")
            for step in steps:
                yield _equation(step.number, step.what, f"{step.symbol} {step.relation} {step.formula}", step.value)
                left, right = map(_cell, step.sides)
                yield _columns(left, right, _number(step.difference))


def markdown(trace: Trace, source: str) -> str:
    """The trace as Markdown with formulas between dollar signs, which GitHub, Jupyter and Pandoc render."""
    lines = [f"# {headline(trace)}", "", _explanation(trace, source), "", *_markdown_head("given", "shape", "value")]
    lines += [_markdown_row(f"${latex(symbol)}$", _shape(t), _latex_cell(t)) for symbol, t in trace.given.items()]
    for section, steps in groupby(trace.steps, attrgetter("section")):
        lines += ["", f"## {section.capitalize()}", ""]
        lines += _markdown_head("no.", "what", "formula", "shape", *COLUMNS[section])
        for step in steps:
            values = [*map(_latex_cell, step.sides), _number(step.difference)]
            lines.append(_markdown_row(step.number, step.what, f"${step.latex}$", _shape(step.value), *values))
    return "\n".join(lines) + "\n"


def headline(trace: Trace) -> str:
    """The title of a trace: network, cost, learning rate and number of samples."""
    sizes = "-".join(map(str, trace.sizes))
    others = list(dict.fromkeys(g.name for g in trace.network.hidden))
    activations = f" ({', '.join(others)})" if set(others) - {"sigmoid"} else ""
    cost = cost_in_words(trace.network.output.cost)
    samples = f"{len(trace.x)} sample{'s' if len(trace.x) > 1 else ''}"
    return f"One iteration of backpropagation: network {sizes}{activations}, {cost}, α = {trace.lr:g}, {samples}"


def _explanation(trace: Trace, source: str) -> str:
    of_many = f" L is the mean of m = {trace.m} costs." if trace.m > 1 else ""
    return (
        f"{source} Samples are rows.{of_many} Beside each value is PyTorch's own, in float64, and the largest difference "
        "between the two; for the descent it is the difference from torch.optim.SGD."
    )


def _given(symbol: str, value: Tensor) -> Table:
    line = Table.grid()
    line.add_column(width=89)
    line.add_column(width=11, justify="right")
    line.add_row(Text(symbol, "bold cyan"), Text(_shape(value), "dim"))
    return line


def _equation(number: str, what: str, formula: str, value: Tensor) -> Table:
    line = Table.grid(padding=(0, 1))
    for width, justify in ((4, "left"), (30, "left"), (52, "left"), (11, "right")):
        line.add_column(width=width, justify=justify)  # type: ignore[arg-type]
    line.add_row(Text(number, "bold cyan"), Text(what, "cyan"), Text(formula, "bold"), Text(_shape(value), "dim"))
    return line


def _columns(left: str, right: str = "", difference: str = "", style: str = "") -> Table:
    """Two values side by side, of up to MAX_COLUMNS numbers of ten characters each, and their difference."""
    table = Table.grid()
    for width, justify in ((2, "left"), (44, "left"), (44, "left"), (10, "right")):
        table.add_column(width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_row("", Text(left, style), Text(right, style), Text(difference, style))
    return table


def _cell(t: Tensor) -> str:
    return "\n".join(" ".join(row) for row in _rows(t)) if _is_small(t) else f"norm {t.norm().item():.6g}"


def _markdown_head(*headings: str) -> list[str]:
    return [_markdown_row(*headings), _markdown_row(*["---"] * len(headings))]


def _markdown_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_cell(t: Tensor) -> str:
    if not _is_small(t):
        return f"norm {t.norm().item():.6g}"
    rows = [[re.sub(r"e([+-])0*(\d+)", r" \\times 10^{\1\2}", n.strip()).replace("{+", "{") for n in row] for row in _rows(t)]
    if t.dim() == 0:
        return f"${rows[0][0]}$"
    return "$\\begin{pmatrix} " + r" \cr ".join(" & ".join(row) for row in rows) + r" \end{pmatrix}$"


def _rows(t: Tensor) -> list[list[str]]:
    """The entries, row by row, in one format and one width of at most ten characters."""
    rows = t.reshape(-1, t.shape[-1] if t.dim() else 1).tolist()
    largest = t.abs().max().item()
    form = f".{7 - len(str(int(largest)))}f" if largest == 0 or 1e-3 <= largest < 1e5 else ".2e"
    texts = [[f"{value:{form}}" if value else "0" for value in row] for row in rows]
    width = max(len(text) for row in texts for text in row)
    return [[text.rjust(width) for text in row] for row in texts]


def _is_small(t: Tensor) -> bool:
    return t.dim() == 0 or (t.shape[-1] <= MAX_COLUMNS and t.numel() <= MAX_ROWS * t.shape[-1])


def _shape(t: Tensor) -> str:
    return f"({', '.join(map(str, t.shape))})"


def _number(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"
