"""Functions with one fault each, made from a correct layer."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def layer_gradients(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
    x, W, a = ctx.saved_tensors
    dz = (da * a * (1 - a)).to(W.dtype)
    dx = dz.mm(W) if ctx.needs_input_grad[0] else None
    dW = dz.t().mm(x) if ctx.needs_input_grad[1] else None
    return dx, dW, dz.sum(0) if ctx.needs_input_grad[2] else None


class Layer(Function):
    """a = sigmoid(x Wᵀ + b), correct: (B, n_in), (n_out, n_in), (n_out) -> (B, n_out)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        if x.is_complex():
            raise TypeError(f"x is {x.dtype}; it must be real")
        if x.dim() != 2:
            raise ValueError(f"x has {x.dim()} dimensions; it must have 2")
        return torch.sigmoid(torch.nn.functional.linear(x, W, b))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, W, _ = inputs
        ctx.save_for_backward(x, W, output)
        ctx.save_for_forward(x, W, output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        return layer_gradients(ctx, da)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dW: Tensor | None, db: Tensor | None) -> Tensor:
        x, W, a = ctx.saved_tensors
        dz = torch.zeros_like(a) if db is None else db.expand(a.shape)
        dz = dz if dx is None else dz + dx.mm(W.t())
        dz = dz if dW is None else dz + x.mm(dW.t())
        return dz * a * (1 - a)


class WrongSign(Layer):
    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        dx, dW, db = layer_gradients(ctx, da)
        return None if dx is None else -dx, dW, db


class MissingTranspose(Layer):
    """Shapes do not show the fault if the weight is square."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        dx, dW, db = layer_gradients(ctx, da)
        return dx, None if dW is None else dW.t(), db


class MissingBiasSum(Layer):
    """Values do not show the fault: autograd sums over broadcast dimensions."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        x, W, a = ctx.saved_tensors
        dz = (da * a * (1 - a)).to(W.dtype)
        dx = dz.mm(W) if ctx.needs_input_grad[0] else None
        dW = dz.t().mm(x) if ctx.needs_input_grad[1] else None
        return dx, dW, dz if ctx.needs_input_grad[2] else None


class ForgottenNeedsInputGrad(Layer):
    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        x, W, a = ctx.saved_tensors
        dz = (da * a * (1 - a)).to(W.dtype)
        return dz.mm(W), dz.t().mm(x) if ctx.needs_input_grad[1] else None, dz.sum(0) if ctx.needs_input_grad[2] else None


class SavedTensorChanged(Layer):
    """Writes dz into the memory of the saved activation, which is the output."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        x, W, a = ctx.saved_tensors
        slope = a * (1 - a)
        dz = (a.detach().copy_(da) * slope).to(W.dtype)
        dx = dz.mm(W) if ctx.needs_input_grad[0] else None
        dW = dz.t().mm(x) if ctx.needs_input_grad[1] else None
        return dx, dW, dz.sum(0) if ctx.needs_input_grad[2] else None


class NotTwiceDifferentiable(Layer):
    """Keeps the slope without history, so that a second derivative ignores how it depends on x, W and b."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        x, W, a = ctx.saved_tensors
        a = a.detach()
        dz = (da * a * (1 - a)).to(W.dtype)
        dx = dz.mm(W) if ctx.needs_input_grad[0] else None
        dW = dz.t().mm(x) if ctx.needs_input_grad[1] else None
        return dx, dW, dz.sum(0) if ctx.needs_input_grad[2] else None


class WrongJvp(Layer):
    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dW: Tensor | None, db: Tensor | None) -> Tensor:
        return Layer.jvp(ctx, dx, None, db)


class WrongVmap(Layer):
    """The vmap rule takes a batch of weights for a batch of one."""

    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, int]:
        def batched(t: Tensor, dim: int | None) -> Tensor:
            return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

        x, b = batched(x, in_dims[0]), batched(b, in_dims[2])
        W = W if in_dims[1] is None else W.select(in_dims[1], 0)
        return torch.stack([WrongVmap.apply(x[k], W, b[k]) for k in range(info.batch_size)]), 0


