"""Checks under vmap and torch.func: a batch of anything is what a loop over it gives."""

from collections.abc import Iterator

import torch
from torch import Tensor

from torchbp.verify._result import Comparison
from torchbp.verify._subject import EXACT, FINITE_DIFFERENCES, Subject, Tensors, dot, gradients, numerical_derivative

BATCH = 3


def vmap(s: Subject) -> Iterator[Comparison]:
    """Outputs over a batch of each input in turn, and of all, are those of a loop; so are the gradients behind them."""
    upstream = [torch.stack([v * (k + 1) for k in range(BATCH)]) for v in s.upstream()]
    count = len(s.names)
    for dim in (0, -1):
        for batched in [*([i] for i in range(count)), list(range(count))]:
            tensors = list(s.tensors())
            for i in batched:
                tensors[i] = _batch_of(tensors[i], dim)
            in_dims = tuple(dim if i in batched else None for i in range(count))
            whose = " and ".join(s.names[i] for i in batched)
            note = f", vmap over {whose} (in_dim {dim})"
            expected = _loop(s, tensors, in_dims)
            got = torch.vmap(s.function, in_dims=in_dims)(*tensors)
            yield from s.outputs_agree(expected, got, EXACT, note)
            expected, got = gradients(expected, tensors, upstream), gradients(got, tensors, upstream)
            yield from s.gradients_agree(expected, got, EXACT, note)


def batched_gradients(s: Subject) -> Iterator[Comparison]:
    """A batch of upstream gradients in one backward gives what one after the other gives."""
    batches = [s.upstream(seed) for seed in range(BATCH)]
    expected = [torch.stack(g) for g in zip(*(s.gradients(s.tensors(), v) for v in batches), strict=True)]
    upstream = [torch.stack(v) for v in zip(*batches, strict=True)]
    yield from s.gradients_agree(expected, s.gradients(s.tensors(), upstream, is_grads_batched=True), EXACT)


def jacrev(s: Subject) -> Iterator[Comparison]:
    """torch.func.jacrev gives the Jacobian of one backward after the other."""
    tensors = s.tensors()
    got = torch.func.jacrev(s.function, argnums=tuple(range(len(tensors))))(*tensors)
    for k, (output, blocks) in enumerate(zip(s.function(*tensors), got, strict=True)):
        rows = [gradients((s.function(*tensors)[k],), tensors, (one,)) for one in _unit_vectors(output)]
        for name, block, *expected in zip(s.names, blocks, *rows, strict=True):
            what = f"Jacobian of output {s.output_positions[k]} by {name}"
            yield Comparison(what, torch.stack(expected).view_as(block), block, EXACT)


def jacfwd(s: Subject) -> Iterator[Comparison]:
    """torch.func.jacfwd gives the Jacobian of finite differences."""
    tensors = s.tensors()
    got = torch.func.jacfwd(s.function, argnums=tuple(range(len(tensors))))(*tensors)
    for i, name in enumerate(s.names):
        columns = [numerical_derivative(s.function, tensors, {i: one}) for one in _unit_vectors(tensors[i])]
        for position, blocks, *expected in zip(s.output_positions, got, *columns, strict=True):
            what = f"Jacobian of output {position} by {name}"
            yield Comparison(what, torch.stack(expected, -1).view_as(blocks[i]), blocks[i], FINITE_DIFFERENCES)


def hessian(s: Subject) -> Iterator[Comparison]:
    """torch.func.hessian gives the finite differences of the gradients."""
    tensors, upstream = s.tensors(), s.upstream()
    every = tuple(range(len(tensors)))
    got = torch.func.hessian(lambda *t: dot(s.function(*t), upstream), argnums=every)(*tensors)
    for j in every:
        columns = [
            numerical_derivative(lambda *t: s.gradients(t, upstream), tensors, {j: one}) for one in _unit_vectors(tensors[j])
        ]
        for i, *expected in zip(every, *columns, strict=True):
            what = f"second derivative by {s.names[i]} and {s.names[j]}"
            yield Comparison(what, torch.stack(expected, -1).view_as(got[i][j]), got[i][j], FINITE_DIFFERENCES)


CHECKS = [vmap, batched_gradients, jacrev, jacfwd, hessian]


def _batch_of(t: Tensor, dim: int) -> Tensor:
    """A batch along ``dim`` of tensors with the entries of ``t`` in other orders, so that all lie where its own lie."""
    t = t.detach()
    return torch.stack([t.flatten().roll(k).view(t.shape) for k in range(BATCH)], dim).requires_grad_()


def _loop(s: Subject, tensors: Tensors, in_dims: tuple[int | None, ...]) -> tuple[Tensor, ...]:
    samples = [[t if d is None else t.select(d, k) for t, d in zip(tensors, in_dims, strict=True)] for k in range(BATCH)]
    return tuple(torch.stack(outputs) for outputs in zip(*(s.function(*sample) for sample in samples), strict=True))


def _unit_vectors(t: Tensor) -> Iterator[Tensor]:
    return (one.view(t.shape) for one in torch.eye(t.numel(), dtype=t.dtype, device=t.device))
