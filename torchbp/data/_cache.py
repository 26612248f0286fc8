"""Keeps files made from a large data file for the next run, and continues making them after an interruption."""

import hashlib
import json
import os
import secrets
import shutil
import stat
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from torchbp._files import NotWrittenError, raising_os_error, replacing
from torchbp.data._memory import GIB
from torchbp.data.content import content_of
from torchbp.data.progress import progress

HASHED = 2**24  # bytes read at a time
COMPLETE = "complete"  # the file with the size, the time stamp and a hash of each other file


@dataclass(frozen=True)
class Source:
    """A file, with its size, time stamp and inode before it was read.

    Args:
        path: the file.
        state: the state that :meth:`of` found.
    """

    path: Path
    state: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> "Source":
        """The file with its current state.

        Raises:
            OSError: the file cannot be read.
        """
        now = path.stat()
        return cls(path, (now.st_size, now.st_mtime_ns, now.st_ino))

    def refuse_changed(self) -> None:
        """Refuse a file that has changed.

        Raises:
            ValueError: the file was written to, replaced or removed.
        """
        if not self.path.exists() or Source.of(self.path) != self:
            raise ValueError(f"{self.path} was changed while it was read; run again when it is written")

    def sum(self) -> str:
        """The SHA-256 of the content, in hexadecimal.

        Raises:
            ValueError: the file was changed meanwhile.
        """
        content = hashlib.sha256()
        with self.path.open("rb") as opened, progress(f"checking {self.path.name}", self.state[0]) as done:
            while piece := opened.read(HASHED):
                content.update(piece)
                done(opened.tell())
        self.refuse_changed()
        return content.hexdigest()


