"""Recognises rows that a checkpoint was trained on, by fingerprints of their content."""

import re
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from torchbp.data.rows import Rows

REMEMBERED = 2**15  # maximum fingerprints of training rows in a checkpoint: the lowest, which are a random sample
Fingerprints = Annotated[str, "16 hexadecimal digits for each row", re.compile(r"([0-9a-f]{16})*").fullmatch]


def as_digits(found: Tensor) -> Fingerprints:
    """Up to 32,768 different fingerprints as hexadecimal digits, a plain value for a checkpoint."""
    return found.unique()[:REMEMBERED].numpy().astype("<i8").tobytes().hex()


def from_digits(digits: Fingerprints) -> Tensor:
    """The fingerprints of :func:`as_digits`, in ascending order."""
    return torch.from_numpy(np.frombuffer(bytes.fromhex(digits), "<i8").astype(np.int64))


def seen_among(rows: Rows, known: Tensor) -> tuple[int, int]:
    """How many rows have a fingerprint in ``known``, from :func:`from_digits`, and how many were compared.

    If ``known`` is a sample, only rows in the range of this sample are compared.
    """
    found = fingerprints(rows)
    if len(known) == REMEMBERED:
        found = found[found <= known[-1]]
    return int(torch.isin(found, known).sum()), len(found)


def fingerprints(rows: Rows) -> Tensor:
    """A hash of each row's content, (N) int64, the same for equal x and y on every machine.

    It is a sum of the values' bits, each multiplied by an odd number for its column, mixed as in SplitMix64. Two different rows
    have the same hash with a probability of about 2**-63.
    """
    width = sum(shape[1] for shape in rows.shapes)
    odd = _mixed(np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
    parts = [np.empty(0, np.uint64)]
    for chunk in rows.chunks():
        values = np.column_stack([tensor.cpu().numpy() for tensor in chunk]) + np.float32(0)  # -0.0 is 0.0
        bits = _mixed(values.view(np.uint32).astype(np.uint64) + odd)
        parts.append(_mixed((bits * odd).sum(1, dtype=np.uint64)))
    return torch.from_numpy(np.concatenate(parts).view(np.int64))


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
