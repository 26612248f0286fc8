"""Reads the sizes of columns from a Parquet file's metadata: a small file may hold more than fits into memory.

Its metadata is a struct in Thrift's compact protocol; the fields' numbers are those of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import os
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

BYTE_ARRAY = 6
NUM_ROWS, ROW_GROUPS = 3, 4  # of FileMetaData
COLUMNS, META_DATA = 1, 3  # of RowGroup and ColumnChunk
TYPE, PATH, UNCOMPRESSED = 1, 3, 6  # of ColumnMetaData


def sizes(path: Path) -> tuple[int, Counter[str]]:
    """The number of rows, and for each column of texts its bytes in the row group where it is largest.

    Raises:
        ValueError: the metadata are damaged.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(end - 8 - length, 0))
        content = file.read(length)
    try:
        metadata = _Reader(content).struct()
        texts: Counter[str] = Counter()
        for group in metadata.get(ROW_GROUPS, []):
            found: Counter[str] = Counter()
            for column in group[COLUMNS]:
                said = column[META_DATA]
                if said[TYPE] == BYTE_ARRAY:
                    found[said[PATH][0].decode()] += said[UNCOMPRESSED]
            texts |= found
        return metadata[NUM_ROWS], texts
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as PARQUET: its metadata are damaged ({type(error).__name__})") from None


class _Reader:
    """Reads a struct in Thrift's compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0
        self._kinds: dict[int, Callable[[], Any]] = {
            **dict.fromkeys((1, 2, 3), self._byte),  # a boolean in a list is a byte
            **dict.fromkeys((4, 5, 6), self._integer),
            7: lambda: self._take(8),
            8: lambda: self._take(self._varint()),
            **dict.fromkeys((9, 10), self._list),
            11: self._map,
            12: self.struct,
        }

    def struct(self) -> dict[int, Any]:
        """The values of a struct's fields, by the fields' numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self._integer()
            kind = header & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._kinds[kind]()
        return fields

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _take(self, length: int) -> bytes:
        self._at += length
        if self._at > len(self._content):
            raise IndexError
        return self._content[self._at - length : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _list(self) -> list[Any]:
        header = self._byte()
        read = self._kinds[header & 15]
        return [read() for _ in range(self._varint() if header >> 4 == 15 else header >> 4)]

    def _map(self) -> None:
        if size := self._varint():
            header = self._byte()
            for _ in range(size):
                self._kinds[header >> 4]()
                self._kinds[header & 15]()
