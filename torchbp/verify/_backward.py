"""Checks of the first derivative in reverse mode."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.verify._result import Comparison, Failed, Skipped, Tolerance
from torchbp.verify._subject import (
    EXACT,
    FINITE_DIFFERENCES,
    Subject,
    backward_changed,
    dot,
    gradients,
    numerical_gradient,
    parameter_names,
)

UNCHANGED = Tolerance(0.0, 0.0)


def backward(s: Subject) -> Iterator[Comparison]:
    """Gradients are those of finite differences, for upstream gradients that are not uniform."""
    for seed in range(3):
        upstream = s.upstream(seed)
        expected = numerical_gradient(lambda *t: dot(s.function(*t), upstream), s.tensors())  # noqa: B023
        yield from s.gradients_agree(expected, s.gradients(s.tensors(), upstream), FINITE_DIFFERENCES)


def reference(s: Subject) -> Iterator[Comparison]:
    """Outputs and gradients are the reference's."""
    if s.reference is None:
        raise Skipped("no reference was given")
    tensors, upstream = s.tensors(), s.upstream()
    expected = s.outputs(s.reference(*s.arguments(tensors)))
    yield from s.outputs_agree(expected, s.function(*tensors), EXACT)
    yield from s.gradients_agree(gradients(expected, tensors, upstream), s.gradients(tensors, upstream), EXACT)


def gradient_shapes(s: Subject) -> Iterable[Comparison]:
    """Each gradient that backward returns has its input's shape and dtype, with nothing left for autograd to sum or cast."""
    faults: list[str] = []

    def compare_shapes(function: type[Function], ctx: Any, _: Any, returned: tuple[Any, ...]) -> tuple[Any, ...]:
        names = parameter_names(function.forward, len(returned))
        asked = [(name, g) for name, g, needed in zip(names, returned, ctx.needs_input_grad, strict=False) if needed]
        # The node that takes a gradient knows the input it belongs to.
        takers = [(node, number) for node, number in ctx.next_functions if node is not None]
        for (name, gradient), (node, number) in zip(asked, takers, strict=False):  # autograd says if there are too few
            if gradient is not None:
                of_input = node._input_metadata[number]
                shape, dtype = tuple(of_input.shape), of_input.dtype
                if gradient.shape != shape:
                    faults.append(f"gradient of {name}: backward returns shape {tuple(gradient.shape)}, the input's is {shape}")
                if gradient.dtype != dtype:
                    faults.append(f"gradient of {name}: backward returns {gradient.dtype}, the input is {dtype}")
        return returned

    with backward_changed(s.functions, compare_shapes):
        s.gradients(s.tensors(), s.upstream())
    if faults:
        raise Failed("; ".join(faults))
    return ()


def needs_input_grad(s: Subject) -> Iterator[Comparison]:
    """Whichever inputs require grad, their gradients are the same, and backward computes no other."""
    upstream = s.upstream()
    every = s.gradients(s.tensors(), upstream)
    faults: dict[str, None] = {}

    def spy(function: type[Function], ctx: Any, upstream: tuple[Any, ...], returned: tuple[Any, ...]) -> tuple[Any, ...]:
        names = parameter_names(function.forward, len(returned))
        asked = [g for g, needed in zip(returned, ctx.needs_input_grad, strict=False) if needed]
        # What lies in the same memory as an upstream gradient or one that was asked for has cost nothing.
        free = {_memory(g) for g in (*upstream, *asked) if g is not None}
        for name, g, needed in zip(names, returned, ctx.needs_input_grad, strict=False):
            if not needed and g is not None and _memory(g) not in free:
                faults[f"gradient of {name}: computed although needs_input_grad says that nobody asked for it"] = None
        return returned

    for mask in product((False, True), repeat=len(every)):
        tensors = [t.requires_grad_(required) for t, required in zip(s.tensors(), mask, strict=True)]
        asked = [t for t in tensors if t.requires_grad]
        if asked:
            with backward_changed(s.functions, spy):
                got = iter(gradients(s.function(*tensors), asked, upstream))
            for name, expected, required in zip(s.names, every, mask, strict=True):
                if required:
                    yield Comparison(f"gradient of {name}", expected, next(got), EXACT)
    if faults:
        raise Failed("; ".join(faults))


def expanded_upstream(s: Subject) -> Iterator[Comparison]:
    """An upstream gradient that is expanded, as sum and mean give it, counts as its contiguous copy."""
    if all(v.dim() == 0 for v in s.upstream()):
        raise Skipped("the outputs are scalars")
    for dims in ("all dimensions", "the first dimension", "the last dimension"):
        expanded = [_expanded(v, dims) for v in s.upstream()]
        expected = s.gradients(s.tensors(), [v.contiguous() for v in expanded])
        got = s.gradients(s.tensors(), expanded)
        yield from s.gradients_agree(expected, got, EXACT, f", upstream expanded along {dims}")


