"""Files that are written whole or not at all."""

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class NotWrittenError(OSError):
    """A file that cannot be written: the message says which, and why."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new, empty file beside ``path``, to be written in the block; at its end it takes the place of ``path``.

    Whatever ends the block early leaves ``path`` as it was. Only a process that is killed leaves something; the next one that
    writes ``path`` removes it. What others may have put beside ``path`` is never written to.

    Raises:
        NotWrittenError: ``path`` is a folder, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise NotWrittenError(f"{path} is a folder; a file can be written")
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial*"):
        found = re.fullmatch(r"\.(\d+)\.\w+\.partial(\.\w+)?", left.name[len(path.name) :])
        if found and not _is_alive(int(found[1])):
            with suppress(OSError):  # another user's
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(8)}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
        yield partial
        _sync(partial)
        os.replace(partial, path)
        if os.name == "posix":  # the name is on disk when its folder is
            _sync(path.parent)
    except OSError as error:
        if error.errno and (error.filename is None or Path(error.filename).name.startswith(partial.name)):
            raise NotWrittenError(f"{path} cannot be written: {error.strerror}") from None
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def asking_why(partial: Path, kind: type[Exception]) -> Iterator[None]:
    """Where a library that writes ``partial`` does not say why it cannot, ask the system, by writing there: a disk may be full.

    Args:
        partial: what :func:`replacing` gave.
        kind: of the library's errors.

    Raises:
        OSError: the system's, if it has one.
        NotWrittenError: else, with what the library said.
    """
    try:
        yield
    except kind as error:
        with partial.open("ab") as file:
            file.write(bytes(2**20))
        path = re.sub(r"\.\d+\.\w+\.partial$", "", str(partial))
        raise NotWrittenError(f"{path} cannot be written: {error}") from None


def _is_alive(process: int) -> bool:
    """Whether there is such a process on this machine; elsewhere than on POSIX systems one cannot ask, so there may be."""
    try:
        if os.name == "posix":
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
