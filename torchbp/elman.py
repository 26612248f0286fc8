"""A recurrent (Elman) layer of an iteration, beside :class:`torchbp.iteration.Dense`: equations 5.1 to 5.3.

The network reads sequences (B, T, n0), NaN in every channel after their end. Recurrent layers pass on every state, (T, B, m), 0
after the end; the last one passes on the states that the layer above it sees, as rows.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.activations import Activation
from torchbp.recurrence import errors, from_states, lengths_of, padding, pooled, pooled_gradient, reverse, states

__all__ = ["Bidirectional", "Elman", "Padding"]


class Padding:
    """The ends of a batch's sequences: found by the first layer, and shared by all layers.

    Attributes:
        lengths: (B); None if all sequences have T steps.
        ended: (T, B, 1), true after the end; None if all sequences have T steps.
    """

    lengths: Tensor | None = None
    ended: Tensor | None = None

    def read(self, x: Tensor) -> Tensor:
        """Find the ends of sequences (B, T, n); returns them as (T, B, n), with 0 after their end."""
        self.lengths = lengths_of(x)
        x = x.transpose(0, 1)
        if self.lengths is None:
            self.ended = None
            return x
        self.ended = padding(self.lengths, x.shape[0])
        return x.masked_fill(self.ended, 0)


class Elman:
    """One direction of a recurrent layer, Z_t = X_t Wiᵀ + bi + A_{t-1} Whᵀ + bh and A_t = g(Z_t; θ).

    Args:
        g: the activation.
        slot: the index of Wi in the network's parameters; Wh, bi, bh and θ follow.
        Wi, Wh, bi, bh, theta: the parameters.
        padding: the ends of the batch's sequences.
        first: whether the layer's input is the sequences themselves.
        pooling: what the layer above sees. None: every state, (T, B, m), for another recurrent layer; ``last``: the last
            state read, (B, m); ``mean``: the mean of a sequence's states, (B, m); ``each``: every state, (B T, m).

    Attributes:
        backwards: whether each sequence is read from its end to its start.
        h: the states before the first step, (B, m); None for zeros.
        x, z, a: the layer's input as rows (T B, n), and its weighted input and states (T, B, m), in the order of reading; z and
            a may be the same tensor.
        reuses: whether results may overwrite tensors that are no longer needed; False if autograd records the pass.
        z_memory, a_memory, dz_memory: memory for z, a and dZ, (T, B, m); None to allocate it.
    """

    backwards = reuses = False
    h: Tensor | None = None
    z_memory: Tensor | None = None
    a_memory: Tensor | None = None
    dz_memory: Tensor | None = None

    def __init__(
        self,
        g: Activation,
        slot: int,
        Wi: Tensor,
        Wh: Tensor,
        bi: Tensor,
        bh: Tensor,
        *theta: Tensor,
        padding: Padding,
        first: bool,
        pooling: str | None,
    ) -> None:
        self.g, self.slot, self.Wi, self.Wh, self.bi, self.bh, self.theta = g, slot, Wi, Wh, bi, bh, theta
        self.Wit, self.Wht = Wi.mT, Wh.mT
        self.padding, self.first, self.pooling = padding, first, pooling

    def reserve(self, steps: int, sequences: int) -> None:
        """Allocate memory for batches of this size, and make views of every step, once for many iterations."""
        m = len(self.Wh)
        self.z_memory, self.dz_memory = (self.Wh.new_empty(steps, sequences, m) for _ in range(2))
        self.a_memory = self.z_memory if self.g.keeps == "a" else torch.empty_like(self.z_memory)
        views: dict[int, Sequence[Tensor]] = {id(t): t.unbind(0) for t in (self.z_memory, self.a_memory, self.dz_memory)}
        self._steps_of = lambda t: views.get(id(t)) or t.unbind(0)

    _steps_of: Callable[[Tensor], Sequence[Tensor]] = staticmethod(lambda t: t.unbind(0))

    def weigh(self, x: Tensor) -> Tensor:
        """The input's part of Z_t, X_t Wiᵀ + bi + bh: one product for all t. Equation 2.1, in 5.1."""
        if self.first:
            x = self.padding.read(x)
        if self.backwards:
            x = reverse(x, self.padding.lengths)
        self.x = x.reshape(-1, x.shape[-1])
        out = None if self.z_memory is None else self.z_memory.view(-1, len(self.bi))
        z = eq.weighted_input(self.x, self.Wit, self.bi + self.bh, out=out)
        self.z = z.view(*x.shape[:2], -1) if self.z_memory is None else self.z_memory
        return self.z

    def activate(self) -> Tensor:
        """Every A_t, written over z if backward needs only a; returns what the layer above sees. Equation 5.1."""
        z, ended = self.z, self.padding.ended
        steps, into = self._steps_of(z), None
        if self.reuses:
            self.a = z if self.g.keeps == "a" else torch.empty_like(z) if self.a_memory is None else self.a_memory
            into = self._steps_of(self.a)
        a = self.pass_on(steps, None if ended is None else ended.unbind(0), into)
        if into is None:
            self.a = torch.stack(a)
        return self._pooled(self.a)

    def pass_on(self, z: Sequence[Tensor], ended: Sequence[Tensor] | None, into: Sequence[Tensor] | None) -> list[Tensor]:
        """The pass forward through time. Equation 5.1."""
        return states(z, self.h, self.Wht, self.g.value, self.theta, ended, into)

    def _pooled(self, a: Tensor) -> Tensor:
        lengths = self.padding.lengths
        if self.pooling in ("last", "mean"):
            return pooled(a, lengths, self.pooling)
        a = reverse(a, lengths) if self.backwards else a
        return a if self.pooling is None else a.transpose(0, 1).reshape(-1, a.shape[-1])

    def error(self, da: Tensor, sink: Any) -> Tensor:
        """dZ_t for all t, (T, B, m), and the gradients of θ. Equations 5.2 and 4.1."""
        g, kept = self.g, self.a if self.g.keeps == "a" else self.z
        if g.keeps == "z" and not self.reuses:  # self.z has only the input's part of Z_t
            kept = kept + from_states(self.a, self.h, self.Wht)
        da = self._unpooled(da)
        if self.reuses:
            dz = torch.empty_like(da) if self.theta else da
            self.pass_back(self._steps_of(da), self._steps_of(kept), self._steps_of(dz))
        else:
            da, dz = map(torch.stack, self.pass_back(da.unbind(0), kept.unbind(0), None))
        del self.z
        gradients = [
            (slot, parameter.gradient(_rows(da), _rows(kept), *self.theta).sum_to_size(theta.shape))  # 4.1
            for slot, theta, parameter in zip(itertools.count(self.slot + 4), self.theta, g.parameters.values(), strict=False)
            if sink.wants(slot)
        ]
        for slot, gradient in gradients:
            sink.other(slot, gradient)
        return dz

    def pass_back(
        self, da: Sequence[Tensor], kept: Sequence[Tensor], out: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The pass back through time: dA_t and dZ_t for all t. Equation 5.2."""
        return errors(da, kept, self.Wh, self.g.error, self.theta, out)

    def _unpooled(self, da: Tensor) -> Tensor:
        """The gradient from above for each A_t, (T, B, m), in the order of reading."""
        lengths, ended, steps = self.padding.lengths, self.padding.ended, len(self.a)
        if self.pooling in ("last", "mean"):
            da = pooled_gradient(da, steps, lengths, self.pooling, out=self.dz_memory)
        else:
            if self.pooling == "each":
                da = da.view(-1, steps, da.shape[-1]).transpose(0, 1)
            da = (reverse(da, lengths) if self.backwards else da).contiguous()
        if ended is None:
            return da
        return da.masked_fill_(ended, 0) if self.reuses else da.masked_fill(ended, 0)

    def carry(self, dz: Tensor) -> Tensor:
        """The gradient of the layer's input, dZ_t Wi for all t. In equation 3.2e."""
        dx = eq.activation_gradient(_rows(dz), self.Wi).view(*dz.shape[:2], -1)
        dx = reverse(dx, self.padding.lengths) if self.backwards else dx
        return dx.transpose(0, 1) if self.first else dx

    def give(self, dz: Tensor, sink: Any) -> None:
        """Pass the gradients of Wi, Wh, bi and bh to the sink, each one product for all t. Equation 5.3."""
        rows = _rows(dz)
        rows_t = rows.mT
        sink.product(self.slot, rows_t, self.x)
        after, before = eq.recurrent_rows(dz, self.a, self.h)
        sink.product(self.slot + 1, after.mT, before)
        sink.rows(self.slot + 2, rows, rows_t)
        sink.rows(self.slot + 3, rows, rows_t)
        del self.x, self.a  # no longer needed


class Bidirectional:
    """A recurrent layer that reads in both directions; it concatenates what each direction passes on."""

    def __init__(self, forwards: Elman, backwards: Elman) -> None:
        self.forwards, self.backwards = forwards, backwards
        self.slot, self.g = forwards.slot, forwards.g

    @property
    def directions(self) -> tuple[Elman, Elman]:
        return self.forwards, self.backwards

    def weigh(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.forwards.weigh(x), self.backwards.weigh(x)

    def activate(self) -> Tensor:
        return torch.cat([layer.activate() for layer in self.directions], -1)

    def error(self, da: Tensor, sink: Any) -> tuple[Tensor, Tensor]:
        of_each = da.chunk(2, -1)
        return self.forwards.error(of_each[0], sink), self.backwards.error(of_each[1], sink)

    def carry(self, dz: tuple[Tensor, Tensor]) -> Tensor:
        return self.forwards.carry(dz[0]) + self.backwards.carry(dz[1])

    def give(self, dz: tuple[Tensor, Tensor], sink: Any) -> None:
        for layer, own in zip(self.directions, dz, strict=True):
            layer.give(own, sink)


def _rows(t: Tensor) -> Tensor:
    return t.reshape(-1, t.shape[-1])
