"""The space that a search draws networks from."""

from dataclasses import dataclass, field
from itertools import chain

MAX_FACTOR = 1e9


@dataclass
class Space:
    """The values to search: lists of choices, or the ends of a range, from which numbers are drawn on a logarithmic scale.

    Args:
        hidden_sizes: choices of the widths of the hidden layers.
        activation: choices of their activation, one for all.
        batch_size: choices of the number of rows per step.
        lr_factor: the range of the learning rate, as a multiple of the one from the curvature of the cost; at most 1e9.
        init_scale: the range of the factor of the initial weights; at most 1e9.

    Raises:
        ValueError: a list is empty or has a choice twice, a number is below 1, or a range is not 0 < A <= B.
    """

    hidden_sizes: list[list[int]] = field(default_factory=lambda: [[16], [32], [64], [128], [32, 32], [64, 64]])
    activation: list[str] = field(default_factory=lambda: ["sigmoid", "tanh", "relu"])
    batch_size: list[int] = field(default_factory=lambda: [16, 32, 64, 128])
    lr_factor: list[float] = field(default_factory=lambda: [0.05, 4.0])
    init_scale: list[float] = field(default_factory=lambda: [0.3, 3.0])

    def __post_init__(self) -> None:
        for name in ("hidden_sizes", "activation", "batch_size"):
            choices = getattr(self, name)
            if not choices:
                raise ValueError(f"space.{name} is empty; it must have a choice")
            if twice := [one for number, one in enumerate(choices) if one in choices[:number]]:
                raise ValueError(f"space.{name} has {twice[0]} twice; each choice must be there once")
        for name, numbers in (("batch_size", self.batch_size), ("hidden_sizes", list(chain(*self.hidden_sizes)))):
            if (least := min(numbers, default=1)) < 1:
                raise ValueError(f"space.{name} has {least}; it must be 1 or more")
        for name in ("lr_factor", "init_scale"):
            ends = getattr(self, name)
            if len(ends) != 2 or not 0 < ends[0] <= ends[1] <= MAX_FACTOR:
                raise ValueError(
                    f"space.{name} is {ends}; it must be [A, B], from A above 0 to B of A or more, at most {MAX_FACTOR:g}"
                )
