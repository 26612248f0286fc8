"""Deceptive checkpoints: archives that two readers read differently, and pickles that hide their contents."""

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from torchbp._plain import read_plain

LIST, END = b"PK\x01\x02", b"PK\x05\x06"


def saved(value: Any) -> dict[str, bytes]:
    """The entries of an archive that torch.save writes, by name."""
    content = io.BytesIO()
    torch.save(value, content)
    with zipfile.ZipFile(content) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as written:
        for name, data in entries.items():
            written.writestr(name, data)
    return content.getvalue()


def two_in_one(first: bytes, second: bytes) -> bytes:
    """Two archives in one file: zipfile reads the second, whose list is just before the end; other readers read the first, to
    whose list the end record points."""
    begin, end = first.index(LIST), first.rindex(END)
    listed, rest = second.index(LIST), second.rindex(END)
    entries, at = bytearray(second[listed:rest]), 0
    while at < len(entries):  # zipfile shifts each offset by list's true place - stated place
        struct.pack_into("<L", entries, at + 42, struct.unpack_from("<L", entries, at + 42)[0] + begin - listed)
        at += 46 + sum(struct.unpack_from("<HHH", entries, at + 28))
    return first[:end] + second[:listed] + bytes(entries) + first[end:]


def test_only_the_archive_that_was_checked_is_read(tmp_path: Path) -> None:
    path, bomb = tmp_path / "two.ckpt", archive(saved({"a": torch.randn(10**4).repeat(2)}), zipfile.ZIP_DEFLATED)
    path.write_bytes(two_in_one(bomb, archive(saved({"a": torch.ones(1)}))))
    assert torch.load(path)["a"].shape == (2 * 10**4,)
    assert read_plain(path)["a"].equal(torch.ones(1))


def with_pickle(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A file of {"a": ...} whose pickle is changed."""
    entries = saved(OrderedDict(a=1))
    path.write_bytes(archive({**entries, "archive/data.pkl": change(entries["archive/data.pkl"])}))
    return path


def test_attributes_do_not_replace_methods(tmp_path: Path) -> None:
    ordered = b"ccollections\nOrderedDict\n"
    attributes = b"}(X\x04\x00\x00\x00keys" + ordered + b"X\x06\x00\x00\x00values" + ordered + b"ub."
    hidden = b"(X\x01\x00\x00\x00b" + ordered + b"u"  # a class, not a plain value
    path = with_pickle(tmp_path / "hidden.ckpt", lambda data: data[:-1] + hidden + attributes)
    assert list(torch.load(path).keys()) == []
    with pytest.raises(ValueError, match="it has a type"):
        read_plain(path)
    path = with_pickle(tmp_path / "attributes.ckpt", lambda data: data[:-1] + attributes)
    assert [*read_plain(path).items()] == [("a", 1)]


def test_what_nests_deeply_is_refused(tmp_path: Path) -> None:
    def nested(depth: int) -> Path:
        inside = b"]" * depth + b"a" * (depth - 1)
        return with_pickle(tmp_path / "deep.ckpt", lambda data: data[:-1] + b"X\x01\x00\x00\x00b" + inside + b"s.")

    assert read_plain(nested(90))["a"] == 1
    for depth in (200, 10**5):
        with pytest.raises(ValueError, match=r"deep\.ckpt is damaged .*\(it has lists or dicts more than 100 deep\)"):
            read_plain(nested(depth))


def test_integers_that_all_have_one_hash_are_refused(tmp_path: Path) -> None:
    numbers = [number * (2**61 - 1) for number in range(2, 10)]
    assert {*map(hash, numbers)} == {0}
    torch.save(dict.fromkeys(numbers, 0), tmp_path / "slow.ckpt")
    with pytest.raises(ValueError, match="it has an integer of more than 64 bits"):
        read_plain(tmp_path / "slow.ckpt")
