"""Reads tensors and plain values from files that a stranger may have made, and checks them first."""

import inspect
import io
import math
import os
import pickletools
import re
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

# The names in a file that torch.save wrote of tensors and plain values.
GLOBALS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch [A-Z][A-Za-z0-9]*Storage")
PICKLE = "data.pkl"  # torch.save's name of the pickle
MAX_DEPTH = 100  # levels of nested lists and dicts
MAX_INTEGER = 2**53  # a float holds every integer up to this

Count = Annotated[int, "an integer of 0 or more", lambda value: value >= 0]


def read_plain(path: str | Path) -> Any:
    """Read tensors and plain values that :func:`torch.save` wrote, to the CPU.

    Raises:
        PermissionError: the file cannot be read.
        ValueError: the file is damaged, has other values, or would take more memory than its size.
    """
    try:
        archive, most = _checked(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(archive, map_location="cpu", weights_only=True)
        _refuse_not_plain(value, most, archive.getbuffer().nbytes)
    except PermissionError:
        raise
    except Exception as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(
            f"{path} is damaged or no checkpoint of torchbp: it cannot be read as tensors and plain values ({reason})"
        ) from None
    return value


def _checked(path: str | Path) -> tuple[io.BytesIO, int]:
    """Check an archive; returns a new archive of the entries that were checked, and the size of its pickle.

    PyTorch must not read the file itself: it looks for the list of entries in another place than Python's zipfile, so the two
    may see different archives in one file.
    """
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it declares more bytes than it has")
        first = entries[0].filename.partition("/")[0]
        names = {entry.filename.removeprefix(f"{first}/").lower(): entry for entry in entries}
        if PICKLE not in names or len(names) < len(entries):
            raise zipfile.BadZipFile
        _refuse_pickle(data := archive.read(names[PICKLE]))
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as anew:
            for name, entry in names.items():
                anew.writestr(f"archive/{name}", archive.read(entry))  # read() compares checksums
    content.seek(0)
    return content, len(data)


def _refuse_pickle(data: bytes) -> None:
    """Refuse a pickle that names anything but tensors, or has integers so large that many share a hash."""
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in ("STACK_GLOBAL", "INST") or (operation.name == "GLOBAL" and not GLOBALS.fullmatch(str(argument))):
            raise ValueError(f"it names {shown(argument)}")
        if isinstance(argument, int) and not -(2**63) <= argument < 2**63:
            raise ValueError("it has an integer of more than 64 bits")


def _refuse_not_plain(value: Any, most: int, size: int) -> None:
    """Refuse other types, more values than ``most``, and tensors that overlap or are larger than ``size`` bytes together."""
    level, seen, bytes_held = [value], 0, 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            seen += 1
            if type(value) is OrderedDict:
                vars(value).clear()  # attributes could hide its methods
            if type(value) in (dict, OrderedDict):
                below += [*value.keys(), *value.values()]
            elif type(value) in (list, tuple):
                below += value
            elif isinstance(value, Tensor):
                bytes_held += value.numel() * value.element_size()
                if value.layout is not torch.strided or value.is_quantized or not value.is_contiguous():
                    raise ValueError("it has a tensor that is not contiguous")
            elif value is not None and type(value) not in (str, int, float, bool):
                raise ValueError(f"it has a {type(value).__name__}")
            # A value takes at least one byte of the pickle, unless it is repeated.
            if seen + len(below) > most or bytes_held > size:
                raise ValueError("it declares more than it holds")
        level = below
    if level:
        raise ValueError(f"it has lists or dicts more than {MAX_DEPTH} deep")


def shown(value: Any) -> str:
    """A value for a message: short, in one line, without terminal control characters."""
    try:
        text = repr(value).replace("\n", " ")  # a tensor's repr has several lines
    except ValueError:  # an integer of more than 4300 digits
        text = "a number with too many digits to show"
    return text if len(text) <= 80 else f"{text[:76]} ..."


def refuse_misfit(name: str, value: Any, annotation: Any) -> None:
    """Refuse a value that is not of the annotated type.

    Raises:
        ValueError: it is not.
    """
    if not fits(value, annotation):
        raise ValueError(f"{name} is {shown(value)}; it must be {described(annotation)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value has the annotated type, including all nested values.

    A dataclass or TypedDict means a dict of its fields; ``Annotated[T, text, holds]`` means a T for which ``holds`` is true.
    Numbers must be finite, and integers at most 2^53 in size; True and False are not numbers.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return fits(value, arguments[0]) and bool(arguments[2](value))
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is list or origin is Sequence:
        return type(value) in (list, tuple) and all(fits(one, arguments[0]) for one in value)
    if origin is dict or origin is Mapping:
        return isinstance(value, dict) and all(fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items())
    if annotation is None or annotation is types.NoneType:
        return value is None
    if annotation in (int, float):
        number = type(value) is int or (annotation is float and type(value) is float)
        return number and math.isfinite(value) and (type(value) is float or abs(value) <= MAX_INTEGER)
    if is_dataclass(annotation) or hasattr(annotation, "__required_keys__"):
        return _fits_fields(value, annotation)
    return isinstance(value, annotation)


def _fits_fields(value: Any, annotation: Any) -> bool:
    hints = get_type_hints(annotation, include_extras=True)
    if is_dataclass(annotation):
        needed = {field.name for field in fields(annotation) if field.default is MISSING and field.default_factory is MISSING}
    else:
        needed = {*annotation.__required_keys__}
    return (
        isinstance(value, dict)
        and needed <= value.keys() <= hints.keys()
        and all(fits(one, hints[name]) for name, one in value.items())
    )


def described(annotation: Any) -> str:
    """The annotated type in words, for a message."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return str(arguments[1])
    if origin in (Union, types.UnionType):
        return " or ".join(described(one) for one in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    if origin is list or origin is Sequence:
        return f"a list of {described(arguments[0])}"
    if annotation is None or annotation is types.NoneType:
        return "None"
    words = {int: "an integer up to 2^53", float: "a finite number", str: "a text", bool: "True or False", Tensor: "a tensor"}
    return words.get(annotation, "as torchbp saves it")


def is_plain(annotation: Any) -> bool:
    """Whether the annotation allows only plain values: no class, function or path."""
    if get_origin(annotation) is Literal:
        return True
    parts = get_args(annotation)
    return all(map(is_plain, parts)) if parts else annotation in (int, float, str, bool, None, types.NoneType)


def plain_arguments(function: Callable[..., Any], saved: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The saved values that are plain arguments of ``function``, checked against its annotations.

    Args:
        name: a prefix for the values' names in messages.

    Raises:
        ValueError: a value does not have its annotated type.
    """
    hints, known = get_type_hints(function), inspect.signature(function).parameters
    arguments = {key: value for key, value in saved.items() if key in known and is_plain(hints.get(key))}
    for key, value in arguments.items():
        refuse_misfit(f"{name}{key}", value, hints[key])
    return arguments
