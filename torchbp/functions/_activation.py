"""The activation of a layer: equation 2.2 forward, 3.2e and 4.1 backward; one Function for each entry."""

from typing import Any

from torch import Tensor

from torchbp.activations import Activation
from torchbp.functions._base import BPFunction


def activation_function(g: Activation) -> type[BPFunction]:
    """The Function a = g(z; θ) of an entry. It takes input (*, n) and the entry's parameters, (C, 1) or (C, n) each."""
    # Plain functions: Dynamo cannot follow a dataclass into a backward.
    value, slope, error, keeps_a = g.value, g.slope, g.error, g.keeps == "a"
    gradients, tangents = ([getattr(p, name) for p in g.parameters.values()] for name in ("gradient", "tangent"))

    class Activate(BPFunction):
        @staticmethod
        def forward(input: Tensor, *theta: Tensor) -> Tensor:
            return value(input, *theta)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            z, *theta = inputs
            kept = output if keeps_a else z
            ctx.save_for_backward(kept, *theta)
            ctx.save_for_forward(kept, *theta)

        @staticmethod
        def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
            kept, *theta = ctx.saved_tensors
            needs_z, *needs = ctx.needs_input_grad
            dz = error(da, kept, *theta) if needs_z else None
            dtheta = [
                gradient(da, kept, *theta).sum_to_size(t.shape) if needed else None  # 4.1
                for gradient, t, needed in zip(gradients, theta, needs, strict=True)
            ]
            return dz, *dtheta

        @staticmethod
        def jvp(ctx: Any, dz: Tensor, *dtheta: Tensor) -> Tensor:
            kept, *theta = ctx.saved_tensors
            tangent = dz * slope(kept, *theta)
            for of_parameter, change in zip(tangents, dtheta, strict=True):
                tangent = tangent + of_parameter(change, kept, *theta)
            return tangent

    Activate.__name__ = Activate.__qualname__ = "".join(word.title() for word in g.name.split("_"))
    return Activate
