"""Checks of dtypes: half precision, autocast, loss scaling, complex numbers, and tensors without values."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from torchbp.verify._differences import FINITE_DIFFERENCES, Tensors, dot, numerical_gradient
from torchbp.verify._forward import jvp
from torchbp.verify._outcome import Comparison, Tolerance, Wrong
from torchbp.verify._subject import Subject, check_dtype, gradients


def precision(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """Outputs and gradients agree with those in float64 from the same values, to the dtype's precision."""
    low = s.to(dtype)
    exact = low.to(torch.float64)
    upstream = low.upstream()
    tensors, exact_tensors = low.tensors(), exact.tensors()
    outputs, exact_outputs = low.function(*tensors), exact.function(*exact_tensors)
    for i, output in zip(s.output_positions, outputs, strict=True):
        check_dtype(f"output {i} of {dtype} inputs", _reference_dtypes(low).get(i, dtype), output.dtype)
    yield from s.outputs_agree(exact_outputs, outputs, _digits_of(dtype, exact_outputs))
    got = gradients(outputs, tensors, upstream)
    expected = gradients(exact_outputs, exact_tensors, [v.double() for v in upstream])
    yield from s.gradients_agree(expected, got, _digits_of(dtype, expected))


def precision_of_double_backward(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """Second derivatives have the inputs' dtype and its precision."""

    def second(of: Subject) -> Tensors:
        tensors, weights = of.tensors(), [d.to(dtype).to(t.dtype) for d, t in zip(s.directions(), of.tensors(), strict=True)]
        upstream = [v.to(dtype).to(t.dtype) for v, t in zip(s.upstream(), of.upstream(), strict=True)]
        first = of.gradients(tensors, upstream, create_graph=True)
        return gradients((dot(first, weights),), tensors, (torch.ones_like(dot(first, weights)),))

    yield from _digits_agree(s, dtype, second, "second derivative by")


def precision_of_forward_mode(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """The outputs' tangents have the outputs' dtype and its precision."""

    def tangents(of: Subject) -> Tensors:
        along = {i: d.to(dtype).to(t.dtype) for i, (d, t) in enumerate(zip(s.directions(), of.tensors(), strict=True))}
        return jvp(of.function, of.tensors(), along)

    yield from _digits_agree(s, dtype, tangents, "tangent of output")


def precision_of_vmap(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """Outputs under vmap have the same dtype and precision as without vmap."""
    yield from _digits_agree(
        s,
        dtype,
        lambda of: torch.vmap(of.function)(*(torch.stack([t, t.flip(0)] if t.dim() else [t, t]) for t in of.tensors())),
        "output",
    )


def autocast(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """Under autocast, outputs have the reference's dtype, and backward works both inside and after autocast."""
    low, upstream = s.to(torch.float32), s.upstream()
    expected_outputs, expected = s.function(*s.tensors()), s.gradients(s.tensors(), upstream)
    for inside in (False, True):
        tensors = low.tensors()
        with torch.autocast(s.device_type, dtype):
            outputs = low.function(*tensors)
            kinds = _reference_dtypes(low)
        for i, output in zip(s.output_positions, outputs, strict=True):
            check_dtype(f"output {i} under autocast to {dtype}", kinds.get(i, output.dtype), output.dtype)
        note = f", backward {'inside' if inside else 'after'} autocast"
        yield from s.outputs_agree(expected_outputs, outputs, _digits_of(dtype, expected_outputs), note)
        with torch.autocast(s.device_type, dtype, enabled=inside):
            got = gradients(outputs, tensors, [v.to(o.dtype) for v, o in zip(upstream, outputs, strict=True)])
        yield from s.gradients_agree(expected, got, _digits_of(dtype, expected), note)


def loss_scaling(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """Gradients of a cost that GradScaler scales are those of the plain cost, once they are unscaled."""
    low = s.to(dtype)
    upstream, tensors = low.upstream(), low.tensors()
    scaler = torch.amp.GradScaler(s.device_type)
    scaler.scale(dot(low.function(*tensors), upstream)).backward()
    scaler.unscale_(torch.optim.SGD(tensors, lr=1.0))
    got = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
    expected = low.gradients(low.tensors(), upstream)
    yield from s.gradients_agree(expected, got, _digits_of(dtype, expected))


def complex_inputs(s: Subject, dtype: torch.dtype) -> Iterator[Comparison]:
    """Complex inputs raise an error, or their gradients agree with finite differences."""

    def turned(t: Tensor) -> Tensor:
        # Each entry has its own angle: a common phase can cancel.
        return t * (1j * t).exp() if t.is_complex() else t

    values = s.to(dtype).mapped(turned)
    try:
        tensors, upstream = values.tensors(), [turned(v) for v in values.upstream()]
        got = values.gradients(tensors, upstream)
    except (TypeError, ValueError, RuntimeError):  # the function rejects them
        return

    def cost(*parts: Tensor) -> Tensor:
        outputs = values.measured(*(torch.complex(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)))
        return sum((output * v.conj()).real.sum() for output, v in zip(outputs, upstream, strict=True))  # type: ignore[return-value]

    parts = [part.detach().clone() for t in tensors for part in (t.real, t.imag)]
    expected = numerical_gradient(cost, parts)
    complex_expected = [torch.complex(*pair) for pair in zip(expected[::2], expected[1::2], strict=True)]
    note = ", complex: raise an error, or conjugate as PyTorch does"
    yield from s.gradients_agree(complex_expected, got, FINITE_DIFFERENCES, note)


def meta(s: Subject) -> Iterable[Comparison]:
    """On the meta device, outputs have the same shapes and dtypes as on a real device, and backward runs."""
    _check_metadata(s.to(device="meta"), s.function(*s.tensors()))
    return ()


def fake(s: Subject) -> Iterable[Comparison]:
    """With fake tensors, as compilers use, outputs have the shapes and dtypes of real ones, and backward runs."""
    s.check_captures_none(float64=False)
    expected = s.function(*s.tensors())
    mode = FakeTensorMode()
    faked = s.mapped(mode.from_tensor)
    with mode:
        _check_metadata(faked, expected)
    return ()


HALVES = (torch.bfloat16, torch.float16)

CHECKS: list[Callable[..., Iterable[Comparison]]] = [
    *(partial(precision, dtype=dtype) for dtype in (torch.float32, *HALVES)),
    partial(precision_of_double_backward, dtype=torch.float32),
    partial(precision_of_forward_mode, dtype=torch.float32),
    partial(precision_of_vmap, dtype=torch.float32),
    *(partial(autocast, dtype=dtype) for dtype in HALVES),
    partial(loss_scaling, dtype=torch.float32),
    partial(complex_inputs, dtype=torch.complex128),
    meta,
    fake,
]


def _digits_of(dtype: torch.dtype, expected: Tensors) -> Tolerance:
    """A few units in the last place of the largest entry: a sum that cancels is only as exact as its terms."""
    relative = 8 * torch.finfo(dtype).eps
    largest = max((t.abs().max().item() for t in expected if t.numel()), default=0.0)
    return Tolerance(relative * max(1.0, largest), relative)


def _digits_agree(s: Subject, dtype: torch.dtype, derived: Callable[[Subject], Tensors], what: str) -> Iterator[Comparison]:
    low = s.to(dtype)
    expected, got = derived(low.to(torch.float64)), derived(low)
    names = s.names if what.endswith(" by") else s.output_positions
    plain = low.tensors() if what.endswith(" by") else low.function(*low.tensors())
    for name, e, g, p in zip(names, expected, got, plain, strict=True):
        check_dtype(f"{what} {name}", p.dtype, g.dtype)
        yield s.compare(f"{what} {name}", e, g, _digits_of(dtype, expected))


def _reference_dtypes(s: Subject) -> dict[int, torch.dtype]:
    """The dtypes of the reference's outputs; empty if there is no reference or it raises, as some costs do under autocast."""
    if s.reference is None:
        return {}
    try:
        outputs = s.outputs(s.reference(*s.arguments(s.tensors())))
    except RuntimeError:
        return {}
    return {i: output.dtype for i, output in zip(s.output_positions, outputs, strict=True)}


def _check_metadata(valueless: Subject, expected: Tensors) -> None:
    """Run forward and backward without values; Wrong if an output's shape or dtype is not that of the real one."""
    tensors = valueless.tensors()
    outputs = valueless.function(*tensors)
    for i, output, real in zip(valueless.output_positions, outputs, expected, strict=True):
        check_dtype(f"output {i}", real.dtype, output.dtype)
        if output.shape != real.shape:
            raise Wrong(f"output {i} has shape {tuple(output.shape)}, expected {tuple(real.shape)}")
    gradients(outputs, tensors, [torch.ones_like(output) for output in outputs])
