"""Finds the autograd Functions behind a callable and the names of their arguments, and changes their backward."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def parameter_names(function: Callable[..., Any], count: int) -> tuple[str, ...]:
    """The names of a function's first ``count`` arguments without ctx; 'input 0' for one without a name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # builtins have no signature
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = names[1:] if names[:1] == ["ctx"] else names
    return tuple(names[i] if i < len(names) else f"input {i}" for i in range(count))


def nodes_behind(outputs: Sequence[Tensor]) -> Iterator[tuple[type[Function], Any]]:
    """Each Python Function in the outputs' graph, with its node, which is the ctx of that call."""
    nodes: list[Any] = [output.grad_fn for output in outputs]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            yield type(node)._forward_cls, node  # type: ignore[attr-defined]
        nodes += [next_node for next_node, _ in node.next_functions]


def functions_under(call: Callable[[], Any]) -> tuple[type[Function], ...]:
    """The Functions that ``call`` applies; none if it raises."""
    found: dict[type[Function], None] = {}
    own = Function.__dict__["apply"]

    def recorded(function: type[Function], *args: Any, **options: Any) -> Any:
        found[function] = None
        return own.__get__(None, function)(*args, **options)

    Function.apply = classmethod(recorded)  # type: ignore[method-assign, assignment]
    try:
        call()
    except Exception:  # torch.func rejects the function
        return ()
    finally:
        Function.apply = own  # type: ignore[method-assign]
    return tuple(found)


@contextmanager
def backward_changed(functions: Sequence[type[Function]], change: Callable[..., tuple[Any, ...]]) -> Iterator[None]:
    """In the block, each Function's backward returns ``change(function, ctx, upstream, gradients)``."""

    def changed(function: type[Function], backward: Callable[..., Any]) -> staticmethod:
        def backward_then_change(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
            return change(function, ctx, upstream, as_tuple(backward(ctx, *upstream)))

        return staticmethod(backward_then_change)

    kept = []
    try:
        for function in functions:
            name = "vjp" if function.vjp is not Function.vjp else "backward"
            kept.append((function, name, function.__dict__.get(name)))
            setattr(function, name, changed(function, getattr(function, name)))
        yield
    finally:
        for function, name, own in kept:
            if own is None:
                delattr(function, name)  # it was inherited
            else:
                setattr(function, name, own)


def captured_tensors(function: Any) -> dict[str, bool]:
    """Tensors and modules that a callable uses but does not take as arguments, by name, and whether they are float64.

    Looks in its closure, its defaults, its module's globals, a partial's arguments and the object of a bound method.
    """
    found: dict[str, bool] = {}
    seen: set[int] = set()

    def look_at(name: str, value: Any, deep: bool = True) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            found[name] = found.get(name, False) or value.dtype in (torch.float64, torch.complex128)
        elif isinstance(value, torch.nn.Module):
            for t in (*value.parameters(), *value.buffers()):
                found[name] = found.get(name, False) or t.dtype in (torch.float64, torch.complex128)
        elif isinstance(value, list | tuple):
            for item in value:
                look_at(name, item, deep)
        elif isinstance(value, functools.partial):
            look_at(name, [value.func, *value.args, *value.keywords.values()])
        elif inspect.ismethod(value):
            look_at(name, value.__self__)
            look_at(name, value.__func__)
        elif inspect.isfunction(value) and deep:
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            for its_name, cell in cells:
                try:
                    look_at(its_name, cell.cell_contents)
                except ValueError:  # an empty cell
                    continue
            look_at(name, list(value.__defaults__ or ()))
            for its_name in value.__code__.co_names:
                look_at(its_name, value.__globals__.get(its_name), deep=False)

    look_at("it", function)
    return found


def as_tuple(result: Any) -> tuple[Any, ...]:
    """A function's output or outputs as a tuple."""
    # A tuple of types: Dynamo before PyTorch 2.10 has no union of types.
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
