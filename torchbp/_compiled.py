"""Compiles several iterations to one function: the same equations, without a PyTorch call for each operation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp._workspace import Subtract
from torchbp.iteration import Network, backward, forward, layers_of

MAX_STEPS = 32  # iterations in one function: more take longer to compile, and a step gains little
SMALL = 1024  # multiplications of a matrix product that is compiled to loops, because a call of the library takes longer


class CompiledBlock:
    """A fixed number of iterations on batches of one size, compiled by PyTorch's Inductor at the first run.

    Args:
        network: the network to train.
        parameters: its parameters, updated in place.
        batch_size: rows in a batch.
        count: m, the number of costs in a batch's mean.
        steps: the number of iterations.
    """

    def __init__(self, network: Network, parameters: Sequence[Tensor], batch_size: int, count: int, steps: int) -> None:
        self.network, self.parameters, self.batch_size, self.steps = network, parameters, batch_size, steps
        self._count = count
        self._compiled: Callable[..., Tensor] | None = None

    def run(self, x: Tensor, y: Tensor, weight: Tensor | None, lrs: Sequence[float]) -> Tensor:
        """Descend on each batch in turn.

        Args:
            x, y: the rows of all batches, (steps * batch_size, n0) and (steps * batch_size, nL).
            weight: factors of the errors, broadcast to y; None for 1.
            lrs: α of each iteration.

        Returns:
            Z of the last layer, (steps * batch_size, nL).

        Raises:
            ValueError: compiling failed; no parameter is changed.
        """
        alphas = torch.tensor(lrs, dtype=x.dtype, device=x.device).div_(self._count)
        arguments = x, y, alphas.new_ones(()) if weight is None else weight, alphas, *self.parameters
        if self._compiled is None:
            self._compiled = self._compile(*arguments)
        return self._compiled(*arguments)

    def _compile(self, *arguments: Tensor) -> Callable[..., Tensor]:
        # Traced here to PyTorch operations: Dynamo would have to follow each entry's Python code, and gives up after too many
        # networks in one process.
        from torch.fx.experimental.proxy_tensor import make_fx

        traced = make_fx(self._iterate, decomposition_table=_in_loops(), tracing_mode="fake")(*arguments)
        options: dict[str, str | int | bool | Callable] = {"cpp_wrapper": True} if arguments[0].is_cpu else {}
        compiled = torch.compile(traced, fullgraph=True, dynamic=False, options=options)
        try:
            compiled(*(argument.clone() for argument in arguments))
        except Exception as error:  # no compiler, an unsupported Python ...
            cause = getattr(error, "inner_exception", error)  # Dynamo and Inductor raise an error around it
            first = next(iter(str(cause).splitlines()), "")
            raise ValueError(
                f"torch.compile has failed; compiled iterations need it and a C++ compiler such as g++: "
                f"{type(cause).__name__}: {first}"
            ) from error
        return compiled

    def _iterate(self, x: Tensor, y: Tensor, weight: Tensor, alphas: Tensor, *parameters: Tensor) -> Tensor:
        output = self.network.output
        subtract = Subtract(parameters, x.new_ones(self.batch_size))
        subtract.alpha = 1.0
        each = (t.split(self.batch_size) for t in (x, y, weight.expand_as(y)))
        z_of_all = []
        for bx, by, w, alpha in zip(*each, alphas.unbind(), strict=True):
            layers = layers_of(self.network, parameters)
            z = forward(layers, bx)  # 2.1 to 2.3
            z_of_all.append(z)
            dz = output.error(z, output.activation(z), by)  # 3.2c
            # α/m multiplies the error, and so every gradient: as a Python number it would be compiled in.
            backward(layers, dz * (w * alpha), subtract)  # 3.2d to 3.2g
        return torch.cat(z_of_all)


def _in_loops() -> dict[Any, Callable[..., Any]]:
    """What replaces each operation with a matrix product, if it is small: sums of products, which Inductor fuses to loops."""

    def product(a: Tensor, b: Tensor) -> Any:
        small = a.shape[0] * a.shape[1] * b.shape[1] <= SMALL
        return (a.unsqueeze(2) * b).sum(1) if small else NotImplemented

    def plus(add: Callable[..., Tensor]) -> Callable[..., Any]:
        def added(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
            ab = NotImplemented if beta != 1 else product(a, b.reshape(len(b), -1))
            return NotImplemented if ab is NotImplemented else add(c, ab.view(-1) if b.dim() == 1 else ab, alpha=alpha)

        return added

    aten = torch.ops.aten
    in_place = plus(Tensor.add_)
    return {
        aten.mm.default: product,
        aten.addmm.default: plus(torch.add),
        aten.addmm_.default: in_place,
        aten.addmv_.default: in_place,
    }
