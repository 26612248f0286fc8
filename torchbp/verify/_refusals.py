"""PyTorch's errors for a feature that a Function lacks, and how its author can add it.

Each is recognised by PyTorch's own words, which a new release may change.
"""

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """A missing feature, PyTorch's words for it (a regular expression), and the remedy."""

    missing: str
    words: str
    remedy: str


REFUSALS = [
    Refusal("jvp", "must implement the jvp function", "add a jvp staticmethod"),
    Refusal(
        "setup_context",
        "must override the setup_context staticmethod",
        "take ctx out of forward and save in a setup_context staticmethod",
    ),
    Refusal(
        "vmap",
        "does not have vmap support|[Bb]atching rule not implemented",
        "set generate_vmap_rule = True, or add a vmap staticmethod",
    ),
    Refusal(
        "second derivative",
        "differentiate twice a function that was marked with @?once_differentiable|derivative for .* is not implemented"
        "|does not require grad and does not have a grad_fn",
        "write backward in operations that PyTorch can differentiate, or as a Function of its own",
    ),
    Refusal(
        "forward mode of an operation",
        "forward AD with .* that does not support it",
        "use operations that have a forward-mode derivative",
    ),
    Refusal(
        "tracing without values",
        r"\.item\(\)|data-dependent|DataDependentOutput|[Cc]annot copy out of meta tensor|data dependent"
        "|Cannot access data pointer|doesn't have storage|FakeTensor|converting .* to a Python",
        "do not read values in forward or backward (.item(), .numpy(), if x.sum() > 0, kernels of your own); use torch.where",
    ),
    Refusal("kernel for this dtype", r"not implemented for \'\w+\'", "cast, or avoid the operation in this dtype"),
    Refusal(
        "torch.compile",
        "torch\\._dynamo\\.exc|Unsupported|Dynamo|graph break",
        "write forward and backward so that Dynamo can trace them, or register a torch.library.custom_op",
    ),
]

NOT_IMPLEMENTED = Refusal("what raises NotImplementedError", "", "implement it")  # the Function's author says so

BY_MISSING = {refusal.missing: refusal for refusal in (*REFUSALS, NOT_IMPLEMENTED)}


def refusal_of(error: BaseException) -> Refusal | None:
    """The missing feature that this error is about; None if the error is of another kind."""
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    for refusal in REFUSALS:
        if re.search(refusal.words, text):
            return refusal
    return NOT_IMPLEMENTED if isinstance(error, NotImplementedError) else None
