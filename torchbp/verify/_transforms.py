"""Checks of vmap and torch.func: a transform gives the same result as a loop."""

from collections.abc import Iterator

import torch
from torch import Tensor

from torchbp.verify._differences import FINITE_DIFFERENCES, Tensors, dot, numerical_derivative
from torchbp.verify._outcome import Comparison
from torchbp.verify._subject import EXACT, Subject, gradients, unit_vectors

BATCH = 3


def vmap(s: Subject) -> Iterator[Comparison]:
    """vmap over each input in turn, and over all inputs, gives the outputs and gradients of a loop.

    The batch dimension is the first, the last, one in the middle, and a different one for each input.
    """
    every = range(len(s.names))
    dimensions = [t.dim() for t in s.tensors()]
    for i in every:
        for dim in dict.fromkeys((0, -1, *([1] if dimensions[i] > 1 else []))):
            yield from _as_loop(s, tuple(dim if k == i else None for k in every))
    for dim in (0, -1):
        yield from _as_loop(s, (dim,) * len(every))
    if len(every) > 1:
        yield from _as_loop(s, tuple((0, -1)[k % 2] for k in every))


def nested_vmap(s: Subject) -> Iterator[Comparison]:
    """vmap of vmap equals a loop in a loop: the outer one over the first input, the inner one over all inputs."""
    tensors = [_batch_of(t, 0) for t in s.tensors()]
    tensors[0] = _batch_of(tensors[0], 0)
    inner = torch.vmap(s.function)
    outer_dims = (0, *[None] * (len(tensors) - 1))
    got = torch.vmap(inner, in_dims=outer_dims)(*tensors)
    rows = [_loop(s, [tensors[0][k], *tensors[1:]], (0,) * len(tensors)) for k in range(BATCH)]
    expected = [torch.stack(o) for o in zip(*rows, strict=True)]
    yield from s.outputs_agree(expected, got, EXACT, ", vmap of vmap")
    upstream = [torch.ones_like(o) for o in expected]
    yield from s.gradients_agree(gradients(expected, tensors, upstream), gradients(got, tensors, upstream), EXACT)


def chunked_vmap(s: Subject) -> Iterator[Comparison]:
    """vmap with a chunk_size, and a smaller last chunk, equals a loop."""
    tensors = [_batch_of(t, 0) for t in s.tensors()]
    got = torch.vmap(s.function, chunk_size=BATCH - 1)(*tensors)
    yield from s.outputs_agree(_loop(s, tensors, (0,) * len(tensors)), got, EXACT, f", vmap in chunks of {BATCH - 1}")


def batched_gradients(s: Subject) -> Iterator[Comparison]:
    """A batch of upstream gradients in one backward (is_grads_batched=True) gives the same gradients as one after another."""
    batches = [s.upstream(seed) for seed in range(BATCH)]
    expected = [torch.stack(g) for g in zip(*(s.gradients(s.tensors(), v) for v in batches), strict=True)]
    upstream = [torch.stack(v) for v in zip(*batches, strict=True)]
    yield from s.gradients_agree(expected, s.gradients(s.tensors(), upstream, is_grads_batched=True), EXACT)


def jacrev(s: Subject) -> Iterator[Comparison]:
    """torch.func.jacrev gives the same Jacobian as one backward for each entry of the output."""
    tensors = s.tensors()
    got = torch.func.jacrev(s.function, argnums=tuple(range(len(tensors))))(*tensors)
    for k, (output, blocks) in enumerate(zip(s.function(*tensors), got, strict=True)):
        rows = [gradients((s.function(*tensors)[k],), tensors, (one,)) for one in unit_vectors(output)]
        for name, block, *expected in zip(s.names, blocks, *rows, strict=True):
            what = f"Jacobian of output {s.output_positions[k]} by {name}"
            yield s.compare(what, torch.stack(expected).view_as(block), block, EXACT)


def jacfwd(s: Subject) -> Iterator[Comparison]:
    """torch.func.jacfwd gives the same Jacobian as finite differences."""
    tensors = s.tensors()
    got = torch.func.jacfwd(s.function, argnums=tuple(range(len(tensors))))(*tensors)
    for i, name in enumerate(s.names):
        columns = [s.true_change(tensors, {i: one}) for one in unit_vectors(tensors[i])]
        for position, blocks, *expected in zip(s.output_positions, got, *columns, strict=True):
            what = f"Jacobian of output {position} by {name}"
            yield s.compare(what, torch.stack(expected, -1).view_as(blocks[i]), blocks[i], FINITE_DIFFERENCES)


def hessian(s: Subject) -> Iterator[Comparison]:
    """torch.func.hessian agrees with finite differences of the gradients."""
    tensors, upstream = s.tensors(), s.upstream()
    every = tuple(range(len(tensors)))
    got = torch.func.hessian(lambda *t: dot(s.function(*t), upstream), argnums=every)(*tensors)
    for j in every:
        columns = [
            numerical_derivative(lambda *t: s.gradients(t, upstream), tensors, {j: one}) for one in unit_vectors(tensors[j])
        ]
        for i, *expected in zip(every, *columns, strict=True):
            what = f"second derivative by {s.names[i]} and {s.names[j]}"
            yield s.compare(what, torch.stack(expected, -1).view_as(got[i][j]), got[i][j], FINITE_DIFFERENCES)


CHECKS = [vmap, nested_vmap, chunked_vmap, batched_gradients, jacrev, jacfwd, hessian]


def _as_loop(s: Subject, in_dims: tuple[int | None, ...]) -> Iterator[Comparison]:
    tensors = [t if d is None else _batch_of(t, d) for t, d in zip(s.tensors(), in_dims, strict=True)]
    upstream = [torch.stack([v * (k + 1) for k in range(BATCH)]) for v in s.upstream()]
    whose = " and ".join(f"{name} (in_dim {d})" for name, d in zip(s.names, in_dims, strict=True) if d is not None)
    note = f", vmap over {whose}"
    expected, got = _loop(s, tensors, in_dims), torch.vmap(s.function, in_dims=in_dims)(*tensors)
    yield from s.outputs_agree(expected, got, EXACT, note)
    yield from s.gradients_agree(gradients(expected, tensors, upstream), gradients(got, tensors, upstream), EXACT, note)


def _batch_of(t: Tensor, dim: int) -> Tensor:
    """A batch along ``dim`` of permutations of ``t``: its values stay in the same range."""
    t = t.detach()
    return torch.stack([t.flatten().roll(k).view(t.shape) for k in range(BATCH)], dim).requires_grad_()


def _loop(s: Subject, tensors: Tensors, in_dims: tuple[int | None, ...]) -> tuple[Tensor, ...]:
    samples = [[t if d is None else t.select(d, k) for t, d in zip(tensors, in_dims, strict=True)] for k in range(BATCH)]
    return tuple(torch.stack(outputs) for outputs in zip(*(s.function(*sample) for sample in samples), strict=True))
