"""The text's iteration, equations 2.1 to 3.2g, in place: no autograd graph, and no tensor made that was there before."""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp._workspace import Views, Workspace
from torchbp.functions import positives_weighted
from torchbp.nn import BPNetwork, SigmoidLinear

__all__ = ["Descent"]


class _Output(NamedTuple):
    """What a cost makes of the last layer's activation A: the error, written to dZ, and each element's cost."""

    error_: Callable[[Tensor, Tensor, Tensor], Tensor]  # dZ, A, Y
    cost: Callable[[Tensor, Tensor, Tensor], Tensor]  # Z, A, Y


def _sigmoid_squared_error_(dz: Tensor, a: Tensor, y: Tensor) -> Tensor:
    return eq.sigmoid_error_(dz, eq.squared_error_derivative_(dz, a, y), a)  # 3.1a, 3.2b


_OUTPUTS = {
    ("cross_entropy", "sigmoid"): _Output(
        eq.output_error_,  # 3.2c
        lambda z, a, y: eq.cross_entropy_of_weighted_input(z, y),  # 3.1c
    ),
    ("squared_error", "sigmoid"): _Output(_sigmoid_squared_error_, lambda z, a, y: eq.squared_error(a, y)),  # 3.1a
    ("squared_error", "linear"): _Output(eq.squared_error_derivative_, lambda z, a, y: eq.squared_error(a, y)),  # 3.1a
}


class _Graph:
    """One iteration on batches of one size, as a CUDA graph on memory of its own."""

    def __init__(
        self, iterate: Callable[..., None], x: Tensor, y: Tensor, weight: Tensor | None, z: Tensor, activation: bool
    ) -> None:
        self.x, self.y, self.z = torch.empty_like(x), torch.empty_like(y), torch.empty_like(z)
        self.weight = None if weight is None else torch.empty_like(weight)
        self.a = torch.empty_like(z) if activation else self.z
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            iterate(self.x, self.y, self.weight, self.z, self.a)

    def replay(self, x: Tensor, y: Tensor, weight: Tensor | None, z: Tensor, a: Tensor) -> None:
        self.x.copy_(x)
        self.y.copy_(y)
        if self.weight is not None:
            self.weight.copy_(weight)  # type: ignore[arg-type]
        self.graph.replay()
        z.copy_(self.z)
        a.copy_(self.a)


