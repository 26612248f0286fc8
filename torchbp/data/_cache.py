"""What was made of a large file, kept on disk for the next run: made once, and gone on with where it was interrupted."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock

from torchbp._files import NotWrittenError, asking_why, replacing
from torchbp.data._progress import progress

HASHED = 2**24  # bytes that are read at a time


class Folder:
    """A folder of a cache, which one process at a time may add to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def complete(self) -> bool:
        """Whether all that belongs here is here."""
        return (self.path / "complete").exists()

    @complete.setter
    def complete(self, value: bool) -> None:
        assert value
        (self.path / "complete").touch()

    def write(self, name: str, write: Callable[[Path], object]) -> Path:
        """A file, whole or not at all."""
        with replacing(self.path / name) as partial, asking_why(partial, pl.exceptions.ComputeError):
            write(partial)
        return self.path / name


class Cache:
    """Folders for what is made of files, each named after its file, what that holds and what is made of it.

    Args:
        root: where they are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sums: dict[tuple[Path, int, int], str] = {}
        self._used: set[Path] = set()

    @contextmanager
    def folder(self, kind: str, file: Path, made_by: Any) -> Iterator[Folder]:
        """The folder of a kind for a file, other processes being kept from it.

        Args:
            kind: what is kept.
            file: what it is made of.
            made_by: the plain values that, beside the file's content, settle what is made.

        Raises:
            NotWrittenError: the folder cannot be written.
        """
        key = hashlib.sha256(json.dumps([self._sum(file), made_by]).encode()).hexdigest()[:16]
        path = self.root / f"{file.stem}-{kind}-{key}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._used.add(path)
            with FileLock(path / "lock"):
                yield Folder(path)
        except OSError as error:
            if error.errno is None:  # it is in words already
                raise
            raise NotWrittenError(f"the cache {path} cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the folders that this process has used."""
        for path in self._used:
            shutil.rmtree(path, ignore_errors=True)

    def _sum(self, file: Path) -> str:
        """A sum of the content, read once as long as nobody changes the file."""
        state = file.stat()
        key = file.absolute(), state.st_size, state.st_mtime_ns
        if key not in self._sums:
            content = hashlib.sha256()
            with file.open("rb") as opened, progress(f"checking {file.name}", state.st_size) as done:
                while piece := opened.read(HASHED):
                    content.update(piece)
                    done(opened.tell())
            self._sums[key] = content.hexdigest()
        return self._sums[key]


class NpyFile:
    """A ``.npy`` file of float32, written row after row; what an interrupted process has written is kept.

    Args:
        path: the file.
        shape: (rows, width) that it has in the end.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._row = shape[1] * np.float32().itemsize
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"shape": shape, "fortran_order": False, "descr": "<f4"})
        self._begin = self._file.tell()
        self.rows = max(os.fstat(self._file.fileno()).st_size - self._begin, 0) // self._row

    def seek(self, rows: int) -> None:
        """Go on after so many rows, and forget what comes after them."""
        self._file.seek(self._begin + rows * self._row)
        self._file.truncate()

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, "<f4").data)

    def close(self) -> None:
        with self._file:  # which is closed even where a full disk takes no more
            self._file.flush()
            os.fsync(self._file.fileno())
