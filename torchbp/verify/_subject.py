"""The function under audit, and the finite differences that its derivatives are measured against."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.verify._result import Comparison, Failed, Tolerance

Tensors = Sequence[Tensor]

# Central differences as torch.autograd.gradcheck takes and judges them.
EPS = 1e-6
FINITE_DIFFERENCES = Tolerance(1e-5, 1e-3)
# Two ways through the same formulas in float64: rounding alone may tell them apart.
EXACT = Tolerance(1e-10, 1e-9)
# Some twenty seconds' worth of finite differences, and a Hessian of a gigabyte.
MAX_ENTRIES = 10_000
# Far from the seeds that people draw inputs with, lest an upstream gradient be an input over again.
SEED = 31415926


@dataclass(frozen=True)
class Subject:
    """``call`` of ``inputs``: float64 tensors that require grad, the ones differentiated, and anything else beside them."""

    call: Callable[..., Any]
    inputs: tuple[Any, ...]
    input_names: tuple[str, ...]
    output_positions: tuple[int, ...]
    functions: tuple[type[Function], ...]
    reference: Callable[..., Any] | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Subject":
        """The same function of changed input tensors, of which the same require grad."""
        inputs = (change(v.detach()).requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v for v in self.inputs)
        return replace(self, inputs=tuple(inputs))

    def to(self, dtype: torch.dtype | None = None, device: str | None = None) -> "Subject":
        """The same function of inputs on another device, the floating-point ones in another dtype."""
        return self.mapped(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    @property
    def device_type(self) -> str:
        return self.tensors()[0].device.type

    @property
    def positions(self) -> list[int]:
        """Which of the inputs are differentiated."""
        return [i for i, value in enumerate(self.inputs) if isinstance(value, Tensor) and value.requires_grad]

    @property
    def names(self) -> list[str]:
        """What the differentiated inputs are called."""
        return [self.input_names[i] for i in self.positions]

    def tensors(self) -> tuple[Tensor, ...]:
        """New copies of the differentiated inputs, which require grad."""
        return tuple(self.inputs[i].detach().clone().requires_grad_() for i in self.positions)

    def arguments(self, tensors: Tensors) -> list[Any]:
        """All arguments of ``call``, ``tensors`` standing where the differentiated inputs stand."""
        arguments = list(self.inputs)
        for i, tensor in zip(self.positions, tensors, strict=True):
            arguments[i] = tensor
        return arguments

    def function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The differentiable outputs, as a function of the differentiated inputs alone."""
        return self.outputs(self.call(*self.arguments(tensors)))

    def outputs(self, result: Any) -> tuple[Tensor, ...]:
        """The differentiable ones among what ``call`` returned."""
        results = as_tuple(result)
        return tuple(results[i] for i in self.output_positions)

    def upstream(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Upstream gradients for the outputs, from N(0, 1)."""
        generator = torch.Generator().manual_seed(SEED + seed)
        with torch.no_grad():
            outputs = self.function(*self.tensors())
        return tuple(torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs)

    def directions(self, seed: int = 0) -> tuple[Tensor, ...]:
        """One direction in the space of the differentiated inputs, from N(0, 1)."""
        generator = torch.Generator().manual_seed(SEED + 1000 + seed)
        return tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.detach()) for t in self.tensors())

    def gradients(self, tensors: Tensors, upstream: Tensors, **options: Any) -> tuple[Tensor, ...]:
        """Σ upstream·output by each differentiated input, through the function's backward."""
        return gradients(self.function(*tensors), tensors, upstream, **options)

    def gradients_agree(self, expected: Tensors, got: Tensors, tolerance: Tolerance, note: str = "") -> Iterator[Comparison]:
        """A comparison for each differentiated input."""
        for name, e, g in zip(self.names, expected, got, strict=True):
            yield Comparison(f"gradient of {name}{note}", e, g, tolerance)

    def outputs_agree(self, expected: Tensors, got: Tensors, tolerance: Tolerance, note: str = "") -> Iterator[Comparison]:
        """A comparison for each output."""
        for i, e, g in zip(self.output_positions, expected, got, strict=True):
            # Copies, lest a backward that comes later writes into them.
            yield Comparison(f"output {i}{note}", e.detach().clone(), g.detach().clone(), tolerance)


def subject_of(
    function: type[Function] | Callable[..., Any], inputs: Sequence[Any], reference: Callable[..., Any] | None, device: str
) -> Subject:
    """The function with its inputs on ``device``; ValueError where they cannot be audited."""
    is_class = isinstance(function, type) and issubclass(function, Function)
    call = function.apply if is_class else function  # type: ignore[union-attr]
    names = parameter_names(function.forward if is_class else function, len(inputs))  # type: ignore[union-attr]
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, Tensor) and value.requires_grad and value.dtype != torch.float64:
            raise ValueError(f"{name} is {value.dtype}; an input that requires grad must be torch.float64")
        if isinstance(value, Tensor) and value.requires_grad and not value.numel():
            raise ValueError(f"{name} has shape {tuple(value.shape)}; an input that requires grad must have entries")
    subject = Subject(call, tuple(inputs), names, (), (), reference).to(device=device)
    if not subject.positions:
        raise ValueError("no input requires grad; at least one float64 tensor must")
    if (entries := sum(t.numel() for t in subject.tensors())) > MAX_ENTRIES:
        raise ValueError(f"inputs have {entries} entries to differentiate by; they may have {MAX_ENTRIES}: each is moved alone")
    try:
        results, again = (as_tuple(call(*subject.arguments(subject.tensors()))) for _ in range(2))
    except Exception as error:  # whatever a function raises for inputs that do not suit it
        kinds = [f"{tuple(v.shape)} {v.dtype}" if isinstance(v, Tensor) else repr(v) for v in inputs]
        why = one_line(error).rstrip(".")
        hint = "; one that works in place takes a callable that hands it a copy" if "in-place" in str(error) else ""
        raise ValueError(f"the function cannot be called with {', '.join(kinds)}: {why}{hint}") from error
    outputs = [i for i, result in enumerate(results) if isinstance(result, Tensor) and result.requires_grad]
    if not outputs:
        raise ValueError("no output requires grad, though inputs do: there is no derivative to audit")
    for i in outputs:
        if not results[i].isfinite().all():
            raise ValueError(f"output {i} has NaN or infinity; inputs must lie where the function is finite")
        if not torch.allclose(results[i], again[i], EXACT.relative, EXACT.absolute):
            raise ValueError(f"output {i} is another one each time; the function must be deterministic, as by a fixed seed")
    # Under torch.func a function may go by other Functions than it goes by elsewhere.
    functions = dict.fromkeys((*functions_behind([results[i] for i in outputs]), *_functions_under_transforms(subject)))
    return replace(subject, output_positions=tuple(outputs), functions=tuple(functions))


