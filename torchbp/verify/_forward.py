"""Checks of the first derivative in forward mode."""

from collections.abc import Callable, Iterator

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from torchbp.verify._differences import FINITE_DIFFERENCES, Tensors
from torchbp.verify._outcome import Comparison
from torchbp.verify._subject import Subject


def forward_mode(s: Subject) -> Iterator[Comparison]:
    """The outputs' tangents along each input, and along all inputs, agree with finite differences."""
    tensors, directions = s.tensors(), dict(enumerate(s.directions()))
    cases = [(f", along {name}", {i: directions[i]}) for i, name in enumerate(s.names)]
    for note, along in [*cases, (", along all inputs", directions)]:
        expected = s.true_change(tensors, along)
        yield from s.outputs_agree(expected, jvp(s.function, tensors, along), FINITE_DIFFERENCES, note)


CHECKS = [forward_mode]


def jvp(function: Callable[..., Tensors], tensors: Tensors, directions: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """The outputs' tangents for the tangent ``directions[i]`` of tensor i; zeros for an output without one."""
    with fwAD.dual_level():
        # Copies: a jvp may write into the tangent that it gets.
        duals = [fwAD.make_dual(t, directions[i].clone()) if i in directions else t for i, t in enumerate(tensors)]
        unpacked = [fwAD.unpack_dual(output) for output in function(*duals)]
        return tuple(torch.zeros_like(u.primal) if u.tangent is None else u.tangent for u in unpacked)
