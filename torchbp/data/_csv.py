"""Parses CSV files part by part, holding a few MiB of text, from any row on."""

from __future__ import annotations

import atexit
import codecs
import csv
import encodings
import pkgutil
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TextIO

import polars as pl
from lightning.pytorch.utilities import rank_zero_only

from torchbp.data._written import MARKS, Mark, decimal_of
from torchbp.data.values import begin_with_zero, counted, is_number, needs_float64

ROWS = 2**14  # rows per part: the allocator returns memory only after a number of parts
INFERRED = 2_000  # rows that types are inferred from
TAB = {"tab": "\t", "\\t": "\t"}  # ways to type it

Types = Mapping[str, "type[pl.DataType]"]


class NotNumbersError(Exception):
    """Columns that were read as numbers hold something else. Start reading again: rows may be missing.

    Args:
        names: the columns to read as text; empty if the value may stand for a missing one, which the next reading recognises.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(*names)
        self.names = names


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Args:
        separator: the character between two values, or ``tab``; None for a comma, or a tab in ``.tsv``.
        decimal: the decimal mark, ``.`` or ``,``; None to infer it from the first rows.
        encoding: Python's name of the text's encoding; None for UTF-8, or UTF-16 if the file begins with its mark.

    Raises:
        ValueError: any other separator or decimal mark.
    """

    separator: str | None = None
    decimal: Mark | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"decimal is {self.decimal!r}; it must be '.' or ','")
        between = TAB.get(self.separator or "", self.separator)
        if between is not None and (len(between) != 1 or not between.isascii() or between in '"\r\n'):
            raise ValueError(f"separator is {between!r}; it must be one ASCII character, not a quote or a line break; or tab")

    def decimal_of(self, values: pl.Series, file: CsvFile | None) -> Mark | None:
        """The decimal mark of a column's texts, none missing; None if they are not numbers as people write them.

        Args:
            values: the texts.
            file: the file, whose own mark is preferred; None for a Parquet file.
        """
        return decimal_of(values, (self.decimal,) if self.decimal else MARKS, file.decimal if file else ".")

    def separator_in(self, path: Path) -> str:
        """The character between two values of a file."""
        return TAB.get(self.separator or "", self.separator) or ("\t" if path.suffix.lower() == ".tsv" else ",")