def parameter_names(function: Callable[..., Any], count: int) -> tuple[str, ...]:
    """What a function calls its first ``count`` arguments, ctx not counted; 'input 0' where it gives them no name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # builtins have no signature
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = names[1:] if names[:1] == ["ctx"] else names
    return tuple(names[i] if i < len(names) else f"input {i}" for i in range(count))


def functions_behind(outputs: Tensors) -> tuple[type[Function], ...]:
    """The autograd Functions written in Python that stand in the outputs' graph."""
    nodes: list[Any] = [output.grad_fn for output in outputs]
    seen = set()
    found: dict[type[Function], None] = {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found[type(node)._forward_cls] = None  # type: ignore[attr-defined]
        nodes += [next_node for next_node, _ in node.next_functions]
    return tuple(found)


def _functions_under_transforms(s: Subject) -> tuple[type[Function], ...]:
    """Those that are applied under torch.func.vjp; none where it cannot be used."""
    found: dict[type[Function], None] = {}
    own = Function.__dict__["apply"]

    def recorded(function: type[Function], *args: Any, **options: Any) -> Any:
        found[function] = None
        return own.__func__(function, *args, **options)

    Function.apply = classmethod(recorded)  # type: ignore[method-assign, assignment]
    try:
        torch.func.vjp(lambda *t: s.call(*s.arguments(t)), *s.tensors())
    except Exception:  # whatever a function raises that torch.func refuses
        return ()
    finally:
        Function.apply = own  # type: ignore[method-assign]
    return tuple(found)


@contextmanager
def backward_changed(functions: Sequence[type[Function]], change: Callable[..., tuple[Any, ...]]) -> Iterator[None]:
    """Meanwhile each Function's backward returns ``change(function, ctx, upstream, gradients)``."""

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


def gradients(outputs: Tensors, tensors: Tensors, upstream: Tensors, **options: Any) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``, with zeros for what the outputs do not depend on."""
    batch = upstream[0].shape[:1] if options.get("is_grads_batched") else ()
    live = [(output, v) for output, v in zip(outputs, upstream, strict=True) if output.requires_grad]
    outputs, upstream = zip(*live, strict=True) if live else ((), ())
    found = torch.autograd.grad(outputs, tensors, upstream, allow_unused=True, **options) if live else [None] * len(tensors)
    return tuple(t.new_zeros(*batch, *t.shape) if g is None else g for g, t in zip(found, tensors, strict=True))


def numerical_gradient(scalar: Callable[..., Tensor], tensors: Tensors) -> tuple[Tensor, ...]:
    """Central differences of ``scalar(*tensors)`` in every entry of every tensor."""
    result = []
    for i, tensor in enumerate(tensors):
        gradient = torch.zeros_like(tensor, memory_format=torch.contiguous_format, requires_grad=False)
        for entry in range(tensor.numel()):
            direction = torch.zeros_like(gradient)
            direction.view(-1)[entry] = 1
            (slope,) = numerical_derivative(lambda *t: (scalar(*t),), tensors, {i: direction})
            gradient.view(-1)[entry] = slope
        result.append(gradient)
    return tuple(result)


def numerical_derivative(
    function: Callable[..., Tensors], tensors: Tensors, directions: dict[int, Tensor]
) -> tuple[Tensor, ...]:
    """Central difference of every output of ``function(*tensors)`` as tensor i moves along ``directions[i]``."""

    def at(step: float) -> Tensors:
        moved = [t.detach() + step * directions[i] if i in directions else t.detach().clone() for i, t in enumerate(tensors)]
        return [output.detach() for output in function(*(t.requires_grad_() for t in moved))]

    return tuple((high - low) / (2 * EPS) for high, low in zip(at(EPS), at(-EPS), strict=True))


def dot(left: Tensors, right: Tensors) -> Tensor:
    """Σ left·right over all entries of all tensors."""
    total = (left[0] * right[0]).sum()
    for a, b in zip(left[1:], right[1:], strict=True):
        total = total + (a * b).sum()
    return total


def as_tuple(result: Any) -> tuple[Any, ...]:
    """A function's outputs, be it one or several."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def one_line(error: BaseException) -> str:
    """What the error says first and, where it goes on to explain that, its explanation."""
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    # Dynamo explains itself in a line of its own, torch.export in a list.
    explanation = next((line for line in rest if line.startswith(("Explanation: ", "- "))), "")
    return " ".join([first, explanation or "".join(rest[:1] if first.endswith(":") else [])]).rstrip()


def check_dtype(what: str, expected: torch.dtype, got: torch.dtype) -> None:
    if got != expected:
        raise Failed(f"{what} is {got}, expected {expected}")
