"""Checks of extreme values: large, zero and subnormal inputs, and upstream gradients that are infinite or NaN."""

from collections.abc import Callable, Iterable, Iterator

import torch

from torchbp.verify._outcome import Comparison, Wrong
from torchbp.verify._subject import Subject


def large_inputs(s: Subject) -> Iterator[Comparison]:
    """With inputs of 1e2 or 1e4, gradients are right, and finite where the outputs are."""
    for size in (1e2, 1e4):
        for i in s.positions:
            large = [v.detach() * (size / v.detach().abs().max()) if i == j else v for j, v in enumerate(s.inputs)]
            yield from s.with_inputs(large).slopes_agree(f", {s.input_names[i]} as large as {size:g}")


def zero_inputs(s: Subject) -> Iterator[Comparison]:
    """With zero or subnormal inputs, gradients are right, and finite where the outputs are."""
    for note, value in (("zero", 0.0), ("subnormal", 1e-310)):
        for i in s.positions:
            changed = [torch.full_like(v, value) if i == j else v for j, v in enumerate(s.inputs)]
            yield from s.with_inputs(changed).slopes_agree(f", {s.input_names[i]} {note}")


def infinite_upstream(s: Subject) -> Iterable[Comparison]:
    """An infinite or NaN upstream gradient gives infinite or NaN gradients, so that GradScaler sees an overflow."""
    ones = [torch.ones_like(v) for v in s.upstream()]
    plain = s.gradients(s.tensors(), ones)
    for value in (torch.inf, torch.nan):
        got = s.gradients(s.tensors(), [v * value for v in ones])
        for name, g, usual in zip(s.names, got, plain, strict=True):
            reached = usual != 0
            if reached.any() and g[reached].isfinite().all():
                raise Wrong(
                    f"gradient of {name}: finite for an upstream gradient of {value}, so GradScaler and norm clipping cannot "
                    "see the overflow"
                )
    return ()


CHECKS: list[Callable[[Subject], Iterable[Comparison]]] = [large_inputs, zero_inputs, infinite_upstream]
