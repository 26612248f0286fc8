"""Checks of several calls: in sequence, between another call's forward and backward, and in two threads."""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchbp.verify._outcome import Comparison
from torchbp.verify._sizes import with_rows
from torchbp.verify._subject import EXACT, Subject, gradients

Work = Callable[[], list[Tensor]]

TORCH, OURS = str(Path(torch.__file__).parent), str(Path(__file__).parent)
# More lines than any backward here has; of a longer one only these are tried.
MAX_LINES = 200


def repeated_backward(s: Subject) -> Iterator[Comparison]:
    """A second backward through a retained graph gives the same gradients."""
    tensors, upstream = s.tensors(), s.upstream()
    outputs = s.function(*tensors)
    first = [g.clone() for g in gradients(outputs, tensors, upstream, retain_graph=True)]
    second = gradients(outputs, tensors, upstream)
    yield from s.gradients_agree(first, second, EXACT, ", second time")


def accumulation(s: Subject) -> Iterator[Comparison]:
    """Gradients accumulate in .grad, with and without an existing .grad."""
    upstream = s.upstream()
    once = [g.clone() for g in s.gradients(s.tensors(), upstream)]
    for start in (None, 1.0):
        tensors = s.tensors()
        for t in tensors:
            t.grad = None if start is None else torch.full_like(t, start)
        for _ in range(2):
            torch.autograd.backward(s.function(*tensors), [v.clone() for v in upstream])
        got = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        note = f", accumulated twice{'' if start is None else ' into an existing .grad'}"
        yield from s.gradients_agree([2 * g + (start or 0.0) for g in once], got, EXACT, note)


def interleaved_calls(s: Subject) -> Iterator[Comparison]:
    """Other calls between forward and backward (other values, another batch size, no_grad) do not change gradients."""
    upstream = s.upstream()
    expected = [g.clone() for g in s.gradients(s.tensors(), upstream)]
    others = [with_rows(s, 7)] if s.batch else []
    for change in (lambda t: t.flatten().roll(1).view(t.shape), lambda t: t / 2):
        others.append(s.with_inputs([change(v.detach()) if i in s.positions else v for i, v in enumerate(s.inputs)]))
    tensors = s.tensors()
    outputs = s.function(*tensors)
    for other in others:
        between = other.tensors()
        try:
            results = other.function(*between)
            gradients(results, between, [torch.ones_like(r) for r in results])
            with torch.no_grad():
                other.function(*between)
        except Exception:  # the function rejects these values or this size
            continue
    yield from s.gradients_agree(expected, gradients(outputs, tensors, upstream), EXACT, ", other calls between")


def same_tensor_twice(s: Subject) -> Iterator[Comparison]:
    """A tensor that is passed as two inputs gets the sum of their gradients."""
    for i, j in combinations(range(len(s.names)), 2):
        tensors = list(s.tensors())
        if tensors[i].shape != tensors[j].shape:
            continue
        tensors[j] = tensors[i].detach().clone().requires_grad_()
        shared = [tensors[i] if k == j else t for k, t in enumerate(tensors)]
        try:
            upstream = [torch.ones_like(o) for o in s.function(*tensors)]
        except Exception:  # the function rejects these values
            continue
        apart = s.gradients(tensors, upstream)
        got = gradients(s.function(*shared), [tensors[i]], upstream)
        what = f"gradient of one tensor as {s.names[i]} and {s.names[j]}"
        yield s.compare(what, apart[i] + apart[j], got[0], EXACT)


def two_threads(s: Subject) -> Iterator[Comparison]:
    """Two threads that run backward through one graph at the same time both get the right gradients.

    One thread stops at each line of backward in turn, while the other runs to the end. If one of them frees the graph, either
    may raise PyTorch's error about going backward "a second time".
    """
    upstream = s.upstream()
    expected = s.gradients(s.tensors(), upstream)
    for kept in ((True, True), (True, False), (False, True)):
        for line in range(1, MAX_LINES):
            tensors = s.tensors()
            outputs = s.function(*tensors)

            def backward(retain: bool, outputs: Any = outputs, tensors: Any = tensors) -> list[Tensor]:
                return [g.clone() for g in gradients(outputs, tensors, upstream, retain_graph=retain)]

            results = _interrupted(partial(backward, kept[0]), partial(backward, kept[1]), line)
            freed = "" if all(kept) else ", while one thread frees the graph"
            for which, got in zip(("that stops", "that runs on"), results, strict=False):
                if not isinstance(got, Exception):
                    yield from s.gradients_agree(expected, got, EXACT, f", in the thread {which}{freed}")
                elif all(kept) or "second time" not in str(got):
                    raise got
            if len(results) == 1:
                break


CHECKS = [repeated_backward, accumulation, interleaved_calls, same_tensor_twice, two_threads]


def _interrupted(first: Work, second: Work, line: int) -> list[list[Tensor] | Exception]:
    """Run ``first`` in a thread that stops at its line of this number until another thread has run ``second``.

    Lines are counted as they are first reached, without PyTorch's and the audit's.

    Returns:
        The results of both; of ``first`` alone if it has fewer lines.
    """
    results: list[list[Tensor] | Exception] = []
    seen: set[tuple[str, int]] = set()

    def run(work: Work, at: int) -> None:
        try:
            got: list[Tensor] | Exception = work()
        except Exception as error:
            got = error
        results.insert(at, got)

    other = threading.Thread(target=run, args=(second, 1), daemon=True)

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename.startswith((TORCH, OURS)):
            return None
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in seen:
            seen.add(place)
            if len(seen) == line:
                other.start()
                other.join(timeout=1.0)  # it may wait for a PyTorch lock that this thread holds
        return trace

    def traced() -> None:
        sys.settrace(trace)
        run(first, 0)
        sys.settrace(None)

    one = threading.Thread(target=traced, daemon=True)
    one.start()
    one.join()
    if other.ident is not None:
        other.join()
    return results
