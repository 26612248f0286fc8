"""Checks of the second derivative, in every order of reverse and forward mode."""

from collections.abc import Iterator

import torch
from torch import Tensor

from torchbp.verify._forward import jvp
from torchbp.verify._result import Comparison
from torchbp.verify._subject import (
    FINITE_DIFFERENCES,
    Subject,
    Tensors,
    dot,
    numerical_derivative,
    numerical_gradient,
)


def double_backward(s: Subject) -> Iterator[Comparison]:
    """The gradients' own gradients, by inputs and by upstream gradients, are those of finite differences."""
    weights = s.directions()

    def weighted(*all_tensors: Tensor, **options: bool) -> Tensor:
        tensors, upstream = all_tensors[: len(weights)], all_tensors[len(weights) :]
        return dot(s.gradients(tensors, upstream, **options), weights)

    tensors = (*s.tensors(), *(v.requires_grad_() for v in s.upstream()))
    expected = numerical_gradient(weighted, tensors)
    got = _gradient(weighted(*tensors, create_graph=True), tensors)
    names = [*s.names, *(f"the upstream gradient of output {i}" for i in s.output_positions)]
    for name, e, g in zip(names, expected, got, strict=True):
        yield Comparison(f"second derivative by {name}", e, g, FINITE_DIFFERENCES)


def gradient_penalty(s: Subject) -> Iterator[Comparison]:
    """The gradient of Σ |gradient|² of the outputs' plain sum is that of finite differences, and does not vanish unsaid."""
    upstream = [torch.ones_like(v) for v in s.upstream()]

    def penalty(*tensors: Tensor, **options: bool) -> Tensor:
        gradient = s.gradients(tensors, upstream, **options)
        return dot(gradient, gradient)

    tensors = s.tensors()
    got = penalty(*tensors, create_graph=True)
    note = "" if got.requires_grad else ", which vanishes without an error,"
    for name, e, g in zip(s.names, numerical_gradient(penalty, tensors), _gradient(got, tensors), strict=True):
        yield Comparison(f"gradient penalty{note} by {name}", e, g, FINITE_DIFFERENCES)


def forward_over_backward(s: Subject) -> Iterator[Comparison]:
    """The gradients' change along each input, in forward mode, is that of finite differences."""
    upstream = s.upstream()
    for i, direction in enumerate(s.directions()):
        tensors = s.tensors()
        expected = numerical_derivative(lambda *t: s.gradients(t, upstream), tensors, {i: direction})
        got = jvp(lambda *t: s.gradients(t, upstream, create_graph=True), tensors, {i: direction})
        yield from s.gradients_agree(expected, got, FINITE_DIFFERENCES, f", along {s.names[i]}")


def backward_over_forward(s: Subject) -> Iterator[Comparison]:
    """The gradients of the outputs' forward-mode change are those of finite differences."""
    upstream, directions = s.upstream(), dict(enumerate(s.directions()))

    def change(*tensors: Tensor) -> Tensor:
        return dot(jvp(s.function, tensors, directions), upstream)

    tensors = s.tensors()
    expected = numerical_gradient(change, tensors)
    yield from s.gradients_agree(expected, _gradient(change(*tensors), tensors), FINITE_DIFFERENCES)


CHECKS = [double_backward, gradient_penalty, forward_over_backward, backward_over_forward]


def _gradient(scalar: Tensor, tensors: Tensors) -> list[Tensor]:
    """What ``scalar.backward()`` leaves in ``.grad``: unlike torch.autograd.grad it runs into @once_differentiable's error."""
    if scalar.requires_grad:
        scalar.backward()
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
