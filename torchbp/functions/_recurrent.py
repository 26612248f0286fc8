"""A recurrent (Elman) layer over a whole sequence: equation 5.1 forward, 5.2 and 5.3 backward; one Function for each entry."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import _pytorch
from torchbp import equations as eq
from torchbp.activations import Activation
from torchbp.functions._base import BPFunction, as_rows
from torchbp.recurrence import errors, from_states, states


def recurrent_function(g: Activation) -> type[BPFunction]:
    """The Function A of (X, A_0, Wi, Wh, bi, bh, padded, θ...): all states of a layer with an entry's activation.

    X is (T, B, n), A_0 (B, m) or None for zeros, Wi (m, n), Wh (m, m), bi and bh (m) or None. ``padded`` is (T, B, 1), true
    where a sequence has ended and its state is 0, or None. θ are (C, 1) or (C, m) each. The result is (T, B, m).

    Z is not saved. If the slope needs Z, backward computes it again, one product for all t, and second derivatives follow.
    """
    # Plain functions: Dynamo cannot follow a dataclass into a backward.
    value, slope, error, keeps_a = g.value, g.slope, g.error, g.keeps == "a"
    parameter_gradients, tangents = ([getattr(p, name) for p in g.parameters.values()] for name in ("gradient", "tangent"))

    class Recurrent(BPFunction):
        @staticmethod
        def forward(
            x: Tensor,
            h: Tensor | None,
            Wi: Tensor,
            Wh: Tensor,
            bi: Tensor | None,
            bh: Tensor | None,
            padded: Tensor | None,
            *theta: Tensor,
        ) -> Tensor:
            z = from_input(x, Wi, bi, bh)
            steps, over = z.unbind(0), _pytorch.may_write(z)
            a = states(steps, h, Wh.mT, value, theta, _steps(padded), steps if over else None)
            return z if over else torch.stack(a)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(output, *inputs)
            ctx.save_for_forward(output, *inputs)

        @staticmethod
        def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
            a, x, h, Wi, Wh, bi, bh, padded, *theta = ctx.saved_tensors
            needs_x, needs_h, needs_Wi, needs_Wh, needs_bi, needs_bh, _, *needs = ctx.needs_input_grad
            kept = a if keeps_a else _weighted_input(a, x, h, Wi, Wh, bi, bh)
            if padded is not None:
                da = da.masked_fill(padded, 0)
            if _pytorch.may_write(da):
                da = da.clone(memory_format=torch.contiguous_format) if padded is None else da.contiguous()
                steps = da.unbind(0)
                dz = torch.empty_like(da) if any(needs) else da
                errors(steps, kept.unbind(0), Wh, error, theta, steps if dz is da else dz.unbind(0))
            else:
                da, dz = map(torch.stack, errors(da.unbind(0), kept.unbind(0), Wh, error, theta))
            rows = as_rows(dz)
            db = eq.bias_gradient(rows) if needs_bi or needs_bh else None  # 5.3
            return (
                eq.activation_gradient(rows, Wi).view(x.shape) if needs_x else None,
                eq.activation_gradient(dz[0], Wh) if needs_h else None,
                eq.weight_gradient(rows.mT, as_rows(x)) if needs_Wi else None,  # 5.3
                eq.recurrent_weight_gradient(dz, a, h) if needs_Wh else None,  # 5.3
                db if needs_bi else None,
                db if needs_bh else None,
                None,
                *(
                    gradient(as_rows(da), as_rows(kept), *theta).sum_to_size(t.shape) if needed else None  # 4.1
                    for gradient, t, needed in zip(parameter_gradients, theta, needs, strict=True)
                ),
            )

        @staticmethod
        def jvp(
            ctx: Any,
            dx: Tensor,
            dh: Tensor | None,
            dWi: Tensor,
            dWh: Tensor,
            dbi: Tensor | None,
            dbh: Tensor | None,
            _: None,
            *dtheta: Tensor,
        ) -> Tensor:
            a, x, h, Wi, Wh, bi, bh, padded, *theta = ctx.saved_tensors
            kept = a if keeps_a else _weighted_input(a, x, h, Wi, Wh, bi, bh)
            # The product rule: the changes of Z_t that do not come through A_{t-1}, and of A_t that do not come through Z_t.
            dz = from_input(dx, Wi, dbi, dbh) + from_input(x, dWi) + from_states(a, h, dWh.mT)
            slopes = iter(slope(as_rows(kept), *theta).view(a.shape).unbind(0))
            owns: Iterator[Any] = itertools.repeat(0)
            if dtheta:
                own = torch.stack([f(change, as_rows(kept), *theta) for f, change in zip(tangents, dtheta, strict=True)])
                owns = iter(own.sum(0).view(a.shape).unbind(0))

            def value(dzt: Tensor, out: None) -> Tensor:
                return dzt * next(slopes) + next(owns)

            return torch.stack(states(dz.unbind(0), dh, Wh.mT, value, (), _steps(padded)))

    Recurrent.__name__ = Recurrent.__qualname__ = "Recurrent" + "".join(word.title() for word in g.name.split("_"))
    return Recurrent


def from_input(x: Tensor, Wi: Tensor, bi: Tensor | None = None, bh: Tensor | None = None) -> Tensor:
    """X_t Wiᵀ + bi + bh for all t: (T, B, n) -> (T, B, m). Equation 2.1, in 5.1."""
    b = bi if bh is None else bh if bi is None else bi + bh
    return eq.weighted_input(as_rows(x), Wi.mT, b).view(*x.shape[:-1], Wi.shape[0])


def _weighted_input(
    a: Tensor, x: Tensor, h: Tensor | None, Wi: Tensor, Wh: Tensor, bi: Tensor | None, bh: Tensor | None
) -> Tensor:
    """Z for all t from the states. Equation 5.1."""
    return from_input(x, Wi, bi, bh) + from_states(a, h, Wh.mT)


def _steps(padded: Tensor | None) -> Sequence[Tensor] | None:
    return None if padded is None else padded.unbind(0)
