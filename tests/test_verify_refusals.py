"""Each feature that a Function may lack: the audit recognises PyTorch's error, names the feature and the remedy."""

from collections.abc import Callable
from typing import Any

import planted_faults as faults
import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.functions import call_of
from torchbp.verify import audit
from torchbp.verify._refusals import BY_MISSING
from torchbp.verify._report import findings


class NoJvp(Function):
    """Sine without jvp and without vmap."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        return da * ctx.saved_tensors[0].cos()


class NoSetupContext(Function):
    """The same, with ctx in forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    backward = NoJvp.backward


class BackwardNotWritten(NoSetupContext):
    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        raise NotImplementedError("sine has no backward")


def distances(x: Tensor) -> Tensor:
    """PyTorch's cdist has no forward mode, and no kernel for 16 bits on the CPU."""
    return torch.cdist(x, x.detach() + 1)


def largest(x: Tensor) -> Tensor:
    """PyTorch's embedding_bag has no second derivative."""
    return torch.nn.functional.embedding_bag(torch.tensor([[0, 1], [2, 3]], device=x.device), x, mode="max")


@torch.compiler.disable
def sine(x: Tensor) -> Tensor:
    return x.sin()


def layer(x: Tensor) -> Tensor:
    return call_of(faults.ValueRead)(x, torch.ones(3, 3, dtype=x.dtype, device=x.device), x.new_zeros(3))


LACKING: dict[str, tuple[Callable[..., Any], str]] = {
    "jvp": (NoJvp.apply, "forward mode"),
    "setup_context": (NoSetupContext.apply, "torch func grad"),
    "vmap": (NoJvp.apply, "vmap"),
    "second derivative": (largest, "double backward"),
    "forward mode of an operation": (distances, "forward mode"),
    "tracing without values": (layer, "meta"),
    "kernel for this dtype": (distances, "precision"),
    "torch.compile": (sine, "torch compile"),
    "what raises NotImplementedError": (BackwardNotWritten.apply, "backward"),
}


def test_every_refusal_has_a_case() -> None:
    assert LACKING.keys() == BY_MISSING.keys()


@pytest.mark.parametrize("missing", LACKING)
def test_missing_feature_is_named_with_its_remedy(missing: str) -> None:
    function, check = LACKING[missing]
    x = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = audit(function, (x,), only={check})
    assert missing in {row.missing for row in result.with_status("unsupported")}
    (finding,) = [text for _, text in findings([result]) if text.startswith(f"no {missing}: ")]
    assert finding.endswith(f"; {BY_MISSING[missing].remedy}")
