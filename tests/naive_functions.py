"""First versions of the functions of torchbp.functional: each has a forward and a backward, whose gradients are right.

They keep what backward needs on ctx, even intermediate results, always compute every gradient, and do not treat forward mode,
vmap or dtypes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        ctx.x, ctx.W, ctx.has_bias = x, W, b is not None
        return x.mm(W.t()) + (0 if b is None else b)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        return dz.mm(ctx.W), dz.t().mm(ctx.x), dz.sum(0) if ctx.has_bias else None


class SigmoidLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        a = torch.sigmoid(x.mm(W.t()) + (0 if b is None else b))
        ctx.x, ctx.W, ctx.a, ctx.has_bias = x, W, a, b is not None
        return a

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        dz = da * ctx.a * (1 - ctx.a)
        return dz.mm(ctx.W), dz.t().mm(ctx.x), dz.sum(0) if ctx.has_bias else None


class Cost(Function):
    """``costs`` returns the cost of each element or row, and its derivative by each input."""

    @classmethod
    def of(cls, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        return cls.apply(input, target, reduction)

    @staticmethod
    def reduce(ctx: Any, costs: Tensor, reduction: str) -> Tensor:
        ctx.scale = 1 / costs.numel() if reduction == "mean" else 1
        return costs if reduction == "none" else costs.sum() * ctx.scale


class SquaredError(Cost):
    @staticmethod
    def forward(ctx: Any, a: Tensor, y: Tensor, reduction: str) -> Tensor:
        ctx.difference = a - y
        return Cost.reduce(ctx, ctx.difference**2, reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        da = dL * ctx.scale * 2 * ctx.difference
        return da, -da, None


class CrossEntropy(Cost):
    @staticmethod
    def forward(ctx: Any, a: Tensor, y: Tensor, reduction: str) -> Tensor:
        ctx.a, ctx.y = a, y
        return Cost.reduce(ctx, -(y * a.log() + (1 - y) * (1 - a).log()), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        dL, a, y = dL * ctx.scale, ctx.a, ctx.y
        return dL * (a - y) / (a * (1 - a)), dL * ((1 - a).log() - a.log()), None


class SigmoidCrossEntropy(Cost):
    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, reduction: str, pos_weight: Tensor | None) -> Tensor:
        w = 1 if pos_weight is None else pos_weight
        a = torch.sigmoid(z)
        ctx.a, ctx.y, ctx.w = a, y, w
        return Cost.reduce(ctx, -(w * y * a.log() + (1 - y) * (1 - a).log()), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        dL, a, y, w = dL * ctx.scale, ctx.a, ctx.y, ctx.w
        return dL * (a * (1 - y) - w * y * (1 - a)), dL * ((1 - a).log() - w * a.log()), None, None


class SoftmaxCrossEntropy(Cost):
    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, reduction: str) -> Tensor:
        ctx.p, ctx.y = torch.softmax(z, -1), y
        return Cost.reduce(ctx, -(y * ctx.p.log()).sum(-1), reduction)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        dL = (dL * ctx.scale).unsqueeze(-1)
        return dL * (ctx.p * ctx.y.sum(-1, keepdim=True) - ctx.y), -dL * ctx.p.log(), None


def linear(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    return Linear.apply(x, W, b)


def sigmoid_linear(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    return SigmoidLinear.apply(x, W, b)


mse_loss = SquaredError.of
binary_cross_entropy = CrossEntropy.of


def binary_cross_entropy_with_logits(z: Tensor, y: Tensor, reduction: str = "mean", pos_weight: Tensor | None = None) -> Tensor:
    return SigmoidCrossEntropy.apply(z, y, reduction, pos_weight)


def cross_entropy(z: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    if not y.is_floating_point():
        y = torch.nn.functional.one_hot(y, z.shape[-1]).to(z.dtype)
    return SoftmaxCrossEntropy.of(z, y, reduction)
