"""The examples of torchbp/verify/checks.md: for each check, the faulty Function and the fixed one."""

import linecache
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbp.verify._explain import DOCUMENT, explanations

TWO_INPUTS = ("Product", "ProductSum", "ProductMean")


class Example(NamedTuple):
    fault: Callable[..., Any]
    fixed: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    options: dict[str, Any]


def run(code: str, name: str, names: dict[str, Any]) -> dict[str, Any]:
    """The code's definitions. Dynamo needs their source lines, so these go into linecache."""
    file = f"<example of {name}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), names)
    return names


@cache
def bases() -> dict[str, Any]:
    code = re.search(r"## The functions of the examples.*?```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    return run(code[1], "the functions", {"__name__": "check_examples"})


def example(check: str) -> Example:
    section = explanations()[check]
    faulty, *fixed = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = run(faulty, check, dict(bases()))
    named = re.search(r"Fixed: `(\w+)`", section)
    right = bases()[named[1]] if named else run(fixed[0], f"{check}, fixed", dict(bases()))["Fixed"]
    base = names["Fault"].__base__.__name__
    options = {key: names[key] for key in ("reference", "surrogate") if key in names}
    return Example(names["Fault"], right, inputs(base), options)


def inputs(base: str) -> tuple[Tensor, ...]:
    shapes = [(4, 3), (3, 2)] if base == "MatMul" else [(4, 3)] * (2 if base in TWO_INPUTS else 1)
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(s, generator=generator, dtype=torch.float64).mul(3).sub(1).requires_grad_() for s in shapes)
