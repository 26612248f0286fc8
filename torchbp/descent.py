"""The text's iteration, equations 2.1 to 3.2g, in place: no autograd graph, and no tensor made that was there before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp.nn import BPNetwork, SigmoidLinear

__all__ = ["Descent"]


def _sigmoid_cross_entropy(z: Tensor, a: Tensor, dz: Tensor, y: Tensor) -> Tensor:
    eq.sigmoid_(a, z)  # 2.4
    eq.output_error_(dz, a, y)  # 3.2c
    return eq.cross_entropy_of_weighted_input(z, y).mean()  # 3.1c


def _sigmoid_squared_error(z: Tensor, a: Tensor, dz: Tensor, y: Tensor) -> Tensor:
    eq.sigmoid_(a, z)  # 2.4
    eq.squared_error_derivative_(dz, a, y)
    eq.sigmoid_error_(dz, dz, a)  # 3.2b
    return eq.squared_error(a, y).mean()  # 3.1a


def _linear_squared_error(z: Tensor, a: Tensor, dz: Tensor, y: Tensor) -> Tensor:
    eq.squared_error_derivative_(dz, z, y)
    return eq.squared_error(z, y).mean()  # 3.1a


# The end of the forward pass and the start of the backward one: writes the prediction A and the error dZ, returns the cost.
_OUTPUTS: dict[tuple[str, str], Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    ("cross_entropy", "sigmoid"): _sigmoid_cross_entropy,
    ("squared_error", "sigmoid"): _sigmoid_squared_error,
    ("squared_error", "linear"): _linear_squared_error,
}


# A layer of this many units or more is carried back in two halves, so that dA is never larger than half of it.
_WIDE = 1024


@dataclass(frozen=True, slots=True)
class _Views:
    """All that a step on batches of one size writes to: the workspace's first rows, and the parameters."""

    hidden: list[tuple[Tensor, Tensor, Tensor]]  # A, Wᵀ, b of each hidden layer, upwards
    last: tuple[Tensor, Tensor]  # Wᵀ, b of the last layer
    output: tuple[Tensor, Tensor, Tensor]  # its Z, A, dZ
    upper: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]  # W, dZ, dZᵀ, A and dA of the layer below; downwards
    first: tuple[Tensor, Tensor]  # W, dZᵀ of the first layer
    biases: list[tuple[Tensor, Tensor]]  # b, dZᵀ of every layer
    ones: Tensor
    count: int  # m, the number of costs whose mean the cost is


