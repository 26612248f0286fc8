"""Checks of the first derivative in reverse mode."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.verify._differences import FINITE_DIFFERENCES
from torchbp.verify._functions import backward_changed, parameter_names
from torchbp.verify._outcome import Comparison, Error, Skipped, Tolerance, Wasteful, Wrong
from torchbp.verify._subject import EXACT, Subject, gradients

# Some of PyTorch's operations have float32 constants, such as hardsigmoid's 1/6.
AS_REFERENCE = Tolerance(1e-7, 1e-6)


def deterministic(s: Subject) -> Iterable[Comparison]:
    """The same inputs give the same outputs and the same gradients."""
    upstream = s.upstream()
    first, second = (s.function(*s.tensors()) for _ in range(2))
    for i, a, b in zip(s.output_positions, first, second, strict=True):
        if not torch.allclose(a, b, EXACT.relative, max(EXACT.absolute, s.tolerance), equal_nan=True):
            raise Error(
                f"not deterministic: output {i} differs between two calls, so no other check ran; seed its random numbers"
            )
    first, second = (s.gradients(s.tensors(), upstream) for _ in range(2))
    for name, a, b in zip(s.names, first, second, strict=True):
        if not torch.allclose(a, b, EXACT.relative, max(EXACT.absolute, s.tolerance), equal_nan=True):
            raise Error(
                f"not deterministic: the gradient of {name} differs between two calls, so no other check ran; "
                "seed its random numbers"
            )
    return ()


def output_dtype(s: Subject) -> Iterable[Comparison]:
    """Outputs of float64 inputs are float64."""
    for i, output in zip(s.output_positions, s.function(*s.tensors()), strict=True):
        if output.dtype not in (torch.float64, torch.complex128):
            raise Wrong(f"output {i} of float64 inputs is {output.dtype}: it has too few digits for any other check")
    return ()


def backward(s: Subject) -> Iterator[Comparison]:
    """Gradients agree with finite differences, for upstream gradients that are not uniform."""
    for seed in range(3):
        upstream = s.upstream(seed)
        expected = s.true_gradients(s.tensors(), upstream)
        yield from s.gradients_agree(expected, s.gradients(s.tensors(), upstream), FINITE_DIFFERENCES)


def other_values(s: Subject) -> Iterator[Comparison]:
    """The derivative is also right for other input values: permuted, halved, doubled, negated, moved towards 1."""
    for note, change in (
        (", entries in another order", lambda t: t.flatten().roll(1).view(t.shape)),
        (", inputs halved", lambda t: t / 2),
        (", inputs doubled", lambda t: 2 * t),
        (", inputs negative", lambda t: -t),
        (", inputs closer to 1", lambda t: (t + 1) / 2),
    ):
        # Other inputs may be an index or a mask, whose values must stay.
        changed = [change(v.detach()) if i in s.positions else v for i, v in enumerate(s.inputs)]
        yield from s.with_inputs(changed).slopes_agree(note)


def reference(s: Subject) -> Iterator[Comparison]:
    """Outputs and gradients agree with the reference's."""
    if s.reference is None:
        raise Skipped("no reference was given")
    tensors, upstream = s.tensors(), s.upstream()
    expected = s.outputs(s.reference(*s.arguments(tensors)))
    yield from s.outputs_agree(expected, s.function(*tensors), AS_REFERENCE)
    yield from s.gradients_agree(gradients(expected, tensors, upstream), s.gradients(tensors, upstream), AS_REFERENCE)


def gradient_shapes(s: Subject) -> Iterable[Comparison]:
    """Each gradient that backward returns has its input's shape and dtype, so that autograd neither sums nor casts it."""
    faults: list[str] = []

    def compare_shapes(function: type[Function], ctx: Any, _: Any, returned: tuple[Any, ...]) -> tuple[Any, ...]:
        names = parameter_names(function.forward, len(returned))
        asked = [(name, g) for name, g, needed in zip(names, returned, ctx.needs_input_grad, strict=False) if needed]
        # The next node knows the shape and dtype of the input that a gradient belongs to.
        receivers = [(node, number) for node, number in ctx.next_functions if node is not None]
        for (name, gradient), (node, number) in zip(asked, receivers, strict=False):  # autograd raises if there are too few
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
        raise Wrong("; ".join(faults))
    return ()


def needs_input_grad(s: Subject) -> Iterator[Comparison]:
    """For any choice of inputs that require grad, their gradients are the same, and backward computes no others."""
    upstream = s.upstream()
    every = s.gradients(s.tensors(), upstream)
    faults: dict[str, None] = {}

    def spy(function: type[Function], ctx: Any, upstream: tuple[Any, ...], returned: tuple[Any, ...]) -> tuple[Any, ...]:
        names = parameter_names(function.forward, len(returned))
        asked = [g for g, needed in zip(returned, ctx.needs_input_grad, strict=False) if needed]
        # A gradient in the memory of an upstream gradient or of a needed one has cost nothing.
        free = {_memory(g) for g in (*upstream, *asked) if g is not None}
        for name, g, needed in zip(names, returned, ctx.needs_input_grad, strict=False):
            if not needed and g is not None and _memory(g) not in free:
                faults[f"gradient of {name}: computed although its needs_input_grad is False"] = None
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
        raise Wasteful("; ".join(faults))


# These two run first: if one fails, no other check has a meaning.
FIRST: list[Callable[[Subject], Iterable[Comparison]]] = [deterministic, output_dtype]
CHECKS: list[Callable[[Subject], Iterable[Comparison]]] = [
    backward,
    other_values,
    reference,
    gradient_shapes,
    needs_input_grad,
]


def _memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
