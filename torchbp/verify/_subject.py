"""The function under audit: its inputs, the reference values of its derivative, and the refusal of what cannot be audited."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.verify._differences import (
    Tensors,
    dot,
    numerical_derivative,
    numerical_gradient,
    slope_and_doubt,
)
from torchbp.verify._functions import as_tuple, captured_tensors, functions_under, nodes_behind, parameter_names
from torchbp.verify._outcome import Comparison, Skipped, Tolerance, Wrong
from torchbp.verify._result import one_line

# Two settings of the same formulas in float64 may differ by rounding only.
EXACT = Tolerance(1e-10, 1e-9)
# About twenty seconds of finite differences, and a Hessian of a gigabyte.
MAX_ENTRIES = 10_000
# Not a seed that people use: an upstream gradient must not equal an input.
SEED = 31415926
CONSISTENCY: Literal["consistency"] = "consistency"

Surrogate = Callable[..., Any] | Literal["consistency"] | None


@dataclass(frozen=True)
class Subject:
    """A function and its inputs: the float64 tensors that require grad are differentiated, the others may be anything."""

    call: Callable[..., Any]
    inputs: tuple[Any, ...]
    input_names: tuple[str, ...]
    output_positions: tuple[int, ...] = ()
    functions: tuple[type[Function], ...] = ()
    reference: Callable[..., Any] | None = None
    surrogate: Surrogate = None
    tolerance: float = 0.0
    captured: Mapping[str, bool] = field(default_factory=dict)

    def with_inputs(self, inputs: Sequence[Any]) -> "Subject":
        """The same function of other inputs; the same ones require grad."""
        pairs = zip(inputs, self.inputs, strict=True)
        return replace(
            self,
            inputs=tuple(v.detach().requires_grad_(own.requires_grad) if isinstance(own, Tensor) else v for v, own in pairs),
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Subject":
        """The same function of changed input tensors."""
        return self.with_inputs([change(v.detach()) if isinstance(v, Tensor) else v for v in self.inputs])

    def to(self, dtype: torch.dtype | None = None, device: str | None = None) -> "Subject":
        """The same function of inputs on another device, the floating-point ones in another dtype.

        Raises:
            Skipped: another dtype or the meta device is asked for, but the function captures tensors, which would not follow.
        """
        if dtype is not None:
            self.check_captures_none(float64=True)
        if device == "meta":
            self.check_captures_none(float64=False)
        return self.mapped(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def check_captures_none(self, float64: bool) -> None:
        """Raise Skipped if the function captures tensors (only float64 ones with ``float64``) that are not arguments."""
        if names := [name for name, wide in self.captured.items() if wide or not float64]:
            raise Skipped(
                f"it uses {'float64 tensors' if float64 else 'tensors'} that are not arguments ({', '.join(names)}): "
                "pass them as inputs, or audit an nn.Module"
            )

    @property
    def device_type(self) -> str:
        return self.tensors()[0].device.type

    @property
    def positions(self) -> list[int]:
        """The positions of the differentiated inputs."""
        return [i for i, value in enumerate(self.inputs) if isinstance(value, Tensor) and value.requires_grad]

    @property
    def names(self) -> list[str]:
        """The names of the differentiated inputs."""
        return [self.input_names[i] for i in self.positions]

    @cached_property
    def batch(self) -> list[int]:
        """The inputs whose first dimension is the batch; see :func:`batch_positions`."""
        return batch_positions(self)

    def tensors(self) -> tuple[Tensor, ...]:
        """New copies of the differentiated inputs; they require grad."""
        return tuple(self.inputs[i].detach().clone().requires_grad_() for i in self.positions)

    def arguments(self, tensors: Tensors) -> list[Any]:
        """All arguments of ``call``, with ``tensors`` in place of the differentiated inputs."""
        arguments = list(self.inputs)
        for i, tensor in zip(self.positions, tensors, strict=True):
            arguments[i] = tensor
        return arguments

    def function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The differentiable outputs, as a function of the differentiated inputs."""
        return self.outputs(self.call(*self.arguments(tensors)))

    def measured(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs whose finite differences are the reference of the first derivative: the surrogate's, or the function's.

        Raises:
            Skipped: only consistency is audited.
        """
        if self.surrogate == CONSISTENCY:
            raise Skipped("the derivative is not meant to be forward's: the audit only checks its consistency")
        return self.function(*tensors) if self.surrogate is None else self.outputs(self.surrogate(*self.arguments(tensors)))

    def outputs(self, result: Any) -> tuple[Tensor, ...]:
        """The differentiable outputs in the result of ``call``."""
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
        return tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in self.tensors())

    def gradients(self, tensors: Tensors, upstream: Tensors, **options: Any) -> tuple[Tensor, ...]:
        """The gradients of Σ upstream·output by the differentiated inputs, from the function's backward."""
        return gradients(self.function(*tensors), tensors, upstream, **options)

    def true_gradients(self, tensors: Tensors, upstream: Tensors) -> tuple[Tensor, ...]:
        """The gradients that backward must return, from finite differences."""
        return numerical_gradient(lambda *t: dot(self.measured(*t), upstream), tensors)

    def true_change(self, tensors: Tensors, along: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """The outputs' change as tensor i moves along ``along[i]``, from finite differences.

        If only consistency is audited, it comes from the function's own backward.
        """
        if self.surrogate != CONSISTENCY:
            return numerical_derivative(self.measured, tensors, along)
        columns = []
        for k, output in enumerate(self.function(*tensors)):
            rows = [gradients((self.function(*tensors)[k],), tensors, (one,)) for one in unit_vectors(output)]
            columns.append(torch.stack([sum((row[i] * d).sum() for i, d in along.items()) for row in rows]).view(output.shape))  # type: ignore[misc]
        return tuple(columns)

    def compare(self, what: str, expected: Tensor, got: Tensor, tolerance: Tolerance) -> Comparison:
        """A comparison with the given tolerance, or the user's if that is larger."""
        return Comparison(what, expected, got, Tolerance(*(max(t, self.tolerance) for t in tolerance)))

    def gradients_agree(self, expected: Tensors, got: Tensors, tolerance: Tolerance, note: str = "") -> Iterator[Comparison]:
        """A comparison for each differentiated input."""
        for name, e, g in zip(self.names, expected, got, strict=True):
            yield self.compare(f"gradient of {name}{note}", e, g, tolerance)

    def outputs_agree(self, expected: Tensors, got: Tensors, tolerance: Tolerance, note: str = "") -> Iterator[Comparison]:
        """A comparison for each output."""
        for i, e, g in zip(self.output_positions, expected, got, strict=True):
            # Copies, because a later backward may write into them.
            yield self.compare(f"output {i}{note}", e.detach().clone(), g.detach().clone(), tolerance)

    def slopes_agree(self, note: str) -> Iterator[Comparison]:
        """Compare backward with finite differences along one random direction in each input.

        If the function rejects the inputs or is not finite, nothing is compared; at a kink, only finiteness is checked.
        """
        tensors = self.tensors()
        try:
            outputs = self.function(*tensors)
            upstream = [torch.randn(o.shape, generator=_seeded(), dtype=torch.float64).to(o) for o in outputs]
            differences = [self._slope(i, upstream) for i in range(len(tensors))]
        except Skipped:
            raise
        except Exception:  # the function rejects these inputs
            return
        if not all(o.isfinite().all() for o in outputs):
            return
        got = gradients(outputs, tensors, upstream)
        for name, (direction, slope, doubt), gradient in zip(self.names, differences, got, strict=True):
            product = gradient * direction
            found, size = product.sum(), product.abs().sum().nan_to_num().item()
            # A difference that cancels is only as exact as its terms.
            rounding = 1e-9 * sum((o * v).abs().sum().item() for o, v in zip(outputs, upstream, strict=True))
            tolerance = Tolerance(1e-5 * max(1.0, size) + rounding, 1e-3)
            if not slope.isfinite() or doubt == torch.inf:
                continue
            if bad := int(gradient.isfinite().logical_not().sum()):
                where = f"{bad} of {gradient.numel()} entries are NaN or infinite"
                raise Wrong(f"gradient of {name}{note}: {where}, but the outputs and their change are finite")
            if doubt <= 1e-5 + rounding + 1e-3 * abs(slope.item()):  # no kink
                yield self.compare(f"change along {name}{note}", slope, found, tolerance)

    def _slope(self, i: int, upstream: Tensors) -> tuple[Tensor, Tensor, float]:
        tensors = self.tensors()
        direction = torch.randn(tensors[i].shape, generator=_seeded(), dtype=torch.float64).to(tensors[i])
        direction = direction * tensors[i].detach().abs().max().clamp(min=1) if direction.numel() else direction
        return direction, *slope_and_doubt(lambda *t: dot(self.measured(*t), upstream), tensors, {i: direction})


def subject_of(
    function: type[Function] | Callable[..., Any],
    inputs: Sequence[Any],
    reference: Callable[..., Any] | None,
    device: str,
    surrogate: Surrogate = None,
    tolerance: float = 0.0,
) -> Subject:
    """The function with its inputs on ``device``; ValueError if it cannot be audited."""
    is_class = isinstance(function, type) and issubclass(function, Function)
    call = function.apply if is_class else function  # type: ignore[union-attr]
    names = parameter_names(function.forward if is_class else function, len(inputs))  # type: ignore[union-attr]
    captured: dict[str, bool] = {}
    if isinstance(function, torch.nn.Module):
        names = parameter_names(function.forward, len(inputs))
        call, state = _of_state(function, len(inputs))
        inputs, names = (*inputs, *state.values()), (*names, *state)
    elif not is_class:
        captured = captured_tensors(function)
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, Tensor) and value.requires_grad and value.dtype != torch.float64:
            raise ValueError(f"{name} is {value.dtype}; an input that requires grad must be torch.float64")
        if isinstance(value, Tensor) and value.requires_grad and not value.numel():
            raise ValueError(f"{name} has shape {tuple(value.shape)}; an input that requires grad must have entries")
    subject = Subject(call, tuple(inputs), names, (), (), reference, surrogate, tolerance, captured).to(device=device)
    if not subject.positions:
        raise ValueError("no input requires grad; at least one float64 tensor must")
    if (entries := sum(t.numel() for t in subject.tensors())) > MAX_ENTRIES:
        raise ValueError(
            f"inputs have {entries} entries to differentiate by; they may have at most {MAX_ENTRIES}: use smaller ones"
        )
    try:
        returned = call(*subject.arguments(subject.tensors()))
    except Exception as error:  # the function rejects the inputs
        kinds = [f"{tuple(v.shape)} {v.dtype}" if isinstance(v, Tensor) else repr(v) for v in inputs]
        why = one_line(error).rstrip(".")
        hint = "; if it works in place, audit a callable that passes it a copy" if "in-place" in str(error) else ""
        raise ValueError(f"the function cannot be called with {', '.join(kinds)}: {why}{hint}") from error
    results = _checked_outputs(returned)
    outputs = [i for i, result in enumerate(results) if isinstance(result, Tensor) and result.requires_grad]
    if not outputs:
        raise ValueError("no output requires grad, though inputs do: there is no derivative to audit")
    for i in outputs:
        if not results[i].isfinite().all():
            raise ValueError(f"output {i} has NaN or infinity; inputs must lie where the function is finite")
    # Under torch.func a function may call other Functions than elsewhere.
    under = functions_under(lambda: torch.func.vjp(lambda *t: call(*subject.arguments(t)), *subject.tensors()))
    behind = (f for f, _ in nodes_behind([results[i] for i in outputs]))
    return replace(subject, output_positions=tuple(outputs), functions=tuple(dict.fromkeys((*behind, *under))))


def _of_state(module: torch.nn.Module, count: int) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """The module as a function of its inputs, then its parameters and buffers; and these by name."""
    state = dict((*module.named_parameters(), *module.named_buffers()))

    def call(*arguments: Any) -> Any:
        return torch.func.functional_call(module, dict(zip(state, arguments[count:], strict=True)), arguments[:count])

    return call, state


def _checked_outputs(returned: Any) -> tuple[Any, ...]:
    """A function's result as a tuple; ValueError if it is not a dense tensor or a tuple of results."""
    if isinstance(returned, dict | list | set) or not isinstance(returned, Tensor | tuple):
        kind = type(returned).__name__
        raise ValueError(
            f"the function returns a {kind}; it must return a tensor or a tuple: audit a callable that converts it"
        )
    results = as_tuple(returned)
    for i, result in enumerate(results):
        if isinstance(result, Tensor) and result.layout != torch.strided:
            layout = str(result.layout).removeprefix("torch.")
            raise ValueError(f"output {i} is sparse ({layout}); it must be dense: audit a callable that returns its values")
    return results


def batch_positions(s: Subject) -> list[int]:
    """The inputs whose first dimension is the batch: doubling them doubles the outputs, and each row works alone."""
    s = s.to(device="cpu")  # on a GPU, an index out of range would break the process
    shaped = [i for i, value in enumerate(s.inputs) if isinstance(value, Tensor) and value.dim()]
    if not shaped:
        return []
    size = s.inputs[shaped[0]].shape[0]
    alike = [i for i in shaped if s.inputs[i].shape[0] == size]

    def shapes(rows: Callable[[Tensor], Tensor]) -> list[torch.Size]:
        return [o.shape for o in s.outputs(s.call(*(rows(a) if i in positions else a for i, a in enumerate(s.inputs))))]

    for positions in (alike, shaped[:1]):
        try:
            expected = [torch.Size([2 * o[0], *o[1:]]) if o else o for o in shapes(lambda a: a)]
            for k in range(size):
                shapes(lambda a: a[k : k + 1])  # noqa: B023
            if shapes(lambda a: torch.cat([a, a])) == expected:
                return positions
        except Exception:  # the function rejects these shapes
            continue
    return []


def gradients(outputs: Tensors, tensors: Tensors, upstream: Tensors, **options: Any) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``, with zeros for tensors that the outputs do not depend on."""
    batch = upstream[0].shape[:1] if options.get("is_grads_batched") else ()
    live = [(output, v) for output, v in zip(outputs, upstream, strict=True) if output.requires_grad]
    outputs, upstream = zip(*live, strict=True) if live else ((), ())
    found = torch.autograd.grad(outputs, tensors, upstream, allow_unused=True, **options) if live else [None] * len(tensors)
    return tuple(t.new_zeros(*batch, *t.shape) if g is None else g for g, t in zip(found, tensors, strict=True))


def check_dtype(what: str, expected: torch.dtype, got: torch.dtype) -> None:
    if got != expected:
        raise Wrong(f"{what} is {got}, expected {expected}")


def unit_vectors(t: Tensor) -> Iterator[Tensor]:
    return (one.view(t.shape) for one in torch.eye(t.numel(), dtype=t.dtype, device=t.device))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