def noncontiguous_upstream(s: Subject) -> Iterator[Comparison]:
    """An upstream gradient with other strides counts as its contiguous copy."""
    upstream = s.upstream()
    if all(v.dim() == 0 for v in upstream):
        raise Skipped("the outputs are scalars")
    expected = s.gradients(s.tensors(), upstream)
    for layout in (_transposed, _strided):
        got = s.gradients(s.tensors(), [layout(v) for v in upstream])
        yield from s.gradients_agree(expected, got, EXACT, f", upstream {layout.__name__[1:]}")


def noncontiguous_inputs(s: Subject) -> Iterator[Comparison]:
    """Inputs with other strides count as their contiguous copies."""
    upstream, tensors = s.upstream(), s.tensors()
    outputs, expected = s.function(*tensors), s.gradients(tensors, upstream)
    for layout, i in product((_transposed, _strided), range(len(tensors))):
        laid_out = list(s.tensors())
        laid_out[i] = layout(laid_out[i].detach()).requires_grad_()
        note = f", {s.names[i]} {layout.__name__[1:]}"
        yield from s.outputs_agree(outputs, s.function(*laid_out), EXACT, note)
        yield from s.gradients_agree(expected, s.gradients(laid_out, upstream), EXACT, note)


def undefined_upstream(s: Subject) -> Iterator[Comparison]:
    """An output that no gradient reaches counts as one that zeros reach, also under set_materialize_grads(False)."""
    upstream = s.upstream()
    for mask in product((True, False), repeat=len(upstream)):
        if not all(mask):
            zeroed = [v if defined else torch.zeros_like(v) for v, defined in zip(upstream, mask, strict=True)]
            tensors = s.tensors()
            outputs = [o if d else _NoGradient.apply(o) for o, d in zip(s.function(*tensors), mask, strict=True)]
            without = [i for i, defined in zip(s.output_positions, mask, strict=True) if not defined]
            note = f", no gradient for output {', '.join(map(str, without))}"
            yield from s.gradients_agree(s.gradients(s.tensors(), zeroed), gradients(outputs, tensors, upstream), EXACT, note)


def repeated_backward(s: Subject) -> Iterator[Comparison]:
    """A second backward through a retained graph gives the same gradients."""
    tensors, upstream = s.tensors(), s.upstream()
    outputs = s.function(*tensors)
    first = [g.clone() for g in gradients(outputs, tensors, upstream, retain_graph=True)]
    second = gradients(outputs, tensors, upstream)
    yield from s.gradients_agree(first, second, EXACT, ", second time")


def tensors_unchanged(s: Subject) -> Iterator[Comparison]:
    """Forward leaves its inputs as they are; backward leaves inputs, outputs and upstream gradients."""
    tensors, upstream = s.tensors(), s.upstream()
    tensors_before, upstream_before = s.tensors(), s.upstream()
    outputs = s.function(*tensors)
    for name, before, after in zip(s.names, tensors_before, tensors, strict=True):
        yield Comparison(f"{name} after forward", before, after.detach().clone(), UNCHANGED)
    outputs_before = [o.detach().clone() for o in outputs]
    tensors_before = tuple(t.detach().clone() for t in tensors)
    gradients(outputs, tensors, upstream)
    for name, before, after in zip(s.names, tensors_before, tensors, strict=True):
        yield Comparison(f"{name} after backward", before, after, UNCHANGED)
    yield from s.outputs_agree(outputs_before, outputs, UNCHANGED, " after backward")
    for i, before, after in zip(s.output_positions, upstream_before, upstream, strict=True):
        yield Comparison(f"upstream gradient of output {i} after backward", before, after, UNCHANGED)


def overwritten_input(s: Subject) -> Iterator[Comparison]:
    """An input overwritten between forward and backward is noticed, as save_for_backward notices it, or does no harm."""
    upstream = s.upstream()
    expected = s.gradients(s.tensors(), upstream)
    for i, name in enumerate(s.names):
        tensors = s.tensors()
        outputs = s.function(*tensors)
        with torch.no_grad():
            tensors[i].mul_(0.5)
        try:
            got = gradients(outputs, tensors, upstream)
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
        else:
            yield from s.gradients_agree(expected, got, EXACT, f", {name} overwritten before backward")


CHECKS: list[Callable[[Subject], Iterable[Comparison]]] = [
    backward,
    reference,
    gradient_shapes,
    needs_input_grad,
    expanded_upstream,
    noncontiguous_upstream,
    noncontiguous_inputs,
    undefined_upstream,
    repeated_backward,
    tensors_unchanged,
    overwritten_input,
]


class _NoGradient(Function):
    """The identity; its backward hands on no gradient at all, not even zeros."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        return None


def _memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


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
