"""CSV files, parsed part by part: no more of the text than a few MiB is in memory, and reading can begin at any row."""

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from torchbp.data._values import is_number, no_numbers

ROWS = 2**14  # in a part: the allocator gives memory back only after so many parts
INFERRED = 2_000  # rows that types are judged by

Types = Mapping[str, type[pl.DataType]]


class NotNumbersError(Exception):
    """Columns that were to be read as numbers hold something else; reading is to begin anew, for rows may be missing.

    Args:
        names: those to be read as text; none where it may be a missing value, which will be found.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(*names)
        self.names = names


class CsvFile:
    """A CSV file whose first line that is not blank names the columns.

    Args:
        path: the file, of UTF-8 text.
        separator: what is between two values.
        null_values: the texts that stand for a missing value.

    Raises:
        ValueError: two columns of one name.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, separator: str, null_values: Sequence[str]) -> None:
        self.path = path
        self.separator, self.null_values = separator, list(null_values)
        # To compare each value with the texts among them takes a sixth of the time: they are looked for once there is one.
        self._looked_for = [value for value in null_values if is_number(value)]
        # Polars would give the second column of a name another name.
        with self._open() as file:
            names = next((line for line in csv.reader(file, delimiter=separator) if line), [])
        for name, count in Counter(names).most_common(1):
            if count > 1:
                raise ValueError(f"{path} has {count} columns named {name!r}; each name must be there once")

    def names(self) -> list[str]:
        return self._scan(infer_schema=False).collect_schema().names()

    def types(self, exact: Collection[str], texts: Collection[str]) -> dict[str, type[pl.DataType]]:
        """What the first rows suggest: String, or where all values are numbers Float32, Float64 for a column in ``exact``.

        Columns in ``texts`` are String, whatever they hold.
        """
        schema = self._scan(infer_schema_length=INFERRED, null_values=self.null_values).collect_schema()
        number = {name: pl.Float64 if name in exact else pl.Float32 for name in schema}
        return {n: number[n] if type.is_numeric() and n not in texts else pl.String for n, type in schema.items()}

    def parts(self, types: Types | None = None, start: int = 0) -> Iterator[pl.DataFrame]:
        """The rows, part by part; blank lines at the end are none, and among texts missing values stand as they are written.

        Args:
            types: each column's, as :meth:`types` gives them; None for text.
            start: the number of rows that are left out.

        Raises:
            NotNumbersError: a value that does not suit its column's type. Polars may have given rows after it, but not
                all before.
            polars.exceptions.PolarsError: what is no CSV.
        """
        options = {"schema_overrides": types, "skip_rows_after_header": start, "null_values": self._looked_for}
        rows = self._scan(infer_schema=False, **options)
        try:
            for part in without_blank_end(rows.collect_batches(chunk_size=ROWS), blank_lines_at_end(self.path)):
                yield part.rechunk()  # it comes in a dozen pieces, each of which costs whoever reads it
        except pl.exceptions.ComputeError as error:
            if "found more fields" in str(error):
                self._refuse_too_long()
            if self._looked_for != self.null_values:
                self._looked_for = self.null_values
                raise NotNumbersError([]) from None
            numeric = [name for name, type in (types or {}).items() if type != pl.String]
            if bad := self._not_numbers(numeric):
                raise NotNumbersError(bad) from None
            raise

    def _refuse_too_long(self) -> None:
        """Refuse the first row that has more values than there are columns."""
        with self._open() as file:
            rows = csv.reader(file, delimiter=self.separator)
            names = next(row for row in rows if row)
            for number, row in enumerate(rows, 1):
                if len(row) > len(names):
                    raise ValueError(
                        f"{self.path} has {len(row)} values in row {number} and names {len(names)} columns; values are "
                        f"separated by {self.separator!r}, which --data.separator can change"
                    )

    def _not_numbers(self, names: Sequence[str]) -> list[str]:
        texts = self._scan(infer_schema=False, null_values=self.null_values)
        found = texts.select(no_numbers(pl.col(names)).any()).collect(engine="streaming")
        return [name for name in names if found[name].item()]

    def _open(self) -> TextIO:
        return self.path.open(encoding="utf-8-sig", errors="replace", newline="")

    def _scan(self, **options: Any) -> pl.LazyFrame:
        return pl.scan_csv(self.path, separator=self.separator, glob=False, **options)


def without_blank_end(parts: Iterator[pl.DataFrame], blank: int) -> Iterator[pl.DataFrame]:
    """The same rows, but for those that polars makes of ``blank`` lines at a file's end."""
    held = None  # rows without a value, of which it is not known yet whether they are the last
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
    """How many there are, of up to a MiB."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2**20, 0))
        text = file.read()
    return max(text[len(text.rstrip(b"\r\n")) :].count(b"\n") - 1, 0)
