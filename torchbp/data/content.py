"""Identifies a file by its content, not by its name and folder."""

import hashlib
import os
from pathlib import Path

PIECES, PIECE = 256, 2**14


def content_of(path: str | Path) -> str:
    """A hash of the file's size and of 256 pieces of its content, which cover a file of up to 4 MiB.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = hashlib.sha256(str(size).encode())
        for number in range(PIECES):
            file.seek(number * size // PIECES)
            content.update(file.read(PIECE))
    return content.hexdigest()
