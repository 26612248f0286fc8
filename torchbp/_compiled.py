"""Several iterations as one compiled function: the same equations, without a call to PyTorch for each."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp._workspace import Subtract
from torchbp.iteration import Network, backward, forward, layers_of

MOST = 32  # iterations of one function: with more, compiling takes longer, and a step hardly less


class CompiledBlock:
    """So many iterations on batches of one size, compiled by PyTorch's Inductor when they are first made.

    Args:
        network: what is iterated.
        parameters: its parameters, which are updated in place.
        batch_size: rows of an iteration.
        count: m of the mean cost of these.
        steps: how many iterations it is.
    """

    def __init__(self, network: Network, parameters: Sequence[Tensor], batch_size: int, count: int, steps: int) -> None:
        self.network, self.parameters, self.batch_size, self.steps = network, parameters, batch_size, steps
        self._count = count
        self._compiled: Callable[..., Tensor] | None = None

    def run(self, x: Tensor, y: Tensor, weight: Tensor | None, lrs: Sequence[float]) -> Tensor:
        """Descend on each batch in turn.

        Args:
            x, y: the rows of all batches, (steps * batch_size, n0) and (steps * batch_size, nL).
            weight: what multiplies each error, broadcast to y; None for nothing.
            lrs: each iteration's α.

        Returns:
            Z of the last layer, (steps * batch_size, nL).

        Raises:
            ValueError: it cannot be compiled; no parameter is changed.
        """
        alphas = torch.tensor(lrs, dtype=x.dtype, device=x.device).div_(self._count)
        arguments = x, y, alphas.new_ones(()) if weight is None else weight, alphas, *self.parameters
        if self._compiled is None:
            self._compiled = self._compile(*arguments)
        return self._compiled(*arguments)

    def _compile(self, *arguments: Tensor) -> Callable[..., Tensor]:
        # Traced here, to PyTorch's own operations alone: Dynamo would have to follow every entry's Python, and gives up
        # where too many networks are compiled in one process.
        from torch.fx.experimental.proxy_tensor import make_fx

        traced = make_fx(self._iterate, tracing_mode="fake")(*arguments)
        options: dict[str, str | int | bool | Callable] = {"cpp_wrapper": True} if arguments[0].is_cpu else {}
        compiled = torch.compile(traced, fullgraph=True, dynamic=False, options=options)
        try:
            compiled(*(argument.clone() for argument in arguments))
        except Exception as error:  # whatever compiling raises: no compiler, an unsupported Python ...
            first = next(iter(str(error).splitlines()), "")
            raise ValueError(
                f"torch.compile, which compiled iterations need with a C++ compiler such as g++, has failed: "
                f"{type(error).__name__}: {first}"
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
            # The error carries α/m, and with it every gradient: a number would be compiled in.
            backward(layers, dz * (w * alpha), subtract)  # 3.2d to 3.2g
        return torch.cat(z_of_all)