class Cache:
    """Folders with files made from data files.

    A folder's name has the data file's name, and a hash of its content, the settings and the user. If several processes want
    the same folder, one makes it and the others wait.

    Args:
        root: the folder of these folders.
        keep: False removes each folder when no process uses it any longer.
    """

    def __init__(self, root: Path, keep: bool = True) -> None:
        self.root, self.keep = Path(root), keep
        self._sums: dict[Source, str] = {}
        self._used: dict[Path, FileLock] = {}
        # Also if a run fails or is interrupted.
        weakref.finalize(self, _leave, self._used, keep)

    def folder(self, kind: str, source: Source, made_by: Any, make: Callable[[Path], object]) -> Path:
        """The folder of a kind for a file; it is made if it is missing or was changed.

        Args:
            kind: the kind of files, for the folder's name.
            source: the data file.
            made_by: the settings that, with the file's content, determine the folder's content; plain values.
            make: makes all files in the folder, where an interrupted call may have left some.

        Raises:
            NotWrittenError: the folder cannot be written, or it is damaged and another process uses it.
            ValueError: the file was changed meanwhile.
        """
        if source not in self._sums:
            self._sums[source] = source.sum()
        settled = [self._sums[source], made_by, _user()]
        key = hashlib.sha256(json.dumps(settled).encode()).hexdigest()[:16]
        path = self.root / f"{source.path.stem[:40]}-{kind}-{key}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path):
                own = _is_own(path)
                used = own and _is_used(path)
                if not (own and _is_whole(path)):
                    if used:
                        raise NotWrittenError(
                            f"the cache {path} is damaged, and another run uses it; wait for its end, or use another "
                            "--data.cache_dir"
                        )
                    if not own or (path / COMPLETE).exists():  # nothing to continue
                        _remove(path)
                    self._make(path, source, make)
                if (left := path.absolute()) not in self._used:  # absolute: the process may end in another folder
                    lock = FileLock(left / f"{secrets.token_hex(8)}.lock", thread_local=False)
                    lock.acquire()
                    self._used[left] = lock
        except OSError as error:
            if error.errno is None:  # it has a message of ours already
                raise
            raise NotWrittenError(f"the cache {path} cannot be written: {error.strerror}") from None
        return path

    def leave(self) -> None:
        """Stop using all folders; without ``keep``, the last process that uses a folder removes it."""
        _leave(self._used, self.keep)

    def _make(self, path: Path, source: Source, make: Callable[[Path], object]) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            make(path)
            source.refuse_changed()
            if source.sum() != self._sums[source]:
                raise ValueError(f"{source.path} was changed while it was read; run again when it is written")
            for left in path.glob("*.partial*"):  # left by a process that was killed
                _remove(left)
            content = json.dumps(_content(path))
            write_whole(path / COMPLETE, lambda partial: partial.write_text(content))
        except Exception:  # not an interruption: nothing here can be continued
            _remove(path)
            raise
        except BaseException:
            if not self.keep:
                _remove(path)
            raise


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file of a cache atomically."""
    with replacing(path) as partial, raising_os_error(partial, pl.exceptions.ComputeError):
        write(partial)


def refuse_too_large(path: Path, size: int, what: str) -> None:
    """Refuse to write more than 95 % of the free bytes on ``path``'s disk.

    Raises:
        NotWrittenError: ``size`` is more than that.
    """
    free = shutil.disk_usage(path).free
    if size > 0.95 * free:
        raise NotWrittenError(
            f"{what} would take {size / GIB:.3g} GiB in the cache {path}, whose disk has {free / GIB:.3g} GiB free; "
            "use another --data.cache_dir, or fewer --data.max_categories"
        )


def _user() -> int:
    return os.geteuid() if os.name == "posix" else 0


def _lock(path: Path) -> FileLock:
    """The lock that keeps other processes from a folder, also before it exists."""
    return FileLock(path.with_name(f"{path.name}.lock"))


def _leave(used: dict[Path, FileLock], keep: bool) -> None:
    while used:
        path, lock = used.popitem()
        with suppress(OSError), _lock(path).acquire(timeout=10):
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
            if not keep and not _is_used(path):
                _remove(path)
                with suppress(OSError):  # some systems do not remove open files
                    path.with_name(f"{path.name}.lock").unlink()


def _is_used(path: Path) -> bool:
    """Whether a process uses the folder; removes the locks of processes that were killed."""
    used = False
    for file in path.glob("*.lock"):
        try:
            with FileLock(file).acquire(timeout=0):
                file.unlink(missing_ok=True)
        except Timeout:
            used = True
    return used


def _is_whole(path: Path) -> bool:
    """Whether the folder is complete and unchanged."""
    try:
        return bool(json.loads((path / COMPLETE).read_bytes()) == _content(path))
    except (OSError, ValueError):
        return False


def _is_own(path: Path) -> bool:
    """Whether this is a folder, not a link, that the user owns and nobody else can write to."""
    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or (os.name == "posix" and found.st_uid != _user()):
            return False
        if os.name == "posix" and found.st_mode & 0o022:
            path.chmod(0o700)
            return bool(path.lstat().st_mode & 0o022)  # still set: the disk has no modes
    except OSError:
        return False
    return True


def _content(path: Path) -> dict[str, list[Any]]:
    """The size, the time stamp and a hash of each file.

    Raises:
        ValueError: a file is a link, or belongs to another user.
    """
    content = {}
    for file in path.iterdir():
        if file.name != COMPLETE and file.suffix != ".lock":
            found = file.lstat()
            if not stat.S_ISREG(found.st_mode) or (os.name == "posix" and found.st_uid != _user()):
                raise ValueError(f"{file} is not a regular file of this user")
            content[file.name] = [found.st_size, found.st_mtime_ns, content_of(file)]
    return content


def _remove(path: Path) -> None:
    """Remove a folder, or a file or link in its place."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


class NpyFile:
    """A ``.npy`` file of float32, written row by row; keeps the rows that an interrupted process has written.

    Args:
        path: the file.
        shape: its final (rows, width).
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._row = shape[1] * np.float32().itemsize
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"shape": shape, "fortran_order": False, "descr": "<f4"})
        self._begin = self._file.tell()
        self.rows = max(os.fstat(self._file.fileno()).st_size - self._begin, 0) // self._row

    def seek(self, rows: int) -> None:
        """Continue after this many rows, and drop the rest."""
        self._file.seek(self._begin + rows * self._row)
        self._file.truncate()

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, "<f4").data)

    def close(self) -> None:
        with self._file:  # closes it also if the disk is full
            self._file.flush()
            os.fsync(self._file.fileno())
