"""One iteration of the text, equation by equation, each value beside PyTorch's own."""

from torchbp.trace._iteration import trace
from torchbp.trace._steps import Step, Trace
from torchbp.trace._text import Report, markdown

__all__ = ["Report", "Step", "Trace", "markdown", "trace"]
