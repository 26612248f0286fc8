"""Checks of memory: tensors that are overwritten, shared, hidden from hooks or never freed."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchbp.verify._differences import FINITE_DIFFERENCES, dot, numerical_gradient
from torchbp.verify._functions import nodes_behind
from torchbp.verify._outcome import Comparison, Tolerance, Wasteful, Wrong
from torchbp.verify._subject import EXACT, Subject, gradients

UNCHANGED = Tolerance(0.0, 0.0)


def tensors_unchanged(s: Subject) -> Iterator[Comparison]:
    """Forward does not change its inputs; backward does not change inputs, outputs or upstream gradients."""
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
    """If an input is overwritten before backward, backward raises, as ctx.saved_tensors does, or its gradients stay right."""
    for i, name in enumerate(s.names):
        tensors = s.tensors()
        outputs = s.function(*tensors)
        with torch.no_grad():
            tensors[i].mul_(0.5)
        yield from _noticed_or_harmless(s, outputs, tensors, f", {name} overwritten before backward")


def overwritten_output(s: Subject) -> Iterator[Comparison]:
    """If an output is overwritten before backward, backward raises, as ctx.saved_tensors does, or its gradients stay right."""
    for k, position in enumerate(s.output_positions):
        tensors = s.tensors()
        outputs = s.function(*tensors)
        if not _sharing(outputs[k], tensors):  # output_views checks a view of an input
            outputs[k].detach().mul_(0.5)
            yield from _noticed_or_harmless(s, outputs, tensors, f", output {position} overwritten before backward")


def output_views(s: Subject) -> Iterator[Comparison]:
    """An output that shares an input's memory is its view in autograd: writing into it raises or is differentiated."""
    for k, position in enumerate(s.output_positions):
        tensors = s.tensors()
        if not _sharing(s.function(*tensors)[k], tensors):
            continue

        def overwritten(*leaves: Tensor, k: int = k) -> Tensor:
            inner = [leaf * 1 for leaf in leaves]
            s.function(*inner)[k].mul_(2)
            return dot(inner, [torch.ones_like(t) for t in inner])

        try:
            cost = overwritten(*tensors)
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            continue
        expected = numerical_gradient(overwritten, tensors)
        note = f", output {position} shares an input's memory and is doubled in place"
        yield from s.gradients_agree(expected, gradients((cost,), tensors, (torch.ones_like(cost),)), FINITE_DIFFERENCES, note)


def gradient_memory(s: Subject) -> Iterable[Comparison]:
    """A gradient does not share memory with an input, an output or another gradient, which later code may change."""
    tensors, upstream = s.tensors(), s.upstream()
    outputs = s.function(*tensors)
    torch.autograd.backward(outputs, [torch.ones_like(v) for v in upstream])
    others = [*zip(s.input_names, s.arguments(tensors), strict=True)]
    others += [(f"output {i}", o) for i, o in zip(s.output_positions, outputs, strict=True)]
    others += [(f"the gradient of {name}", t.grad) for name, t in zip(s.names, tensors, strict=True)]
    for name, t in zip(s.names, tensors, strict=True):
        for other, value in others:
            if isinstance(value, Tensor) and t.grad is not None and value is not t.grad and _sharing(t.grad, [value]):
                raise Wrong(f"gradient of {name}: shares the memory of {other}, so writing to one changes both")
    kept = [v.clone() for v in upstream]
    tensors = s.tensors()
    for _ in range(2):
        torch.autograd.backward(s.function(*tensors), upstream)
    for i, before, after in zip(s.output_positions, kept, upstream, strict=True):
        if not torch.equal(before, after):
            raise Wrong(f"upstream gradient of output {i}: changed by accumulating into a gradient that shares its memory")
    return ()


def saved_tensors_hooks(s: Subject) -> Iterator[Comparison]:
    """Tensors that backward needs pass through saved_tensors_hooks, as save_on_cpu requires; none is an attribute of ctx."""
    upstream = s.upstream()
    tensors = s.tensors()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        outputs = s.function(*tensors)
    on_ctx = {
        f"{'an output' if any(value is o for o in outputs) else 'a tensor'} of shape {tuple(value.shape)} is kept as ctx.{name}"
        for _, ctx in nodes_behind(outputs)
        for name, held in vars(ctx).items()
        for value in _tensors_in(held)
        if value.numel() > 1
    }
    yield from s.gradients_agree(s.gradients(s.tensors(), upstream), gradients(outputs, tensors, upstream), EXACT, ", hooked")
    if on_ctx:
        raise Wasteful(f"{'; '.join(sorted(on_ctx))}: saved_tensors_hooks and save_on_cpu cannot see it")


def memory_released(s: Subject) -> Iterable[Comparison]:
    """Outputs are freed with their last reference, without the garbage collector, which does not see a GPU's memory."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        for when in ("", " after backward"):
            tensors = s.tensors()
            outputs = s.function(*tensors)
            if when:
                torch.autograd.backward(outputs, s.upstream())
            held = [None if any(o is t for t in tensors) else weakref.ref(o) for o in outputs]
            del outputs
            for i, reference in zip(s.output_positions, held, strict=True):
                if reference is not None and reference() is not None:
                    raise Wasteful(f"output {i} is not freed{when}: its own graph holds it, as ctx.output = output does")
    finally:
        if enabled:
            gc.enable()
    return ()


CHECKS: list[Callable[[Subject], Iterable[Comparison]]] = [
    tensors_unchanged,
    overwritten_input,
    overwritten_output,
    output_views,
    gradient_memory,
    saved_tensors_hooks,
    memory_released,
]


def _noticed_or_harmless(s: Subject, outputs: Any, tensors: Any, note: str) -> Iterator[Comparison]:
    upstream = s.upstream()
    try:
        got = gradients(outputs, tensors, upstream)
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
    else:
        yield from s.gradients_agree(s.gradients(s.tensors(), upstream), got, EXACT, note)


def _sharing(t: Tensor, others: Iterable[Tensor]) -> bool:
    memory = t.untyped_storage().data_ptr()
    return bool(memory) and any(memory == other.untyped_storage().data_ptr() for other in others)


def _tensors_in(held: Any) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, list | tuple | dict):
        for value in held.values() if isinstance(held, dict) else held:
            yield from _tensors_in(value)
