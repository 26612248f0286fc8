"""Chooses how many iterations to take in one block."""

__all__ = ["automatic_steps"]

# The largest block: about 0.1 s of work on one core, and 4 MiB of rows; memory is slower with more.
BLOCK_OPERATIONS = 4e9
BLOCK_VALUES = 2**20


def automatic_steps(num_weights: int, batch_values: int, batch_size: int) -> int:
    """The number of steps in a block: enough that the overhead between blocks is small, few enough to show progress."""
    return max(1, int(min(BLOCK_OPERATIONS // (6 * num_weights * batch_size), BLOCK_VALUES // batch_values)))