class CsvFile:
    """A CSV file. Its first line that is not blank names the columns.

    The first empty name stays empty; any other becomes ``Unnamed: 3`` if it is the fourth column, as in pandas.

    Args:
        path: the file.
        dialect: how it is written.
        null_values: the texts that stand for a missing value.

    Raises:
        ValueError: two columns have the same name, or the text has another encoding.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, dialect: Dialect, null_values: Sequence[str]) -> None:
        self.separator, self.null_values = dialect.separator_in(path), list(null_values)
        self.path, self.dialect = path, [self.separator, dialect.encoding]  # plain values
        self._text = utf8(path, dialect.encoding)
        # Comparing each value with the texts takes a sixth of the time: look for texts only after one was found.
        self._looked_for = [value for value in null_values if is_number(value)]
        # Polars would rename the second column with the same name.
        with self._open() as file:
            names = next((line for line in csv.reader(file, delimiter=self.separator) if line), [])
        unnamed = [number for number, name in enumerate(names) if not name]
        for number in unnamed[1:]:
            names[number] = f"Unnamed: {number}"
        for name, count in Counter(names).most_common(1):
            if count > 1:
                raise ValueError(f"{path} has {count} columns named {name!r}; each name must be unique")
        refuse_patterns(path, names)
        self.names = names
        self._decimal = dialect.decimal
        self.decimal: Mark = dialect.decimal or "."  # after `types`, the mark of most columns that have one
        self._short_rows: list[int] = []

    def types(self, exact: Collection[str], texts: Collection[str]) -> dict[str, type[pl.DataType]]:
        """The columns' types, inferred from the first rows: Float32 if all values are numbers, else String.

        Numbers are Float64 in a column of ``exact``, and if they are far from 0. Columns in ``texts``, and columns with numbers
        that begin with a 0, are String. With a decimal comma, only integers are numbers: 1.234 may be 1234.
        """
        rows = self._scan(infer_schema=False, null_values=self.null_values, truncate_ragged_lines=True, n_rows=INFERRED)
        with self._naming_encoding():
            head = rows.collect().select(pl.all().str.strip_chars())
        if self._decimal is None:
            preferred: Mark = "," if self.separator == ";" else "."
            found = Counter(decimal_of(values.drop_nulls(), MARKS, preferred) for values in head)
            self.decimal = "," if found[","] > found["."] else "."
        result = dict[str, type[pl.DataType]]()
        number: type[pl.DataType] = pl.Float64 if self.decimal == "." else pl.Int64
        for values in head:
            numbers = values.cast(number, strict=False)
            if values.name in texts or numbers.count() < values.count() or not values.count() or begin_with_zero(values):
                result[values.name] = pl.String
            elif number == pl.Int64 or values.name in exact or needs_float64(numbers):
                result[values.name] = number
            else:
                result[values.name] = pl.Float32
        return result

    def parts(self, types: Types | None = None, start: int = 0) -> Iterator[pl.DataFrame]:
        """The rows, part by part, without blank lines at the end. Missing values in columns of text stay as they are written.

        Args:
            types: the columns' types, from :meth:`types`; None for text.
            start: the number of rows to skip.

        Raises:
            NotNumbersError: a value does not fit its column's type. Polars may have returned later rows, and not all earlier
                ones.
            polars.exceptions.PolarsError: the file is not CSV.
        """
        options = {"schema_overrides": types, "skip_rows_after_header": start, "null_values": self._looked_for}
        rows = self._scan(infer_schema=False, **options)
        try:
            gaps = False  # in the last column: a row that is too short has one
            with self._naming_encoding():
                # Polars 2 streams by itself; Polars 1 would read the whole file before the first batch.
                batches = rows.collect_batches(chunk_size=ROWS, engine="streaming")
                for part in without_blank_end(batches, blank_lines_at_end(self._text)):
                    gaps = gaps or part.get_column(self.names[-1]).null_count() > 0
                    yield part.rechunk()  # it has a dozen chunks, which slow down each reader
            if gaps:
                self._short_rows = self._find_short_rows()
        except pl.exceptions.ComputeError as error:
            if "found more fields" in str(error):
                self._refuse_too_long()
            if self._looked_for != self.null_values:
                self._looked_for = self.null_values
                raise NotNumbersError([]) from None
            if bad := self._not_numbers({name: type for name, type in (types or {}).items() if type != pl.String}):
                raise NotNumbersError(bad) from None
            raise

    def warn_of_short_rows(self) -> None:
        """Warn of rows with fewer values than columns, which are read as missing values."""
        if short := self._short_rows:
            rank_zero_only(warnings.warn)(
                f"{self.path} has {counted(len(short), 'row', 'rows')} with fewer values than there are columns, row "
                f"{short[0]} first; the values that are not there are read as missing",
                stacklevel=2,
            )

    def _find_short_rows(self) -> list[int]:
        separator, needed = self.separator.encode(), len(self.names) - 1
        with self._text.open("rb") as lines:  # counting takes a fifth of the time of parsing
            if all(line.count(separator) >= needed and b'"' not in line for line in lines if line.strip(b"\r\n")):
                return []
        with self._open() as file:
            rows = csv.reader(file, delimiter=self.separator)
            next(row for row in rows if row)
            return [number for number, row in enumerate(rows, 1) if 0 < len(row) < len(self.names)]

    def _refuse_too_long(self) -> None:
        """Refuse the first row that has more values than there are columns."""
        with self._open() as file:
            rows = csv.reader(file, delimiter=self.separator)
            names = next(row for row in rows if row)
            for number, row in enumerate(rows, 1):
                if len(row) > len(names):
                    hint = other_separator(names) or f"; values are separated by {self.separator!r}, see --data.separator"
                    columns = counted(len(names), "column", "columns")
                    raise ValueError(f"{self.path} has {len(row)} values in row {number} and names {columns}{hint}")

    @contextmanager
    def _naming_encoding(self) -> Iterator[None]:
        """If the text is not UTF-8, say in which row, and which option sets the encoding."""
        try:
            yield
        except pl.exceptions.ComputeError as error:
            if "utf-8" not in str(error).lower():
                raise
            with self._text.open("rb") as file:
                for number, line in enumerate(file):
                    try:
                        line.decode()
                    except UnicodeDecodeError as wrong:
                        where = f"row {number}" if number else "the line of column names"
                        raise ValueError(
                            f"{self.path} cannot be read as CSV: {where} has {line[wrong.start : wrong.start + 8]!r}, which is "
                            "not UTF-8; set --data.encoding, for example cp1252 (Windows) or latin-1"
                        ) from None
            raise

    def _not_numbers(self, types: Types) -> list[str]:
        """The columns that have a value of another type."""
        texts = self._scan(infer_schema=False, null_values=self.null_values).select(pl.selectors.by_name(*types))
        bad = texts.select(
            (
                pl.selectors.by_name(name).is_not_null()
                & pl.selectors.by_name(name).cast(pl.Int64 if type == pl.Int64 else pl.Float64, strict=False).is_null()
            ).any()
            for name, type in types.items()
        )
        found = bad.collect(engine="streaming").row(0)
        return [name for name, is_bad in zip(types, found, strict=True) if is_bad]

    def _open(self) -> TextIO:
        return self._text.open(encoding="utf-8-sig", errors="replace", newline="")

    def _scan(self, **options: Any) -> pl.LazyFrame:
        # Polars would keep the quotes of names.
        names = lambda _: self.names  # noqa: E731
        return pl.scan_csv(self._text, separator=self.separator, with_column_names=names, glob=False, **options)


def other_separator(names: Sequence[str]) -> str:
    """A hint if the first column's name looks like several; else empty. A comma in one of several names says nothing."""
    marks = ";\t|," if len(names) == 1 else ";\t|"
    other = next((mark for mark in marks if mark in names[0]), "") if names else ""
    option = "tab" if other == "\t" else f"'{other}'"
    return f"; if its values are separated by {other!r}, set --data.separator {option}" if other else ""


