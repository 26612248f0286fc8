"""Checks that transforms and compilation do not silently bypass the custom backward.

In each setting, backward returns doubled gradients. If the result is not doubled, the setting did not run that backward.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from torchbp.verify._differences import Tensors, dot
from torchbp.verify._functions import as_tuple, backward_changed
from torchbp.verify._outcome import Bypassed, Comparison, Skipped, Wrong, agrees, disagreement
from torchbp.verify._sizes import NO_BATCH, with_rows
from torchbp.verify._subject import EXACT, Subject, gradients

# Multiplies what backward returns. It is a tensor, so that a graph compiled while it was 1 is doubled too.
FACTOR = torch.tensor(1.0, dtype=torch.float64)

Derivatives = tuple[Sequence[Tensor], Sequence[Tensor]]  # outputs and gradients


def checkpoint(s: Subject) -> Iterator[Comparison]:
    """torch.utils.checkpoint, which runs forward again before backward, gives the same outputs and gradients."""

    def through_checkpoint(tensors: Tensors, upstream: Tensors) -> Derivatives:
        outputs = recomputed(s.function, *tensors, use_reentrant=False)
        return _derivatives(outputs, tensors, upstream)

    yield from _as_in_eager(s, through_checkpoint, "torch.utils.checkpoint does not run the custom backward")


def torch_func_grad(s: Subject) -> Iterator[Comparison]:
    """torch.func.grad gives the same gradients as torch.autograd.grad."""

    def through_func(tensors: Tensors, upstream: Tensors) -> Derivatives:
        return s.function(*tensors), _func_grad(s, s.call, s.arguments(tensors), upstream)

    yield from _as_in_eager(s, through_func, "torch.func.grad does not run the custom backward")


def per_sample_gradients(s: Subject) -> Iterator[Comparison]:
    """vmap over torch.func.grad gives each sample the gradients of a backward for it alone."""
    batch = s.batch
    if not batch:
        raise Skipped(NO_BATCH)

    def cost(*arguments: Any) -> Tensor:
        alone = [a.unsqueeze(0) if i in batch else a for i, a in enumerate(arguments)]
        outputs = s.outputs(s.call(*alone))
        return dot(outputs, outputs)

    def one_by_one(tensors: Tensors, _: Tensors) -> Derivatives:
        rows = []
        for k in range(s.inputs[batch[0]].shape[0]):
            sample = [a[k] if i in batch else a for i, a in enumerate(s.arguments(tensors))]
            asked = [sample[i] for i in s.positions]
            rows.append(torch.autograd.grad(cost(*sample), asked, materialize_grads=True))
        return (), [torch.stack(g) for g in zip(*rows, strict=True)]

    def at_once(tensors: Tensors, _: Tensors) -> Derivatives:
        in_dims = tuple(0 if i in batch else None for i in range(len(s.inputs)))
        arguments = s.arguments([t.detach() for t in tensors])
        return (), torch.vmap(torch.func.grad(cost, argnums=tuple(s.positions)), in_dims=in_dims)(*arguments)

    yield from _as_in_eager(s, at_once, "vmap over torch.func.grad does not run the custom backward", eager=one_by_one)


def torch_compile(s: Subject) -> Iterator[Comparison]:
    """torch.compile(fullgraph=True), as Dynamo traces it, gives the same outputs and gradients, for any batch size."""
    compiled = _compiled(lambda *a: s.call(*a))

    def through_compile(tensors: Tensors, upstream: Tensors) -> Derivatives:
        arguments = s.arguments(tensors)
        for i in s.batch:
            torch._dynamo.maybe_mark_dynamic(arguments[i], 0)
        return _derivatives(s.outputs(compiled(*arguments)), tensors, upstream)

    with backward_changed(s.functions, _scaled):
        yield from _as_in_eager(
            s, through_compile, "torch.compile differentiates forward itself: the custom backward never runs"
        )
        if s.batch:
            other = with_rows(s, 7)
            tensors, expected_tensors, upstream = other.tensors(), other.tensors(), other.upstream()
            expected_outputs, expected = _derivatives(other.function(*expected_tensors), expected_tensors, upstream)
            outputs, got = _derivatives(s.outputs(compiled(*other.arguments(tensors))), tensors, upstream)
            note = ", 7 rows through what was compiled for the example"
            yield from s.outputs_agree(expected_outputs, outputs, EXACT, note)
            yield from s.gradients_agree(expected, got, EXACT, note)


def func_grad_in_compile(s: Subject) -> Iterator[Comparison]:
    """torch.func.grad inside torch.compile gives the same gradients."""

    upstream = s.upstream()
    grad = _compiled(lambda *a: _func_grad(s, s.call, a, upstream))

    def through_both(tensors: Tensors, _: Tensors) -> Derivatives:
        return s.function(*tensors), grad(*s.arguments([t.detach() for t in tensors]))

    why = "torch.func.grad inside torch.compile differentiates forward itself: the custom backward never runs"
    yield from _as_in_eager(s, through_both, why)


def torch_export(s: Subject) -> Iterator[Comparison]:
    """torch.export, with a batch dimension of any size if there is one, gives the same outputs and gradients."""
    # A batch of one is a constant to torch.export.
    batch = [i for i in s.batch if s.inputs[i].shape[0] > 1]
    tensors_at = [i for i, value in enumerate(s.inputs) if isinstance(value, Tensor)]
    size = torch.export.Dim("batch")
    shapes = tuple({0: size} if i in batch else None for i in tensors_at)
    example = s.arguments(s.tensors())
    with redirect_stderr(io.StringIO()):  # torch.export prints a graph that it could not finish
        exported = torch.export.export(_OfTensors(s), tuple(example[i] for i in tensors_at), dynamic_shapes=(shapes,)).module()

    def program(*arguments: Any) -> Any:
        return exported(*(arguments[i] for i in tensors_at))

    twice = [torch.cat([a, a]) if i in batch else a for i, a in enumerate(s.inputs)]
    yield from s.outputs_agree(
        s.outputs(s.call(*twice)), s.outputs(program(*twice)), EXACT, " of the exported program, with twice the batch"
    )

    def through_export(tensors: Tensors, upstream: Tensors) -> Derivatives:
        outputs = s.outputs(program(*s.arguments(tensors)))
        return _derivatives(outputs, tensors, upstream)

    why = "torch.export keeps only forward: training the exported program runs PyTorch's backward, not the custom one"
    yield from _as_in_eager(s, through_export, why)


CHECKS = [checkpoint, torch_func_grad, per_sample_gradients, torch_compile, func_grad_in_compile, torch_export]


def _as_in_eager(
    s: Subject,
    setting: Callable[[Tensors, Tensors], Derivatives],
    why_bypassed: str,
    eager: Callable[[Tensors, Tensors], Derivatives] | None = None,
) -> Iterator[Comparison]:
    """Compare outputs and gradients in the setting with the eager ones, all with a doubled backward."""

    def in_eager(tensors: Tensors, upstream: Tensors) -> Derivatives:
        return _derivatives(s.function(*tensors), tensors, upstream)

    eager = eager or in_eager
    upstream = s.upstream()
    with backward_changed(s.functions, _scaled):
        _, undoubled = eager(s.tensors(), upstream)
        with _doubled():
            outputs, expected = eager(s.tensors(), upstream)
            got_outputs, got = setting(s.tensors(), upstream)
        if outputs:
            yield from s.outputs_agree(outputs, got_outputs, EXACT)
        comparisons = list(s.gradients_agree(expected, got, EXACT, " (doubled)" if s.functions else ""))
        if not all(map(agrees, comparisons)):
            if all(map(agrees, s.gradients_agree(undoubled, got, EXACT))):
                raise Bypassed(why_bypassed)
            _, got_undoubled = setting(s.tensors(), upstream)
            if all(map(agrees, s.gradients_agree(got_undoubled, got, EXACT))):
                lost = next(c for c in s.gradients_agree(undoubled, got, EXACT) if not agrees(c))
                raise Wrong(f"lost: {why_bypassed}, and the gradients differ: {disagreement(lost)}")
            if len(s.functions) > 1 and not any(map(agrees, s.gradients_agree(got_undoubled, got, EXACT))):
                # The setting runs other Functions, or in another order, but every gradient passes through one.
                comparisons = list(s.gradients_agree(undoubled, got_undoubled, EXACT))
    yield from comparisons


def _derivatives(outputs: Tensors, tensors: Tensors, upstream: Tensors) -> Derivatives:
    # Copies of the outputs, made before backward.
    return [output.detach().clone() for output in outputs], gradients(outputs, tensors, upstream)


@contextmanager
def _doubled() -> Iterator[None]:
    FACTOR.fill_(2)
    try:
        yield
    finally:
        FACTOR.fill_(1)


def _scaled(function: Any, ctx: Any, upstream: Any, returned: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if g is None else g * FACTOR for g in returned)


def _func_grad(s: Subject, call: Callable[..., Any], arguments: Sequence[Any], upstream: Tensors) -> tuple[Tensor, ...]:
    cost = lambda *a: dot([as_tuple(call(*a))[i] for i in s.output_positions], upstream)  # noqa: E731
    return torch.func.grad(cost, argnums=tuple(s.positions))(*arguments)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # The audit changes each function's backward, so code compiled earlier is out of date.
    torch.compiler.reset()
    # A custom backward gets lost in Dynamo, which traces forward and backward. Compiling the trace is PyTorch's own part, and
    # takes several times as long.
    return torch.compile(function, fullgraph=True, backend="eager")


class _OfTensors(torch.nn.Module):
    """A module for torch.export that calls the function: its inputs are the tensors, the other arguments are constants."""

    def __init__(self, s: Subject) -> None:
        super().__init__()
        self.call = s.call
        self.constants = [None if isinstance(value, Tensor) else (value,) for value in s.inputs]

    def forward(self, *tensors: Tensor) -> Any:
        remaining = iter(tensors)
        return self.call(*(next(remaining) if constant is None else constant[0] for constant in self.constants))
