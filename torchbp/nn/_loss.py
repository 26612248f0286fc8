"""The costs as modules, named as in ``torch.nn``, with its order of arguments."""

from typing import Literal

from torch import Tensor, nn

from torchbp import functional as F

Reduction = Literal["mean", "sum", "none"]


class _Loss(nn.Module):
    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class _WeightedLoss(_Loss):
    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.register_buffer("weight", weight)


class MSELoss(_Loss):
    """Squared-error cost (equation 3.1a); see :func:`torchbp.functional.mse_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class BCELoss(_WeightedLoss):
    """Cross-entropy cost of activations (equation 3.1c).

    See :func:`torchbp.functional.binary_cross_entropy`; ``weight`` is a buffer.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_WeightedLoss):
    """Cross-entropy cost of weighted inputs, whose backward is a - y (equation 3.2c).

    See :func:`torchbp.functional.binary_cross_entropy_with_logits`; ``weight`` and ``pos_weight`` are buffers.
    """

    pos_weight: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, *, reduction: Reduction = "mean", pos_weight: Tensor | None = None
    ) -> None:
        super().__init__(weight, reduction=reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class CrossEntropyLoss(_WeightedLoss):
    """Cross-entropy cost of softmax outputs (equation 4.2).

    See :func:`torchbp.functional.cross_entropy`; ``weight`` is a buffer.
    """

    def __init__(self, weight: Tensor | None = None, *, reduction: Reduction = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__(weight, reduction=reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target, self.weight, reduction=self.reduction, label_smoothing=self.label_smoothing)
