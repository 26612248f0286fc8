"""Reads the rows of a CSV or Parquet file, column by column or part by part."""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import polars as pl

from torchbp._files import NotWrittenError
from torchbp.data._cache import Cache, Source, write_whole
from torchbp.data._csv import CsvFile, Dialect, NotNumbersError, Types, other_separator, refuse_patterns
from torchbp.data._memory import GIB, most_bytes
from torchbp.data._parquet import sizes
from torchbp.data.progress import progress
from torchbp.data.suffixes import TABLES
from torchbp.data.values import listed, unsupported

NOT_CSV = {
    b"PAR1": "a Parquet file; its name must end in .parquet",
    b"PK\x03\x04": "a ZIP archive, such as an Excel file, not text",
}
FILE = 64  # parts of a CSV file per file of a cache
ROWS = 2**16  # rows per part of a Parquet file
TEXT = 2**26  # bytes of texts per part
ENOUGH = 1000  # rows that are compared to find out whether two files are the same up to there


class Table:
    """The rows of one or several Parquet files, read only when they are needed.

    Args:
        paths: the Parquet files.
        source: the file that they were made from, or the one file itself.
        file: the CSV file that they were made from; None for a Parquet file.
    """

    def __init__(self, paths: Sequence[Path], source: Source, file: CsvFile | None = None) -> None:
        self.source, self.file = source, file
        self._file = source.path if [*paths] == [source.path] else paths[0].parent  # for errors of reading
        with in_one_line(self._file):
            self._frame = pl.scan_parquet(list(paths), glob=False)
            self.schema = dict(self._frame.collect_schema())
            refuse_patterns(source.path, [*self.schema])
            self._length = int(self._frame.select(pl.len()).collect().item())
        # A CSV file is as large as its contents; a compressed Parquet file is not.
        self._texts = sizes(source.path)[1] if [*paths] == [source.path] else Counter[str]()

    def __len__(self) -> int:
        return self._length

    def warn(self) -> None:
        """Warn of faults in the rows that were read."""
        if self.file:
            self.file.warn_of_short_rows()

    def column(self, name: str) -> pl.Series:
        """All rows of a column.

        Raises:
            ValueError: the column takes too much memory, or cannot be read.
        """
        self._refuse_too_large([name])
        with in_one_line(self._file):
            size = 8 * len(self)
            if _is_text(self.schema[name]):  # twice: the text itself, and the values made from it
                lengths = _bytes(name, self.schema[name])
                size = 2 * (size + self._frame.select(lengths.sum()).collect(engine="streaming").item())
        if size > most_bytes():
            self._refuse(name, size)
        with in_one_line(self._file):
            # by_name takes names literally; pl.col reads * and ^...$ as patterns.
            return self._frame.select(pl.selectors.by_name(name)).collect().to_series()

    def parts(self, names: Sequence[str], start: int = 0) -> Iterator[pl.DataFrame]:
        """The rows of some columns, part by part, from the row with number ``start`` on.

        Raises:
            ValueError: the columns take too much memory, or cannot be read.
        """
        self._refuse_too_large(names)
        for first in range(start, len(self), ROWS):
            with in_one_line(self._file):
                part = self._frame.select(pl.selectors.by_name(names)).slice(first, ROWS).collect()
            yield from _of_few_bytes(part)

    def _refuse_too_large(self, names: Sequence[str]) -> None:
        """Refuse columns of texts with a row group that takes too much memory: Polars reads row groups as a whole."""
        taken = {name: self._texts[name] for name in names}
        if sum(taken.values()) > most_bytes():
            name = max(taken, key=taken.__getitem__)
            self._refuse(name, taken[name])

    def _refuse(self, name: str, size: int) -> None:
        raise ValueError(
            f"column {name!r} of {self.source.path} takes {size / GIB:.3g} GiB; with this machine's memory a column may take "
            f"{most_bytes() / GIB:.3g} GiB; leave it out (--data.ignore '{json.dumps([name])}') or take fewer rows"
        )


def _is_text(type: pl.DataType) -> bool:
    return type in (pl.String, pl.Categorical, pl.Enum)


