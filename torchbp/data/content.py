"""Identifies a file by its content, whatever its name and folder."""

import hashlib
import os
from pathlib import Path

PIECES, PIECE = 256, 2**14


def content_of(path: str | Path) -> str:
    """A sum of the file's size and of what stands in it at 256 places, which is all of a file of up to 4 MiB.

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