class Descent:
    """Gradient descent on a network: every :meth:`step` is one full iteration of the text.

    A step equals ``torch.optim.SGD``'s on the gradient of the mean cost, at a fraction of the overhead and with no gradient
    in memory: dW = dZᵀ A is subtracted from W as it is made, and dZ is written over A. Beyond the parameters there are one
    activation a layer and another of the widest (half of it from 1024 units on), kept from step to step for the largest batch
    so far; smaller batches use their first rows.

    Args:
        network: every parameter is updated. Parameters may be changed in place, loaded or moved (``network.to``) between
            steps; one that is replaced by another Parameter object needs a new Descent.
        cost: ``'cross_entropy'`` (equation 3.1c, for sigmoid outputs) or ``'squared_error'`` (3.1a), means over all elements.
        lr: the learning rate α; the attribute ``lr`` may be set between steps.
        reduce: called once a step with all gradients as one flat tensor, before the parameters are updated: makes it, in
            place, the mean over processes. Without it no gradient is made.
        cuda_graph: capture the second step on batches of a size as a CUDA graph and replay it from then on, until ``lr`` or the
            largest batch changes. Nothing in a step waits for the device or depends on values.
        pos_weight: multiplies the cost's term of the positive class, as in
            :func:`torchbp.functional.binary_cross_entropy_with_logits`; the attribute may be set between steps.

    Raises:
        ValueError: a ``cost`` that is not one of these or does not go with the network's output, an ``lr`` below zero, a
            ``cuda_graph`` of a network that is not on a CUDA device, or together with ``reduce``, a ``pos_weight`` of squared
            error.

    >>> network = BPNetwork([2, 3, 1])
    >>> x, y = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    >>> descent = Descent(network, lr=2.0)
    >>> for _ in range(1000):
    ...     cost = descent.step(x, y)
    >>> descent.prediction.round().flatten()
    tensor([0., 1., 1., 0.])
    """

    def __init__(
        self,
        network: BPNetwork,
        cost: Literal["cross_entropy", "squared_error"] = "cross_entropy",
        lr: float = 0.1,
        reduce: Callable[[Tensor], None] | None = None,
        cuda_graph: bool = False,
        pos_weight: Tensor | None = None,
    ) -> None:
        output = "sigmoid" if isinstance(network.layers[-1], SigmoidLinear) else "linear"
        if (cost, output) not in _OUTPUTS:
            allowed = " or ".join(repr(c) for c, o in _OUTPUTS if o == output)
            raise ValueError(f"cost is {cost!r}; for a network with {output} outputs it must be {allowed}")
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; it must be 0 or more")
        device = network.layers[0].weight.device
        if cuda_graph and (device.type != "cuda" or reduce is not None):
            raise ValueError(f"cuda_graph is True; it needs one process and a network on a CUDA device, here it is on {device}")
        if pos_weight is not None and cost != "cross_entropy":
            raise ValueError(f"pos_weight is given with cost {cost!r}; it is for 'cross_entropy' only")
        self.lr, self.pos_weight = lr, pos_weight
        self._reduce = reduce
        self._graphs: dict[int, _Graph | None] | None = {} if cuda_graph else None
        self._graphs_of = lr, pos_weight is None
        self._output = _OUTPUTS[cost, output]
        self._output_has_activation = output == "sigmoid"
        self._layers: list[torch.nn.Linear] = list(network.layers)  # type: ignore[arg-type]
        self._parameters = [parameter for layer in self._layers for parameter in (layer.weight, layer.bias)]
        self._bind()

    @property
    def prediction(self) -> Tensor:
        """The network's prediction for each row of the latest step or steps, (B, nL), as it was before that row's update."""
        return self._prediction

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
        costs = self.steps(x, y, max(len(x), 1), keep_gradients)
        return costs[0] if len(x) else x.new_tensor(float("nan"))

    def steps(
        self, x: Tensor, y: Tensor, batch_size: int, keep_gradients: bool = False, lrs: Iterable[float] | None = None
    ) -> Tensor:
        """One iteration after another, on each ``batch_size`` rows in turn; the last batch may be smaller.

        Args:
            x, y: the rows of all batches, as for :meth:`step`.
            batch_size: how many rows each iteration takes.
            keep_gradients: of the last iteration, as for :meth:`step`.
            lrs: each iteration's learning rate, in place of ``lr``.

        Returns:
            Each batch's cost before its update, (number of batches).

        Raises:
            ValueError: shapes that do not fit.
        """
        self._check(x, y)
        z = torch.empty_like(y, dtype=x.dtype)
        a = self._prediction = torch.empty_like(z) if self._output_has_activation else z
        if not len(x):
            return z.new_empty(0)
        weight = None
        if self.pos_weight is not None:
            weight, y = positives_weighted(y, self.pos_weight)
        weights = repeat(None) if weight is None else weight.split(batch_size)
        batches = list(zip(*(t.split(batch_size) for t in (x, y, z, a)), weights, strict=False))
        last = len(batches) - 1
        lrs = repeat(self.lr) if lrs is None else lrs
        for number, ((x_, y_, z_, a_, w_), lr) in enumerate(zip(batches, lrs, strict=False)):
            views = self._workspace.views.get(len(x_)) or self._views_of(len(x_))
            if self._reduce is not None or (keep_gradients and number == last):
                self._forward(x_, y_, w_, z_, a_, views)
                self._descend_by_gradients(x_, lr, views)
            elif self._graphs is None:
                self._forward(x_, y_, w_, z_, a_, views)
                self._descend(x_, lr / views.count, views)
            else:
                self._replay(x_, y_, w_, z_, a_, lr, views)
        cost = self._output.cost(z, a, y)  # 3.1
        return _batch_means(cost if weight is None else cost.mul_(weight), batch_size)

    def _forward(self, x: Tensor, y: Tensor, weight: Tensor | None, z: Tensor, a: Tensor, views: Views) -> None:
        """From x to the output's error."""
        a_below = x
        for a_hidden, Wt, b in views.hidden:
            eq.weighted_input_(a_hidden, a_below, Wt, b)  # 2.1
            a_below = eq.sigmoid_(a_hidden, a_hidden)  # 2.2
        eq.weighted_input_(z, a_below, *views.last)  # 2.3
        if self._output_has_activation:
            eq.sigmoid_(a, z)  # 2.4
        self._output.error_(views.error, a, y)  # 3.2c
        if weight is not None:
            views.error.mul_(weight)

    def _descend(self, x: Tensor, alpha: float, views: Views) -> None:
        """From the output's error to the new parameters."""
        for W, dz, dzt, a, da in views.upper:
            eq.activation_gradient_(da, dz, W)  # 3.2e: by W as it is before its own update
            eq.descend_weight_(W, dzt, a, alpha)  # 3.2d, 3.2g
            eq.sigmoid_error_(a, da, a)  # 3.2e: A was needed for the last time, dZ takes its place
        W, dzt = views.first
        eq.descend_weight_(W, dzt, x, alpha)  # 3.2f, 3.2g
        for b, dzt in views.biases:
            eq.descend_bias_(b, dzt, views.ones, alpha)  # 3.2d, 3.2f, 3.2g

    def _descend_by_gradients(self, x: Tensor, lr: float, views: Views) -> None:
        """The same with every gradient in memory: for ``.grad``, and to be reduced over processes."""
        sizes = [parameter.numel() for parameter in self._parameters]
        gradients = self._W[0].new_empty(sum(sizes))
        for parameter, part in zip(self._parameters, gradients.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        dz = views.error.div_(views.count)
        A = [x, *(a for a, _, _ in views.hidden)]
        for layer, W, a in zip(self._layers[::-1], self._W[::-1], A[::-1], strict=True):
            eq.weight_gradient_(layer.weight.grad, dz.t(), a)  # type: ignore[arg-type]  # 3.2d, 3.2f
            eq.bias_gradient_(layer.bias.grad, dz.t(), views.ones)  # type: ignore[arg-type]
            if a is not x:
                dz = eq.sigmoid_error_(a, eq.activation_gradient(dz, W), a)  # 3.2e
        if self._reduce is not None:
            self._reduce(gradients)
        for parameter in self._parameters:
            eq.descend_(parameter, parameter.grad, lr)  # type: ignore[arg-type]  # 3.2g

    def _replay(self, x: Tensor, y: Tensor, weight: Tensor | None, z: Tensor, a: Tensor, lr: float, views: Views) -> None:
        """Forward and descend, by the graph of this size's earlier batches."""
        assert self._graphs is not None
        if (lr, weight is None) != self._graphs_of:
            self._graphs_of = lr, weight is None
            self._graphs.clear()

        def iterate(x: Tensor, y: Tensor, weight: Tensor | None, z: Tensor, a: Tensor) -> None:
            self._forward(x, y, weight, z, a, views)
            self._descend(x, lr / views.count, views)

        if len(x) not in self._graphs:
            self._graphs[len(x)] = None  # libraries set themselves up in a first step, which must not be captured
            iterate(x, y, weight, z, a)
            return
        graph = self._graphs[len(x)] = self._graphs[len(x)] or _Graph(iterate, x, y, weight, z, self._output_has_activation)
        graph.replay(x, y, weight, z, a)

    def _check(self, x: Tensor, y: Tensor) -> None:
        n_in, n_out = self._W[0].shape[1], len(self._b[-1])
        if x.dim() != 2 or x.shape[1] != n_in or y.shape != (len(x), n_out):
            raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be (B, {n_in}) and (B, {n_out})")
        if [parameter.data_ptr() for parameter in self._parameters] != self._addresses:
            self._bind()

    def _bind(self) -> None:
        """Take hold of the parameters' memory, afresh where it has moved."""
        self._addresses = [parameter.data_ptr() for parameter in self._parameters]
        # Detached, they are the same memory without what autograd does at every use.
        self._W = [layer.weight.detach() for layer in self._layers]
        self._b = [layer.bias.detach() for layer in self._layers]
        self._workspace = Workspace(self._W, self._b)
        self._prediction = self._b[-1].new_empty(0, len(self._b[-1]))
        if self._graphs is not None:
            self._graphs.clear()

    def _views_of(self, rows: int) -> Views:
        if self._graphs is not None and rows > self._workspace.rows:
            self._graphs.clear()  # they are of the memory that there was
        return self._workspace.views_of(rows)


def _batch_means(cost: Tensor, batch_size: int) -> Tensor:
    """The mean over each ``batch_size`` rows, the last of which may be fewer."""
    batches, rest = divmod(len(cost), batch_size)
    means = cost[: len(cost) - rest].reshape(batches, batch_size * cost.shape[1]).mean(1)
    return torch.cat([means, cost[len(cost) - rest :].mean().view(1)]) if rest else means
