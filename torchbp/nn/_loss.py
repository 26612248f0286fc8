"""The costs as modules, named as in ``torch.nn``. Pass arguments by keyword: their order differs from PyTorch's."""

from typing import Literal

from torch import Tensor, nn

from torchbp import functional as F


class _Loss(nn.Module):
    def __init__(self, reduction: Literal["mean", "sum", "none"] = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """Squared-error cost (equation 3.1a); see :func:`torchbp.functional.mse_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, self.reduction)


class BCELoss(_Loss):
    """Cross-entropy cost of activations (equation 3.1c); see :func:`torchbp.functional.binary_cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Cross-entropy cost of weighted inputs, whose backward is a - y (equation 3.2c).

    See :func:`torchbp.functional.binary_cross_entropy_with_logits`; ``pos_weight`` is a buffer.
    """

    pos_weight: Tensor | None

    def __init__(self, reduction: Literal["mean", "sum", "none"] = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__(reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(input, target, self.reduction, self.pos_weight)


class CrossEntropyLoss(_Loss):
    """Cross-entropy cost of softmax outputs (equation 4.2).

    See :func:`torchbp.functional.cross_entropy`; ``weight`` is a buffer.
    """

    weight: Tensor | None

    def __init__(
        self,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target, self.reduction, self.weight, self.label_smoothing)
