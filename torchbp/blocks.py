"""Chooses how many iterations to take in one block."""

__all__ = ["automatic_steps"]

# What a block may come to: about 0.1 s of one core's work, and 4 MiB of rows, which memory is faster with than with more.
BLOCK_OPERATIONS = 4e9
BLOCK_VALUES = 2**20


def automatic_steps(num_weights: int, batch_values: int, batch_size: int) -> int:
    """As many steps as a block should take: enough for the time between them not to count, few enough to be seen."""
    return max(1, int(min(BLOCK_OPERATIONS // (6 * num_weights * batch_size), BLOCK_VALUES // batch_values)))