class Descent:
    """Gradient descent on a network: each :meth:`step` is one full iteration of the text.

    A step equals ``torch.optim.SGD``'s on the gradient of the mean cost, at a fraction of the overhead and with no gradient
    in memory: dW = dZᵀ A is subtracted from W as it is made, and dZ is written over A. Beyond the parameters there are one
    activation a layer and another of the widest (half of it from 1024 units on), kept from step to step for the largest batch
    so far; smaller batches use their first rows.

    Args:
        network: every parameter is updated. Parameters may be changed in place, loaded or moved (``network.to``) between
            steps; one that is replaced by another Parameter object needs a new Descent.
        cost: ``'cross_entropy'`` (equation 3.1c, for sigmoid outputs) or ``'squared_error'`` (3.1a), means over all elements.
        lr: the learning rate α; the attribute ``lr`` may be set between steps.

    Raises:
        ValueError: a ``cost`` that is not one of these or does not go with the network's output, or an ``lr`` below zero.

    Nothing in a step waits for a CUDA device or depends on values, so that ``torch.cuda.graph`` can capture it, after one
    step of the same shapes outside the graph. A captured graph keeps the ``lr`` it was captured with, and needs a capture
    anew once a larger batch has been seen or the parameters have moved.

    >>> network = BPNetwork([2, 3, 1])
    >>> x, y = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    >>> descent = Descent(network, lr=2.0)
    >>> for _ in range(1000):
    ...     cost = descent.step(x, y)
    >>> descent.prediction.round().flatten()
    tensor([0., 1., 1., 0.])
    """

    def __init__(
        self, network: BPNetwork, cost: Literal["cross_entropy", "squared_error"] = "cross_entropy", lr: float = 0.1
    ) -> None:
        output = "sigmoid" if isinstance(network.layers[-1], SigmoidLinear) else "linear"
        if (cost, output) not in _OUTPUTS:
            allowed = " or ".join(repr(c) for c, o in _OUTPUTS if o == output)
            raise ValueError(f"cost is {cost!r}; for a network with {output} outputs it must be {allowed}")
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; it must be 0 or more")
        self.lr = lr
        self._output = _OUTPUTS[cost, output]
        self._output_has_activation = output == "sigmoid"
        self._layers: list[torch.nn.Linear] = list(network.layers)  # type: ignore[arg-type]
        self._parameters = [parameter for layer in self._layers for parameter in (layer.weight, layer.bias)]
        self._bind()

    def step(self, x: Tensor, y: Tensor, keep_gradients: bool = False) -> Tensor:
        """One iteration on a batch; an empty batch changes nothing.

        Args:
            x: (B, n0), of the network's type and on its device, and without a graph.
            y: (B, nL), within [0, 1] for cross-entropy.
            keep_gradients: leave each ∂L/∂W and ∂L/∂b in the parameters' ``.grad``, as autograd would; else that is untouched.

        Returns:
            The batch's cost before the update, a scalar tensor (NaN for an empty batch).

        Raises:
            ValueError: shapes that do not fit.
        """
        views = self._views_for(x, y)
        ones, m = views.ones, views.count
        alpha = self.lr / m

        a_below = x
        for a, Wt, b in views.hidden:
            eq.weighted_input_(a, a_below, Wt, b)  # 2.1
            a_below = eq.sigmoid_(a, a)  # 2.2
        z, a, dz = self._last = views.output
        eq.weighted_input_(z, a_below, *views.last)  # 2.3
        cost = self._output(z, a, dz, y)  # 2.4, 3.1, 3.2c

        if keep_gradients:
            self._keep_gradients(x, views)

        for W, dz, dzt, a, da in views.upper:
            eq.activation_gradient_(da, dz, W)  # 3.2e: by W as it is before its own update
            eq.descend_weight_(W, dzt, a, alpha)  # 3.2d, 3.2g
            eq.sigmoid_error_(a, da, a)  # 3.2e: A was needed for the last time, dZ takes its place
        W, dzt = views.first
        eq.descend_weight_(W, dzt, x, alpha)  # 3.2f, 3.2g
        for b, dzt in views.biases:
            eq.descend_bias_(b, dzt, ones, alpha)  # 3.2d, 3.2f, 3.2g
        return cost

    @property
    def weighted_input(self) -> Tensor:
        """Last layer's Z of the latest step, (B, nL), as it was before the update; the next step overwrites it."""
        return self._last[0]

    @property
    def prediction(self) -> Tensor:
        """Last layer's activation of the latest step, (B, nL), as it was before the update; the next step overwrites it."""
        return self._last[1]

    def _views_for(self, x: Tensor, y: Tensor) -> _Views:
        if [parameter.data_ptr() for parameter in self._parameters] != self._addresses:
            self._bind()
        return self._views.get((x.shape, y.shape)) or self._make_views(x, y)

    def _bind(self) -> None:
        """Take hold of the parameters' memory, afresh where it has moved."""
        self._addresses = [parameter.data_ptr() for parameter in self._parameters]
        # Detached, they are the same memory without what autograd does at every use.
        self._W = [layer.weight.detach() for layer in self._layers]
        self._b = [layer.bias.detach() for layer in self._layers]
        self._views: dict[tuple[torch.Size, torch.Size], _Views] = {}
        self._reserve(0)

    def _reserve(self, rows: int) -> None:
        """Make the workspace, for batches of up to so many rows."""
        *hidden, n_out = [len(b) for b in self._b]
        new = self._b[0].new_empty
        self._rows = rows
        self._views.clear()
        self._A = [new(rows, n) for n in hidden]
        self._dA = new(rows * max((n - n // 2 if n >= _WIDE else n for n in hidden), default=0))
        self._Z, self._dZ = new(rows, n_out), new(rows, n_out)
        self._prediction = torch.empty_like(self._Z) if self._output_has_activation else self._Z
        self._ones = self._b[0].new_ones(rows)
        self._last = self._Z, self._prediction, self._dZ

    def _make_views(self, x: Tensor, y: Tensor) -> _Views:
        key, n_in, n_out = (x.shape, y.shape), self._W[0].shape[1], len(self._b[-1])
        if x.dim() != 2 or x.shape[1] != n_in or y.shape != (len(x), n_out):
            raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be (B, {n_in}) and (B, {n_out})")
        rows = len(x)
        if rows > self._rows:
            self._reserve(rows)
        A = [a[:rows] for a in self._A]
        dZ = [*A, self._dZ[:rows]]
        dZt = [dz.t() for dz in dZ]
        Wt = [W.t() for W in self._W]
        # Columns of W, A and dA go together: each half of a wide layer has an iteration of its own.
        upper = [
            (W_part, dz, dzt, a_part, self._dA[: a_part.numel()].view(a_part.shape))
            for W, dz, dzt, a in zip(self._W[1:], dZ[1:], dZt[1:], A, strict=True)
            for W_part, a_part in zip(_parts(W), _parts(a), strict=True)
        ]
        views = _Views(
            hidden=list(zip(A, Wt, self._b, strict=False)),
            last=(Wt[-1], self._b[-1]),
            output=(self._Z[:rows], self._prediction[:rows], dZ[-1]),
            upper=upper[::-1],
            first=(self._W[0], dZt[0]),
            biases=list(zip(self._b, dZt, strict=True)),
            ones=self._ones[:rows],
            count=max(y.numel(), 1),
        )
        self._views[key] = views
        return views

    def _keep_gradients(self, x: Tensor, views: _Views) -> None:
        dz = views.output[2]
        A = [x, *(a for a, _, _ in views.hidden)]
        for layer, W, a in zip(self._layers[::-1], self._W[::-1], A[::-1], strict=True):
            layer.weight.grad = eq.weight_gradient(dz, a) / views.count  # 3.2d, 3.2f
            layer.bias.grad = eq.bias_gradient(dz) / views.count
            if a is not x:
                dz = eq.hidden_error(dz, W, a)  # 3.2e


def _parts(t: Tensor) -> tuple[Tensor, ...]:
    """The columns of a wide layer as two halves, the larger one first; those of a narrow one whole."""
    return t.chunk(2, 1) if t.shape[1] >= _WIDE else (t,)
