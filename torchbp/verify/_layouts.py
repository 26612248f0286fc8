"""Checks of memory layout: strided, expanded and undefined tensors count as their contiguous copies."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.verify._outcome import Comparison, Skipped
from torchbp.verify._subject import EXACT, Subject, gradients


def expanded_upstream(s: Subject) -> Iterator[Comparison]:
    """An expanded upstream gradient, as from sum or mean, gives the same gradients as its contiguous copy."""
    if all(v.dim() == 0 for v in s.upstream()):
        raise Skipped("the outputs are scalars")
    for dims in ("all dimensions", "the first dimension", "the last dimension"):
        expanded = [_expanded(v, dims) for v in s.upstream()]
        expected = s.gradients(s.tensors(), [v.contiguous() for v in expanded])
        got = s.gradients(s.tensors(), expanded)
        yield from s.gradients_agree(expected, got, EXACT, f", upstream expanded along {dims}")


def noncontiguous_upstream(s: Subject) -> Iterator[Comparison]:
    """An upstream gradient with other strides gives the same gradients as its contiguous copy."""
    upstream = s.upstream()
    if all(v.dim() == 0 for v in upstream):
        raise Skipped("the outputs are scalars")
    expected = s.gradients(s.tensors(), upstream)
    for layout in (_transposed, _strided):
        got = s.gradients(s.tensors(), [layout(v) for v in upstream])
        yield from s.gradients_agree(expected, got, EXACT, f", upstream {layout.__name__[1:]}")


def undefined_upstream(s: Subject) -> Iterator[Comparison]:
    """An output without an upstream gradient counts as one with zeros, also under set_materialize_grads(False)."""
    upstream = s.upstream()
    for mask in product((True, False), repeat=len(upstream)):
        if not all(mask):
            zeroed = [v if defined else torch.zeros_like(v) for v, defined in zip(upstream, mask, strict=True)]
            tensors = s.tensors()
            outputs = [o if d else _NoGradient.apply(o) for o, d in zip(s.function(*tensors), mask, strict=True)]
            without = [i for i, defined in zip(s.output_positions, mask, strict=True) if not defined]
            note = f", no gradient for output {', '.join(map(str, without))}"
            yield from s.gradients_agree(s.gradients(s.tensors(), zeroed), gradients(outputs, tensors, upstream), EXACT, note)


def noncontiguous_inputs(s: Subject) -> Iterator[Comparison]:
    """Inputs with other strides give the same outputs and gradients as their contiguous copies."""
    for layout, i in product((_transposed, _strided), range(len(s.names))):
        laid_out = list(s.tensors())
        laid_out[i] = layout(laid_out[i].detach()).requires_grad_()
        yield from _as_contiguous(s, laid_out, f", {s.names[i]} {layout.__name__[1:]}")


def expanded_inputs(s: Subject) -> Iterator[Comparison]:
    """An expanded input, as from broadcasting, gives the same outputs and gradients as its contiguous copy."""
    for i, t in enumerate(s.tensors()):
        for dim in range(t.dim()):
            if t.shape[dim] > 1:
                expanded = list(s.tensors())
                expanded[i] = t.detach().narrow(dim, 0, 1).expand(t.shape).requires_grad_()
                try:
                    finite = all(o.isfinite().all() for o in s.function(*(e.detach().contiguous() for e in expanded)))
                except Exception:  # the function rejects these values
                    finite = False
                if finite:
                    yield from _as_contiguous(s, expanded, f", {s.names[i]} expanded along dimension {dim}")


CHECKS = [
    expanded_upstream,
    noncontiguous_upstream,
    undefined_upstream,
    noncontiguous_inputs,
    expanded_inputs,
]


class _NoGradient(Function):
    """The identity; its backward returns no gradient, not even zeros."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        return None


def _as_contiguous(s: Subject, laid_out: list[Tensor], note: str) -> Iterator[Comparison]:
    upstream = s.upstream()
    contiguous = [t.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for t in laid_out]
    yield from s.outputs_agree(s.function(*contiguous), s.function(*laid_out), EXACT, note)
    yield from s.gradients_agree(s.gradients(contiguous, upstream), s.gradients(laid_out, upstream), EXACT, note)


def _expanded(v: Tensor, dims: str) -> Tensor:
    if v.dim() == 0:
        return v
    if dims == "all dimensions":
        return v.flatten()[0].expand(v.shape)
    dim = 0 if dims == "the first dimension" else -1
    return v.narrow(dim, 0, 1).expand(v.shape)


def _transposed(t: Tensor) -> Tensor:
    return t if t.dim() < 2 else t.transpose(0, -1).contiguous().transpose(0, -1)


def _strided(t: Tensor) -> Tensor:
    return t if t.dim() == 0 else t.repeat_interleave(2, -1)[..., ::2]
