"""The text's iteration, equations 2.1 to 3.2g, in place: no autograd graph and no new tensors."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor

from torchbp import equations as eq
from torchbp._compiled import MAX_STEPS, CompiledBlock
from torchbp._workspace import Bound, Workspace
from torchbp.functions import positives_weighted
from torchbp.iteration import backward, forward
from torchbp.nn import BPNetwork

__all__ = ["Descent"]


class Descent:
    """Gradient descent on a network: every :meth:`step` is one full iteration of the text.

    A step equals one of ``torch.optim.SGD`` on the gradient of the mean cost, with less overhead and without gradients in
    memory: dW = dZᵀ A is subtracted from W as it is computed, and dZ overwrites A. Besides the parameters, memory holds one
    activation per layer (two if the slope needs z) and one more of the widest layer, for the largest batch so far; smaller
    batches use its first rows.

    K networks side by side (``BPNetwork(..., networks=K)``) take rows (K, B, n), or shared rows (B, n). Each network descends
    with its own rows and learning rate, as K single descents would.

    Args:
        network: every parameter is updated. Between steps, parameters may be changed in place, loaded or moved
            (``network.to``). If one is replaced by another Parameter object, make a new Descent.
        cost: a cost for the network's output, such as ``'cross_entropy'`` (3.1c, 4.2) or ``'squared_error'`` (3.1a); None for
            the first that fits. The mean is over all elements, for softmax over the rows.
        lr: the learning rate α, or (K) for K networks; the attribute ``lr`` may be set between steps.
        reduce: called once per step with all gradients in one flat tensor, before the update: averages it over processes, in
            place. Without it no gradient is stored.
        cuda_graph: capture the second step for each batch size as a CUDA graph and replay it, until ``lr`` or the largest batch
            changes. A step never waits for the device or depends on values.
        compile: run up to 32 full batches in one function compiled by PyTorch's Inductor. Compiling takes ten to twenty seconds
            the first time and needs a C++ compiler. The results are the same up to rounding.
        pos_weight: multiplies the cost's term of the positive class, as in
            :func:`torchbp.functional.binary_cross_entropy_with_logits`; the attribute may be set between steps.
        clip_norm: the largest norm of all gradients together; larger gradients are scaled down to it. Every gradient is then
            stored, and ``norms`` has each step's norm before clipping.

    Raises:
        ValueError: ``cost`` does not fit the network's output; ``lr`` is below 0; ``cuda_graph`` without a CUDA device, or with
            ``reduce`` or K networks; ``compile`` with any of these; ``clip_norm`` with any of these but ``reduce``;
            ``pos_weight`` for an output other than sigmoid with cross-entropy.

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
        cost: str | None = None,
        lr: float | Tensor = 0.1,
        reduce: Callable[[Tensor], None] | None = None,
        cuda_graph: bool = False,
        pos_weight: Tensor | None = None,
        compile: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        self._output = network.output_with(cost)
        _check_lr(lr, network.networks)
        parameters = network.ordered_parameters()
        device = parameters[0].device
        if cuda_graph and (device.type != "cuda" or reduce is not None or network.networks is not None):
            raise ValueError(
                f"cuda_graph is True; it needs one process and one network on a CUDA device, here it is on {device}"
            )
        if compile and (cuda_graph or reduce is not None or network.networks is not None):
            raise ValueError("compile is True; it is for one network in one process, and without cuda_graph")
        if clip_norm is not None and (cuda_graph or compile or network.networks is not None or not clip_norm > 0):
            raise ValueError(f"clip_norm is {clip_norm}; it must be above 0, for one network, without cuda_graph and compile")
        if pos_weight is not None:
            self._output.check_pos_weight()
        self.lr, self.pos_weight = lr, pos_weight
        self.clip_norm: float | None = clip_norm
        self.norms: list[Tensor] = []
        self._reduce = reduce
        self._graphs: dict[int, _Graph | None] | None = {} if cuda_graph else None
        self._graphs_of: tuple[object, ...] = ()
        self._blocks: dict[int, CompiledBlock] | None = {} if compile else None
        self._network, self._networks = network.iteration(cost), network.networks
        self._check_kind(network)
        self._parameters = parameters
        self._bind()

    @property
    def prediction(self) -> Tensor:
        """The prediction for each row of the latest step or steps, (B, nL), from before that row's update."""
        return self._prediction

    def step(self, x: Tensor, y: Tensor, keep_gradients: bool = False, weight: Tensor | None = None) -> Tensor:
        """One iteration on a batch; an empty batch changes nothing.

        Args:
            x: (B, n0), with the network's dtype and device, and without a graph.
            y: (B, nL), in the output's range of targets.
            keep_gradients: write each ∂L/∂W and ∂L/∂b to the parameters' ``.grad``, as autograd does; else it is untouched.
            weight: (B), the factor of each row's cost.

        Returns:
            The batch's cost before the update, a scalar tensor (NaN for an empty batch); (K) for K networks.

        Raises:
            ValueError: shapes do not fit.
        """
        rows = y.shape[-2] if y.dim() > 1 else 1
        costs = self.steps(x, y, max(rows, 1), keep_gradients, weight=weight)
        return costs[..., 0] if rows else x.new_full(costs.shape[:-1], float("nan"))

    @torch.no_grad()
    def steps(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        keep_gradients: bool = False,
        lrs: Iterable[float | Tensor] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """One iteration on each batch of ``batch_size`` rows in turn; the last batch may be smaller.

        Args:
            x, y, weight: the rows of all batches, as for :meth:`step`.
            batch_size: the number of rows in a batch.
            keep_gradients: as for :meth:`step`, for the last iteration.
            lrs: a learning rate for each batch, instead of ``lr``.

        Returns:
            Each batch's cost before its update, (number of batches); (K, number of batches) for K networks.

        Raises:
            ValueError: shapes do not fit, ``batch_size`` is below 1, or there are not as many ``lrs`` as batches.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        x, y = self._checked(x, y)
        if weight is not None and weight.shape not in (y.shape[:-1], y.shape[-2:-1]):
            raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each row, {tuple(y.shape[:-1])}")
        z = torch.empty_like(y, dtype=x.dtype, memory_format=torch.contiguous_format)
        a = self._prediction = z if self._output.predicts_z else torch.empty_like(z)
        if not y.shape[-2]:
            return z.new_empty((*z.shape[:-2], 0))
        y, w = self._weighted(y, weight)
        number, done = -(-y.shape[-2] // batch_size), 0
        lrs = repeat(self.lr) if lrs is None else list(lrs)
        if isinstance(lrs, list) and len(lrs) != number:
            raise ValueError(f"there are {len(lrs)} lrs; they must be one for each of {number} batches")
        if self._blocks is not None:
            lrs = [*islice(lrs, number)]
            done = self._by_blocks(x, y, z, a, w, batch_size, lrs, keep_gradients)
            lrs = lrs[done:]
        if done < number:
            rest = [t[..., done * batch_size :, :] if done else t for t in (x, y, z, a)]
            weights = repeat(None) if w is None else _split(w[..., done * batch_size :, :], batch_size)
            inputs = self._split_inputs(rest[0], batch_size)
            batches = list(zip(inputs, *(_split(t, batch_size) for t in rest[1:]), weights, strict=False))
            iterate: Callable[..., None] = self._iteration_in_use()
            bound = self._bound_to(min(batch_size, y.shape[-2]))
            *before, last = zip(batches, lrs, strict=False)
            for batch, lr in before:
                iterate(*batch, lr, bound)
            iterate = self._iterate_by_gradients if keep_gradients else iterate
            batch, lr = last
            iterate(*batch, lr, self._bound_to(batch[1].shape[-2]))  # type: ignore[call-arg]
        cost = self._output.value(z, a, y)  # 3.1
        return _batch_means(cost if w is None else cost * w, batch_size)

    def _by_blocks(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        a: Tensor,
        weight: Tensor | None,
        batch_size: int,
        lrs: Sequence[float | Tensor],
        but_the_last: bool,
    ) -> int:
        """Descend on full batches in compiled blocks; returns the number of batches done."""
        assert self._blocks is not None
        full = (y.shape[-2] - but_the_last) // batch_size
        block = self._blocks.get(batch_size)
        if full > 1 and (block is None or block.steps < min(full, MAX_STEPS)):
            count = self._bound_to(batch_size).count
            block = CompiledBlock(self._network, self._values, batch_size, count, min(full, MAX_STEPS))
            self._blocks[batch_size] = block
        if block is None:
            return 0
        done = full // block.steps * block.steps
        for begin in range(0, done, block.steps):
            part = slice(begin * batch_size, (begin + block.steps) * batch_size)
            w = None if weight is None else weight[part]
            z[part].copy_(block.run(x[part], y[part], w, lrs[begin : begin + block.steps]))  # type: ignore[arg-type]
        rows = done * batch_size
        self._output.activation(z[:rows], out=a[:rows])  # 2.4
        return done

    def _check_kind(self, network: BPNetwork) -> None:
        if self._network.pooling is not None:
            raise ValueError(f"the network is a {type(network).__name__}; use torchbp.recurrent_descent.RecurrentDescent")

    def _split_inputs(self, x: Tensor, rows: int) -> Sequence[Tensor]:
        """The inputs of each batch that has this many rows of y."""
        return _split(x, rows)

    def _iteration_in_use(self) -> Callable[..., None]:
        if self._reduce is not None or self.clip_norm is not None:
            return self._iterate_by_gradients
        return self._iterate if self._graphs is None else self._replay

    def _iterate(
        self, x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None, lr: float | Tensor, bound: Bound
    ) -> None:
        """One iteration: forward, backward and update."""
        dz = self._error(x, y, z, a, weight, bound)
        if self._networks is not None and isinstance(lr, Tensor):
            dz.mul_(lr.view(-1, 1, 1))  # each network's α multiplies the error, and so every gradient
            lr = 1.0
        bound.subtract.alpha = lr / bound.count  # type: ignore[assignment]
        backward(bound.layers, dz, bound.subtract)  # 3.2d to 3.2g

    def _error(self, x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None, bound: Bound) -> Tensor:
        """The forward pass and the error of the output layer."""
        if self._networks is None:
            bound.layers[-1].z_memory = z
            forward(bound.layers, x)  # 2.1 to 2.3
        else:  # a batched product into a slice takes three times as long
            z.copy_(forward(bound.layers, x))
        output = self._output
        output.activation(z, out=a)  # 2.4
        dz = output.error(z, a, y, out=bound.dz)  # 3.2c
        return dz if weight is None else dz.mul_(weight)

    def _iterate_by_gradients(
        self, x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None, lr: float | Tensor, bound: Bound
    ) -> None:
        """One iteration with every gradient in memory: for ``.grad``, ``reduce`` and ``clip_norm``."""
        sizes = [parameter.numel() for parameter in self._parameters]
        flat = self._values[0].new_empty(sum(sizes))
        for parameter, part in zip(self._parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        gradients = _as_in_iteration([parameter.grad for parameter in self._parameters], self._networks)  # type: ignore[misc]
        dz = self._error(x, y, z, a, weight, bound).div_(bound.count)
        backward(bound.layers, dz, _Keep(gradients))
        if self._reduce is not None:
            self._reduce(flat)
        if self.clip_norm is not None:
            self.norms.append(norm := flat.norm())
            flat.mul_(eq.clipping(norm, self.clip_norm))
        lr = lr.view(-1, 1, 1) if isinstance(lr, Tensor) else lr
        for value, gradient in zip(self._values, gradients, strict=True):
            eq.descend(value, gradient, lr)  # 3.2g

    def _replay(
        self, x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None, lr: float | Tensor, bound: Bound
    ) -> None:
        """One iteration by replaying the CUDA graph for this batch size."""
        assert self._graphs is not None
        assert not isinstance(lr, Tensor)
        if (lr, weight is None) != self._graphs_of:
            self._graphs_of = lr, weight is None
            self._graphs.clear()
        rows = len(x)
        if rows not in self._graphs:
            self._graphs[rows] = None  # libraries initialise in a first step, which must not be captured
            self._iterate(x, y, z, a, weight, lr, bound)
            return
        graph = self._graphs[rows]
        if graph is None:
            graph = self._graphs[rows] = _Graph(partial(self._iterate, lr=lr, bound=bound), x, y, z, a, weight)
        graph.replay(x, y, z, a, weight)

    def _weighted(self, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The targets, and the factor of each cost, from ``weight`` and ``pos_weight``."""
        w = None if weight is None else weight.unsqueeze(-1)
        if self.pos_weight is None:
            return y, w
        u, y = positives_weighted(y, self.pos_weight)
        return y, u if w is None else u * w

    def _checked(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Check the rows; for K networks, shared rows become a view for each."""
        n_in, n_out = self._values[0].shape[-1], self._values[-1].shape[-1]
        k = self._networks
        if k is not None:
            x, y = (t.expand(k, *t.shape) if t.dim() == 2 else t for t in (x, y))
        leading = () if k is None else (k,)
        if x.shape[:-2] != leading or x.shape[-1:] != (n_in,) or y.shape != (*x.shape[:-1], n_out) or x.dim() < 2:
            of = f"({k}, B, " if k else "(B, "
            raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be {of}{n_in}) and {of}{n_out})")
        self._rebind_if_moved()
        return x, y

    def _rebind_if_moved(self) -> None:
        """Bind again if a parameter's memory has moved."""
        if [parameter.data_ptr() for parameter in self._parameters] != self._addresses:
            self._bind()

    def _bind(self) -> None:
        """Bind to the parameters' memory."""
        self._addresses = [parameter.data_ptr() for parameter in self._parameters]
        # Detached tensors share the memory, without autograd's overhead at every use.
        self._values = _as_in_iteration([parameter.detach() for parameter in self._parameters], self._networks)
        self._workspace: Any = self._new_workspace()
        self._prediction = self._values[-1].new_empty(0, self._values[-1].shape[-1])
        if self._graphs is not None:
            self._graphs.clear()
        if self._blocks is not None:
            self._blocks.clear()

    def _new_workspace(self) -> Any:
        return Workspace(self._network, self._values)

    def _bound_to(self, rows: int) -> Bound:
        """The layers for batches of this many rows."""
        if rows in self._workspace.bound:
            return self._workspace.bound[rows]
        if self._graphs is not None and rows > self._workspace.rows:
            self._graphs.clear()  # they use the old memory
        return self._workspace.bind(rows)


class _Keep:
    """A sink that writes each gradient to given memory."""

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self.gradients = gradients

    def wants(self, slot: int) -> bool:
        return True

    def product(self, slot: int, dzt: Tensor, x: Tensor) -> None:
        eq.weight_gradient(dzt, x, out=self.gradients[slot])  # 3.2d, 3.2f

    def rows(self, slot: int, dz: Tensor, dzt: Tensor) -> None:
        gradient = self.gradients[slot]
        eq.bias_gradient(dz, out=gradient if gradient.dim() == 1 else gradient.squeeze(-2))

    def other(self, slot: int, gradient: Tensor) -> None:
        self.gradients[slot].copy_(gradient)


class _Graph:
    """One iteration on batches of one size as a CUDA graph, with its own memory."""

    def __init__(self, iterate: Callable[..., None], x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None) -> None:
        self.x, self.y, self.z = torch.empty_like(x), torch.empty_like(y), torch.empty_like(z)
        self.weight = None if weight is None else torch.empty_like(weight)
        self.a = self.z if a is z else torch.empty_like(a)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            iterate(self.x, self.y, self.z, self.a, self.weight)

    def replay(self, x: Tensor, y: Tensor, z: Tensor, a: Tensor, weight: Tensor | None) -> None:
        self.x.copy_(x)
        self.y.copy_(y)
        if self.weight is not None:
            self.weight.copy_(weight)  # type: ignore[arg-type]
        self.graph.replay()
        z.copy_(self.z)
        a.copy_(self.a)


def _as_in_iteration(tensors: Sequence[Tensor], networks: int | None) -> list[Tensor]:
    """Parameters in the formulas' shapes: a bias (K, n) of K networks becomes (K, 1, n)."""
    return [t.unsqueeze(-2) if networks is not None and t.dim() == 2 else t for t in tensors]


def _check_lr(lr: float | Tensor, networks: int | None) -> None:
    if isinstance(lr, Tensor):
        if networks is None or lr.shape != (networks,) or not bool((lr >= 0).all()):
            raise ValueError(f"lr is {lr}; it must be a number of 0 or more, or one for each of {networks or 1} networks")
    elif not lr >= 0:
        raise ValueError(f"lr is {lr}; it must be 0 or more")


def _split(values: Tensor, rows: int) -> Sequence[Tensor]:
    """Parts of this many rows. A single part needs no call of PyTorch."""
    return (values,) if values.shape[-2] <= rows else values.split(rows, -2)


def _batch_means(cost: Tensor, batch_size: int) -> Tensor:
    """The mean of each batch of ``batch_size`` rows; the last may be smaller: (..., N, n) -> (..., number of batches)."""
    *networks, rows, n = cost.shape
    batches, rest = divmod(rows, batch_size)
    means = cost[..., : rows - rest, :].reshape(*networks, batches, batch_size * n).mean(-1)
    return torch.cat([means, cost[..., rows - rest :, :].mean((-2, -1)).unsqueeze(-1)], -1) if rest else means