class MismatchUnderAutocast(Layer):
    """Saves x and W in float32; backward multiplies them with bfloat16 tensors that autocast made."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        x, W, a = ctx.saved_tensors
        dz = da * a * (1 - a)
        dx = dz.mm(W) if ctx.needs_input_grad[0] else None
        dW = dz.t().mm(x) if ctx.needs_input_grad[1] else None
        return dx, dW, dz.sum(0) if ctx.needs_input_grad[2] else None


class DtypeLostUnderAutocast(Layer):
    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return Layer.forward(x, W, b).to(x.dtype)


class StaleForExpanded(Layer):
    """Copies the upstream gradient to a workspace, but if the gradient is not contiguous uses the old contents."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        workspace = torch.ones(da.shape, dtype=da.dtype, device=da.device)
        return layer_gradients(ctx, da if 0 not in da.stride() else workspace)


class PenaltyVanishes(Layer):
    backward = staticmethod(once_differentiable(layer_gradients))


class GradientInForward(Function):
    """Sum or mean of x² or, for reduction 'none', x²; computes its gradient in forward; backward only scales it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, reduction: str) -> Tensor:
        if x.is_complex():
            raise TypeError(f"x is {x.dtype}; it must be real")
        return x.square() if reduction == "none" else x.square().sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.reduction = inputs[1]

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        return dL.mean() * 2 * ctx.saved_tensors[0], None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        tangent = 2 * ctx.saved_tensors[0] * dx
        return tangent if ctx.reduction == "none" else tangent.sum()


class UpstreamTakenForContiguous(Layer):
    """Reads the upstream gradient's memory row by row and ignores its strides."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        rows = da if 0 in da.stride() else da.as_strided(da.shape, (da.shape[1], 1))
        return layer_gradients(ctx, rows)


class InputTakenForContiguous(Layer):
    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return Layer.forward(x.as_strided(x.shape, (x.shape[1], 1)), W, b)


class NoGradientUnexpected(Layer):
    """Asks for None instead of zeros, and then multiplies with it."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Layer.setup_context(ctx, inputs, output)
        ctx.set_materialize_grads(False)


class SavedTensorsReadTwice(Layer):
    """torch.utils.checkpoint does not allow this."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        return layer_gradients(ctx, da * ctx.saved_tensors[2] / ctx.saved_tensors[2])


class DigitsLost(Layer):
    """Works in bfloat16 unless it is given float64."""

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return Layer.forward(x if x.dtype == torch.float64 else x.bfloat16().to(x.dtype), W, b)


class DigitsLostInBackward(Layer):
    """Finite differences do not show the fault, because they are no more precise."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.float() for g in layer_gradients(ctx, da))


class UpstreamClipped(Layer):
    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        return layer_gradients(ctx, da.clamp(-100, 100))


class ValueRead(Layer):
    """Reads a number from a tensor, which fails for meta and fake tensors."""

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return Layer.forward(x, W, b) if x.sum().item() else torch.full_like(x.mm(W.t()), 0.5)


class JvpNotDifferentiable(Layer):
    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return Layer.jvp(ctx, *tangents).detach()


class NotConjugated(Function):
    """x y / z with a backward for real numbers only; the derivatives are real if x, y and z have the same phase."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, z)
        return x * y / z

    @staticmethod
    def backward(ctx: Any, dq: Tensor) -> tuple[Tensor, ...]:
        x, y, z = ctx.saved_tensors
        return dq * y / z, dq * x / z, -dq * x * y / z**2


class ForwardDetached(Function):
    """Right as long as its own backward runs; PyTorch cannot differentiate this forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.detach().sin()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return upstream * x.cos()


class TooFewGradients(Layer):
    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        return layer_gradients(ctx, da)[:2]
