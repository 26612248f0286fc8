"""Writes a trace as one HTML page that computes: page.html with the equations, their programs and the first values."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from torch import Tensor

from torchbp.trace._formula import plain
from torchbp.trace._mathml import mathml
from torchbp.trace._program import derivatives, operands, program
from torchbp.trace._steps import Step, Trace
from torchbp.trace._text import headline
from torchbp.trace._words import WORDS, translated

__all__ = ["page", "page_data"]


def page(trace: Trace, source: str, lang: str = "en") -> str:
    """The HTML page of a trace; it needs no other file and no internet.

    Args:
        trace: the page's first iteration.
        source: a sentence that says where the network and the samples come from.
        lang: ``"en"`` or ``"zh"``.

    Raises:
        ValueError: an activation has a formula that the page cannot compute, or the network is recurrent.
    """
    if trace.network.pooling is not None:
        raise ValueError("html is for networks without recurrent layers; use --markdown")
    # "<" could end the script element that holds the data.
    data = json.dumps(page_data(trace, source, lang), ensure_ascii=False).replace("<", r"\u003c")
    text = _text("page.html")
    for name, part in (("page.css", _text("page.css")), ("page.js", _text("page.js")), ("trace", data)):
        text = text.replace(f"/* {name} */", part, 1)
    return text


def page_data(trace: Trace, source: str, lang: str = "en") -> dict[str, Any]:
    """The data for page.js."""
    words, output = WORDS[lang], trace.network.output
    known: dict[str, str] = {}
    for layer, g in enumerate(trace.network.hidden, 1):
        known |= derivatives(g, layer)
    steps = [_step(step, trace.m, known, lang, words) for step in trace.steps]
    names = {symbol for step in steps for symbol in (step["symbol"], *step["uses"])} | set(trace.given)
    bounds = {name: bound for name, bound in zip(("min", "max"), output.targets, strict=True) if abs(bound) < float("inf")}
    return {
        "lang": lang,
        "words": words,
        "title": translated(headline(trace), lang),
        "source": translated(source, lang),
        "proof": words["proof"].format(f"{max(step.difference for step in trace.steps):.0e}"),
        "sizes": trace.sizes,
        "targets": bounds,
        "lr": trace.lr,
        "given": {symbol: _rows(t) for symbol, t in trace.given.items()},
        "symbols": {symbol: mathml(formula) for formula in _formulas(trace) if (symbol := plain(formula)) in names},
        "steps": steps,
    }


def _step(step: Step, m: int, known: Mapping[str, str], lang: str, words: Mapping[str, str]) -> dict[str, Any]:
    math = mathml(step.expression, words)
    return {
        "section": step.section,
        "number": step.number,
        "what": translated(step.what, lang),
        "symbol": step.symbol,
        "math": math if step.before is None else math.replace("<mo>=</mo>", "<mo>←</mo>", 1),
        "program": program(step.expression, m, known),
        "uses": operands(step.expression),
    }


def _formulas(trace: Trace) -> list[str]:
    """Every symbol in Python's syntax."""
    return ["α", *trace.given, *(step.expression.partition(" = ")[0] for step in trace.steps)]


def _rows(t: Tensor) -> list[list[float]]:
    return t.reshape(-1, t.shape[-1]).tolist()


def _text(name: str) -> str:
    return files("torchbp.trace").joinpath(name).read_text(encoding="utf-8")
