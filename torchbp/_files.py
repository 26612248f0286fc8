"""Writes files atomically: whole or not at all."""

import glob
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class NotWrittenError(OSError):
    """A file cannot be written; the message names it and the reason."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a new, empty file beside ``path``, which replaces ``path`` at the end of the block.

    If the block fails, ``path`` stays as it was. Only a killed process leaves its new file behind; the next process that writes
    ``path`` removes it. No other existing file is written to.

    Raises:
        NotWrittenError: ``path`` is a folder, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise NotWrittenError(f"{path} is a folder; it must be a file")
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial*"):
        found = re.fullmatch(r"\.(\d+)\.\w+\.partial(\.\w+)?", left.name[len(path.name) :])
        if found and not _is_alive(int(found[1])):
            with suppress(OSError):  # another user's file
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(8)}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
        yield partial
        _sync(partial)
        os.replace(partial, path)
        if os.name == "posix":  # the new name is on disk once its folder is
            _sync(path.parent)
    except OSError as error:
        if error.errno and (error.filename is None or Path(error.filename).name.startswith(partial.name)):
            raise NotWrittenError(f"{path} cannot be written: {error.strerror}") from None
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


def write(path: Path, content: io.BytesIO) -> None:
    """Write all of the content to a file.

    Path.write_bytes keeps a view of the content in the traceback of an error, and Python 3.12.1 crashes when it collects that.
    """
    with path.open("wb") as file:
        file.write(content.getbuffer())


@contextmanager
def raising_os_error(partial: Path, kind: type[Exception]) -> Iterator[None]:
    """If a library cannot write ``partial``, append bytes to it to learn the system's error, such as a full disk.

    Args:
        partial: the file from :func:`replacing`.
        kind: the type of the library's errors.

    Raises:
        OSError: the system's error.
        NotWrittenError: the library's message, if the system has no error.
    """
    try:
        yield
    except kind as error:
        with partial.open("ab") as file:
            file.write(bytes(2**20))
        path = re.sub(r"\.\d+\.\w+\.partial$", "", str(partial))
        raise NotWrittenError(f"{path} cannot be written: {error}") from None


def _is_alive(process: int) -> bool:
    """Whether this process runs on this machine; always True except on POSIX systems, where this can be asked."""
    try:
        if os.name == "posix":
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        pass
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