def _bytes(name: str, type: pl.DataType) -> pl.Expr:
    """The bytes of each row's text; categories are not converted to texts, which might take all memory."""
    column = pl.selectors.by_name(name)
    return (column.str if type == pl.String else column.cat).len_bytes().cast(pl.UInt64)


def _of_few_bytes(part: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The same rows, in parts with at most about TEXT bytes of texts; repeated texts count each time."""
    texts = [_bytes(name, type) for name, type in part.schema.items() if _is_text(type)]
    total = part.select(pl.sum_horizontal(texts, ignore_nulls=True).cum_sum()).to_series() if texts else None
    if total is None or not len(total) or total[-1] <= TEXT:
        yield part
        return
    first = done = 0
    while first < len(part):
        end = max(int(total.search_sorted(done + TEXT, "right")), first + 1)
        yield part[first:end]
        first, done = end, total[end - 1]


class TableInMemory(Table):
    """The rows of a CSV file; :meth:`parts` can be used once, because it frees the rows that it returns.

    Args:
        parts: all rows.
        types: the types of their columns.
        source: the file, with its state before it was read.
        file: the CSV file.
    """

    def __init__(self, parts: Iterable[pl.DataFrame], types: Types, source: Source, file: CsvFile) -> None:
        self.source, self.file, self.schema = source, file, {name: type() for name, type in types.items()}
        self._parts = list(parts)
        self._length = sum(map(len, self._parts))

    def column(self, name: str) -> pl.Series:
        return pl.concat([part.get_column(name) for part in self._parts])

    def parts(self, names: Sequence[str], start: int = 0) -> Iterator[pl.DataFrame]:
        self._parts.reverse()
        while self._parts:
            part = self._parts.pop()
            if start < len(part):
                yield part[start:].select(pl.selectors.by_name(names))
            start = max(start - len(part), 0)


def read(
    path: Path,
    dialect: Dialect,
    null_values: Sequence[str],
    exact: Collection[str],
    texts: Collection[str],
    large: float,
    cache: Cache,
) -> Table:
    """Read a file as a table.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        dialect, null_values: as for :class:`torchbp.data._csv.CsvFile`.
        exact: the columns whose numbers need all digits, because they may be names.
        texts: the columns of a CSV file to read as text.
        large: a CSV file with more bytes is not read into memory, but converted to Parquet files.
        cache: keeps these files.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another kind, cannot be read, has no columns or no rows, or two columns with the same name.
    """
    check_file(path)
    if path.suffix.lower() == ".parquet":
        table = Table([path], Source.of(path))
    else:
        with in_one_line(path):
            source, file = Source.of(path), CsvFile(path, dialect, null_values)
            table = _read_csv(file, source, file.types(exact, texts), large, cache)
    if not table.schema:
        raise ValueError(f"{path} has no columns")
    if not len(table):
        raise ValueError(f"{path} has no rows; at least one is needed")
    return table


def stream(path: Path, dialect: Dialect, needed: Sequence[str]) -> Iterator[pl.DataFrame]:
    """A file's rows, part by part: a CSV file's values as text, a Parquet file's without columns of unsupported types.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read`, or a column of ``needed`` is missing.
    """
    check_file(path)
    with in_one_line(path):
        if path.suffix.lower() == ".parquet":
            file, table = None, Table([path], Source.of(path))
            refuse_unknown(path, needed, [*table.schema])
            parts = table.parts([name for name, type in table.schema.items() if name in needed or not unsupported(type)])
        else:
            file = CsvFile(path, dialect, null_values=())
            refuse_unknown(path, needed, file.names)
            parts = file.parts()
        part = None
        for part in parts:
            yield part
        if isinstance(file, CsvFile):
            file.warn_of_short_rows()
    if part is None:
        raise ValueError(f"{path} has no rows; at least one is needed")


def refuse_unknown(path: Path, names: Sequence[str], there: Sequence[str]) -> None:
    """Refuse names that no column has.

    Raises:
        ValueError: there is such a name.
    """
    for name in names:
        if name not in there:
            hint = "" if path.suffix.lower() == ".parquet" else other_separator(there)
            raise ValueError(f"{path} has no column {name!r}; it has {listed(closest_first(name, there))}{hint}")


def closest_first(name: str, names: Sequence[str]) -> list[str]:
    """The names, with those that are spelled like ``name`` first."""
    folded = [other.casefold() for other in names]
    close = difflib.get_close_matches(name.casefold(), folded, n=3)
    return sorted(names, key=lambda other: close.index(other.casefold()) if other.casefold() in close else len(close))


def check_file(path: Path) -> None:
    """Refuse a path that is not a table: no file, an empty one, or one of another kind.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is empty or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise ValueError(f"{path} has the extension {suffix!r}; it must be one of {', '.join(TABLES)}")
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; it needs column names and rows")
    with path.open("rb") as file:
        start = file.read(2**16)
    if suffix != ".parquet" and b"\r" in start and b"\n" not in start:
        raise ValueError(f"{path} cannot be read as {suffix[1:].upper()}: its lines end in CR; they must end in LF or CR LF")
    for mark, kind in NOT_CSV.items():
        if suffix != ".parquet" and start.startswith(mark):
            raise ValueError(f"{path} cannot be read as {suffix[1:].upper()}: it is {kind}")


def _read_csv(file: CsvFile, source: Source, types: Types, large: float, cache: Cache) -> Table:
    while True:
        try:
            if source.state[0] > large:
                return Table(_as_parquet(file, source, types, cache), source, file)
            return TableInMemory(file.parts(types), types, source, file)
        except NotNumbersError as found:  # in rows that types were not inferred from
            types = {**types, **dict.fromkeys(found.names, pl.String)}


def _as_parquet(file: CsvFile, source: Source, types: Types, cache: Cache) -> list[Path]:
    """The file converted to Parquet, once; continues a conversion that was interrupted."""

    def make(folder: Path) -> None:
        there = _parts(folder)
        if there and not _ends_as(there[-1], file, types):
            _remove(there)
        rows = int(there[-1].stem) if there else 0
        with progress(f"reading {file.path.name}", source.state[0] / bytes_a_row(file.path)) as done:
            parts = file.parts(types, rows)
            while some := list(islice(parts, FILE)):
                rows += sum(map(len, some))
                write_whole(folder / f"{rows:020}.parquet", pl.concat(some).write_parquet)
                done(rows)
        if not rows:
            raise ValueError(f"{file.path} has no rows; at least one is needed")

    made_by = [{name: str(type) for name, type in types.items()}, file.dialect, file.decimal, file.null_values]
    return _parts(cache.folder("columns", source, made_by, make))


def _parts(folder: Path) -> list[Path]:
    """The Parquet files of a folder, sorted; each name is the number of rows up to the file's end."""
    return sorted(folder.glob("*.parquet"))


def _ends_as(path: Path, file: CsvFile, types: Types) -> bool:
    """Whether the rows up to the end of a Parquet file are those of the CSV file.

    A process may have been killed before it noticed that rows were missing: see :class:`NotNumbersError`.
    """
    try:
        last = pl.read_parquet(path).tail(ENOUGH)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):  # it is damaged
        return False
    first = next(file.parts(types, int(path.stem) - len(last)), last[:0])[: len(last)]
    return len(first) > 0 and first.equals(last[: len(first)])


def _remove(paths: list[Path]) -> None:
    """Remove files, and empty the list."""
    while paths:
        paths.pop().unlink()


def bytes_a_row(path: Path) -> float:
    """About how many bytes a row has, from the first lines of a file."""
    with path.open("rb") as file:
        lines = file.readlines(2**20)
    return sum(map(len, lines)) / len(lines)


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Turn Polars' errors for a file, or for a folder of a cache, into one line.

    Raises:
        ValueError: the file or the folder cannot be read.
    """
    try:
        yield
    except NotWrittenError:  # a cache
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if path.is_dir():
            raise ValueError(f"the cache {path} is damaged: {reason}; run again to make it anew") from None
        raise ValueError(f"{path} cannot be read as {path.suffix[1:].upper()}: {reason}") from None