def refuse_patterns(path: Path, names: Sequence[str]) -> None:
    """Refuse names that Polars always reads as patterns.

    Raises:
        ValueError: there is such a name.
    """
    for name in names:
        if name.startswith("^") and name.endswith("$"):
            raise ValueError(f"{path} has a column named {name!r}, which reads as a pattern of names; give it another one")


def utf8(path: Path, encoding: str | None) -> Path:
    """The file if it is UTF-8, else a copy in UTF-8 that is removed when this process ends.

    Raises:
        ValueError: the text is not in that encoding, or the encoding is unknown.
    """
    with path.open("rb") as file:
        mark = file.read(2)
    encoding = encoding or ("utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8")
    name = encodings.normalize_encoding(encoding).lower()
    known = {*aliases, *(module.name for module in pkgutil.iter_modules(encodings.__path__))}
    if name not in known:  # looking it up would import a module of that name
        raise ValueError(f"encoding is {encoding!r}; it must be one that Python knows, such as utf-8, utf-16 or cp1252")
    if codecs.lookup(encoding).name in ("utf-8", "ascii"):
        return path
    folder = Path(mkdtemp(prefix="torchbp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy, lines = folder / path.name, 0
    try:
        with path.open(encoding=encoding, newline="") as text, copy.open("w", encoding="utf-8", newline="") as written:
            for line in text:
                written.write(line)
                lines += 1
    except UnicodeError as error:
        where = f"from row {lines} on" if lines else "at its beginning"
        raise ValueError(f"{path} cannot be read as CSV: {where} it is not {encoding}: {error}") from None
    return copy


def without_blank_end(parts: Iterator[pl.DataFrame], blank: int) -> Iterator[pl.DataFrame]:
    """The same rows without those that Polars makes from ``blank`` lines at a file's end."""
    held = None  # rows without a value that may be the last
    for part in parts:
        rows = part if held is None else pl.concat([held, part])
        held = None
        if not blank or any(value is not None for value in rows.row(-1)):
            yield rows
            continue
        filled = rows.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
        end = filled[-1] + 1 if len(filled) else 0
        held = rows[end:]
        if end:
            yield rows[:end]
    if held is not None and len(held) > blank:
        yield held[: len(held) - blank]


def blank_lines_at_end(path: Path) -> int:
    """The number of blank lines at the end of a file, counted in its last MiB."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2**20, 0))
        text = file.read()
    return max(text[len(text.rstrip(b"\r\n")) :].count(b"\n") - 1, 0)
