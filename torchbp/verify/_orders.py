"""Checks of the second and third derivative, in every order of reverse and forward mode."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from torchbp.verify._differences import FINITE_DIFFERENCES, Tensors, dot, moved, numerical_derivative, numerical_gradient
from torchbp.verify._forward import jvp
from torchbp.verify._outcome import Comparison
from torchbp.verify._subject import Subject, gradients

Scalar = Callable[..., Tensor]


def double_backward(s: Subject) -> Iterator[Comparison]:
    """The gradients of the gradients, by inputs and by upstream gradients, agree with finite differences."""
    weights = s.directions()

    def weighted(*all_tensors: Tensor, **options: bool) -> Tensor:
        tensors, upstream = all_tensors[: len(weights)], all_tensors[len(weights) :]
        return dot(s.gradients(tensors, upstream, **options), weights)

    tensors = (*s.tensors(), *(v.requires_grad_() for v in s.upstream()))
    expected = numerical_gradient(weighted, tensors)
    got = _gradient(weighted(*tensors, create_graph=True), tensors)
    names = [*s.names, *(f"the upstream gradient of output {i}" for i in s.output_positions)]
    for name, e, g in zip(names, expected, got, strict=True):
        yield s.compare(f"second derivative by {name}", e, g, FINITE_DIFFERENCES)


def gradient_penalty(s: Subject) -> Iterator[Comparison]:
    """The gradient of a penalty Σ |∂(Σ outputs)/∂input|² agrees with finite differences, and does not silently vanish."""
    upstream = [torch.ones_like(v) for v in s.upstream()]

    def penalty(*tensors: Tensor, **options: bool) -> Tensor:
        gradient = s.gradients(tensors, upstream, **options)
        return dot(gradient, gradient)

    tensors = s.tensors()
    got = penalty(*tensors, create_graph=True)
    note = "" if got.requires_grad else ", which silently vanishes,"
    for name, e, g in zip(s.names, numerical_gradient(penalty, tensors), _gradient(got, tensors), strict=True):
        yield s.compare(f"gradient penalty{note} by {name}", e, g, FINITE_DIFFERENCES)


def forward_over_backward(s: Subject) -> Iterator[Comparison]:
    """The gradients' tangents along each input agree with finite differences."""
    upstream = s.upstream()
    for i, direction in enumerate(s.directions()):
        tensors = s.tensors()
        expected = numerical_derivative(lambda *t: s.gradients(t, upstream), tensors, {i: direction})
        got = jvp(lambda *t: s.gradients(t, upstream, create_graph=True), tensors, {i: direction})
        yield from s.gradients_agree(expected, got, FINITE_DIFFERENCES, f", along {s.names[i]}")


def backward_over_forward(s: Subject) -> Iterator[Comparison]:
    """The gradients of the outputs' tangents agree with finite differences."""
    upstream, directions = s.upstream(), dict(enumerate(s.directions()))

    def change(*tensors: Tensor) -> Tensor:
        return dot(jvp(s.function, tensors, directions), upstream)

    tensors = s.tensors()
    expected = numerical_gradient(change, tensors)
    yield from s.gradients_agree(expected, _gradient(change(*tensors), tensors), FINITE_DIFFERENCES)


def forward_over_forward(s: Subject) -> Iterator[Comparison]:
    """torch.func.jvp of torch.func.jvp (as in jacfwd of jacfwd) gives the second derivative along a direction in each input."""
    directions = s.directions()
    for i, name in enumerate(s.names):
        along = [d if i == k else torch.zeros_like(d) for k, d in enumerate(directions)]
        what = f"second derivative along {name}, forward over forward"
        yield s.compare(what, _second(s, along), _mixed(s, "FF", along), FINITE_DIFFERENCES)


def reverse_to_order_3(s: Subject) -> Iterator[Comparison]:
    """Backward through the graph of the second derivative gives the third derivative."""
    directions = _unit(s.directions())
    tensors, upstream = s.tensors(), s.upstream()
    derivative = dot(s.gradients(tensors, upstream, create_graph=True), directions)
    for _ in range(2):
        derived = gradients((derivative,), tensors, (torch.ones_like(derivative),), create_graph=True)
        derivative = dot(derived, directions)
    yield s.compare("third derivative along all inputs", _third(s, directions), derivative, FINITE_DIFFERENCES)


def mixes_to_order_3(s: Subject) -> Iterator[Comparison]:
    """Every combination of torch.func's forward and reverse mode gives the third derivative of finite differences."""
    directions = _unit(s.directions())
    expected = _third(s, directions)
    for mix in sorted(product("RF", repeat=3), key=lambda mix: mix.count("F")):
        words = " over ".join({"F": "forward", "R": "reverse"}[mode] for mode in mix)
        yield s.compare(f"third derivative, {words}", expected, _mixed(s, "".join(mix), directions), FINITE_DIFFERENCES)


CHECKS = [
    double_backward,
    gradient_penalty,
    forward_over_backward,
    backward_over_forward,
    forward_over_forward,
    reverse_to_order_3,
    mixes_to_order_3,
]


def _gradient(scalar: Tensor, tensors: Tensors) -> list[Tensor]:
    """The gradients that ``scalar.backward()`` writes to ``.grad``; only backward() raises @once_differentiable's error."""
    if scalar.requires_grad:
        scalar.backward()
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]


def _second(s: Subject, directions: Tensors) -> Tensor:
    """The second derivative of Σ upstream·output along the directions, as a difference of the function's gradients."""
    upstream = s.upstream()
    changes = numerical_derivative(lambda *t: s.gradients(t, upstream), s.tensors(), dict(enumerate(directions)))
    return dot(changes, directions)


def _third(s: Subject, directions: Tensors, step: float = 1e-4) -> Tensor:
    """The third derivative of Σ upstream·output along the directions, as a second difference of the function's gradients."""
    upstream, along = s.upstream(), dict(enumerate(directions))
    high, here, low = (
        dot(moved(lambda *t: s.gradients(t, upstream), s.tensors(), along, size), directions) for size in (step, 0.0, -step)
    )
    return (high - 2 * here + low) / step**2


def _unit(directions: Tensors) -> tuple[Tensor, ...]:
    """The directions, scaled to a total length of 1."""
    length = dot(directions, directions).sqrt()
    return tuple(d / length for d in directions)


def _mixed(s: Subject, mix: str, directions: Tensors) -> Tensor:
    """The nested derivatives of Σ upstream·output along the directions: F forward, R reverse, the innermost mode last."""
    upstream, directions = s.upstream(), tuple(directions)
    every = tuple(range(len(directions)))

    def forward(f: Scalar) -> Scalar:
        return lambda *t: torch.func.jvp(f, t, directions)[1]

    def reverse(f: Scalar) -> Scalar:
        return lambda *t: dot(torch.func.grad(f, argnums=every)(*t), directions)

    derivative: Scalar = lambda *t: dot(s.function(*t), upstream)  # noqa: E731
    for mode in reversed(mix):
        derivative = (forward if mode == "F" else reverse)(derivative)
    return derivative(*(t.detach() for t in s.tensors()))
