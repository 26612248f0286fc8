"""Activations g(z; θ), one entry each: Functions, modules, both engines, trace, audit and tests are made from the entries.

To add an activation, add an entry to ``ACTIVATIONS``. To use one of your own, make an :class:`Activation` in your package and
give its import path: ``--model.activation mypackage.acts:mine``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as TF

from torchbp import equations as eq
from torchbp._imports import imported

__all__ = ["ACTIVATIONS", "Activation", "Parameter", "activation_of", "elementwise", "import_activation"]


# Names that formulas or a layer's own parameters use.
RESERVED = ("a", "b", "m", "y", "z", "A", "L", "W", "X", "Y", "Z", "α", "weight", "bias", "activation", "activation_parameters")


@dataclass(frozen=True)
class Parameter:
    """A learnable parameter θ of an activation: (C, 1), shared by a layer's units, or (C, n), one per unit.

    Attributes:
        initial: its C initial values.
        tangent: (dθ, z, θ...) -> the change of g(z; θ) when θ changes by dθ; the shape of z.
        gradient: (da, z, θ...) -> ∂L/∂θ, not yet summed over the dimensions that θ was broadcast along.
    """

    initial: tuple[float, ...]
    tangent: Callable[..., Tensor]
    gradient: Callable[..., Tensor]

    def start(self, units: int = 1, **factory: Any) -> Tensor:
        """The initial values, (C, units)."""
        return torch.tensor(self.initial, **factory).unsqueeze(-1).expand(-1, units).clone()


def elementwise(initial: float, derivative: Callable[..., Tensor]) -> Parameter:
    """A parameter with one value; ``derivative`` is ∂g/∂θ, a function of (z, θ...) with the shape of z."""
    return Parameter(
        (initial,),
        tangent=lambda dtheta, z, *theta: dtheta * derivative(z, *theta),
        gradient=lambda da, z, *theta: da * derivative(z, *theta),
    )


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation g and what backpropagation needs of it.

    Attributes:
        name: its name in options.
        formula: g(z) in SymPy's syntax, with ``z`` and the parameters' names: for trace, documentation and the symbolic proof.
        slope_formula: g'(z) in the same syntax, with ``a`` and ``z``.
        value: (z, θ..., out=None) -> a, the shape of z. ``out`` may be z.
        slope: (a or z, θ...) -> g'(z).
        reference: PyTorch's own differentiable form of ``value``, (z, θ...) -> a.
        keeps: the argument of ``slope``, ``a`` or ``z``. With parameters it is ``z``.
        kernel: PyTorch's fused kernel (da, a or z, out=None) -> da * g'(z), or None.
        parameters: the learnable parameters by name, in the order of the arguments.
        gain: the factor of initial weights in a layer above another layer.
        init: how initial weights are drawn, ``glorot`` or ``he``.
        error: (da, a or z, θ..., out=None) -> dZ = dA * g'(Z) (equation 3.2e). ``out`` may be any argument but θ. Made from
            ``slope`` and ``kernel``; uses the kernel if there is one and no graph is needed.
    """

    name: str
    formula: str
    slope_formula: str
    value: Callable[..., Tensor]
    slope: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    keeps: Literal["a", "z"] = "z"
    kernel: Callable[..., Tensor] | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    gain: float = 1.0
    init: Literal["glorot", "he"] = "glorot"
    error: Callable[..., Tensor] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", _error_of(self.slope, self.kernel))
        if self.parameters and self.keeps != "z":
            raise ValueError(f"activation {self.name} keeps {self.keeps!r}; with parameters it must keep 'z'")
        for name in self.parameters:
            if name in RESERVED:
                raise ValueError(
                    f"activation {self.name} has a parameter {name!r}; it must not be one of {', '.join(RESERVED)}"
                )

    def __deepcopy__(self, memo: object) -> "Activation":
        return self

    def __reduce__(self) -> Any:
        return (activation_of, (self.name,)) if ACTIVATIONS.get(self.name) is self else super().__reduce__()

    def __repr__(self) -> str:
        return f"<activation {self.name}: {self.formula}>"


def _error_of(slope: Callable[..., Tensor], kernel: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """Makes ``Activation.error``, a plain function: Dynamo cannot follow an entry's method into a backward."""

    def error(da: Tensor, kept: Tensor, *theta: Tensor, out: Tensor | None = None) -> Tensor:
        if kernel is not None and not torch.is_grad_enabled():
            return kernel(da, kept, out)
        return eq.hidden_error(da, slope(kept, *theta), out=out)  # 3.2e

    return error


def activation_of(name: "str | Activation") -> Activation:
    """The activation with this name, or with an import path that :func:`import_activation` has imported.

    This imports nothing, because the name may come from a checkpoint.

    Raises:
        ValueError: there is no such activation.
    """
    if isinstance(name, Activation):
        return name
    text = name if isinstance(name, str) else ""
    found = ACTIVATIONS.get(text) or _imported.get(text)
    if found is None and ":" in text:
        raise ValueError(f"activation is {name!r}; imported only if the command line names it: --model.activation {name}")
    if found is None:
        raise ValueError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}, or package.module:name")
    return found


def import_activation(path: str) -> Activation:
    """Import the activation that ``package.module:name`` names; afterwards :func:`activation_of` accepts the path.

    Raises:
        ValueError: it cannot be imported, or is not an :class:`Activation`.
    """
    found = imported(path)
    if not isinstance(found, Activation):
        raise ValueError(f"activation {path!r} is {type(found).__name__}; it must be a torchbp.activations.Activation")
    _imported[path] = found
    return found


_imported: dict[str, Activation] = {}


def _kernel(name: str, *constants: Any) -> Callable[..., Tensor]:
    """PyTorch's fused dA * g'(Z), ``aten::<name>``, which writes to ``grad_input``."""
    packet = getattr(torch.ops.aten, name)
    into, new = packet.grad_input, packet.default

    def kernel(da: Tensor, kept: Tensor, out: Tensor | None = None) -> Tensor:
        return new(da, kept, *constants) if out is None else into(da, kept, *constants, grad_input=out)

    return kernel


def _gelu_kernel(approximate: str) -> Callable[..., Tensor]:
    into, new = torch.ops.aten.gelu_backward.grad_input, torch.ops.aten.gelu_backward.default

    def kernel(da: Tensor, z: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return new(da, z, approximate=approximate)
        return into(da, z, approximate=approximate, grad_input=out)

    return kernel


# --- Without parameters.


def _into(out: Tensor | None, a: Tensor) -> Tensor:
    """Copy ``a`` to ``out``, for PyTorch functions without ``out=``."""
    return a if out is None else out.copy_(a)


_SIGMOID = Activation(
    "sigmoid",
    "1 / (1 + exp(-z))",  # 3.0
    "a*(1 - a)",  # 3.2b
    value=eq.sigmoid,
    slope=eq.sigmoid_derivative,
    reference=torch.sigmoid,
    keeps="a",
    kernel=_kernel("sigmoid_backward"),
    gain=4.0,  # its slope at 0 is 1/4
)

_TANH = Activation(
    "tanh",
    "(exp(z) - exp(-z)) / (exp(z) + exp(-z))",
    "1 - a**2",
    value=lambda z, out=None: torch.tanh(z, out=out),
    slope=lambda a: 1 - a * a,
    reference=torch.tanh,
    keeps="a",
    kernel=_kernel("tanh_backward"),
)

_RELU = Activation(
    "relu",
    "Max(z, 0)",
    "Piecewise((1, a > 0), (0, True))",
    value=lambda z, out=None: torch.clamp(z, min=0, out=out),
    slope=lambda a: (a > 0).to(a.dtype),
    reference=torch.relu,
    keeps="a",
    kernel=_kernel("threshold_backward", 0),
    gain=math.sqrt(2),
    init="he",
)

_LEAK = 0.01

_LEAKY_RELU = Activation(
    "leaky_relu",
    f"Max(z, {_LEAK}*z)",
    f"Piecewise((1, a > 0), ({_LEAK}, True))",
    value=lambda z, out=None: torch.maximum(z, _LEAK * z, out=out),
    slope=lambda a: torch.where(a > 0, torch.ones_like(a), _LEAK),  # ones_like keeps the dtype; two numbers would not
    reference=TF.leaky_relu,
    keeps="a",
    kernel=_kernel("leaky_relu_backward", _LEAK, True),  # takes a, which has the sign of z
    gain=math.sqrt(2),
    init="he",
)

_ELU = Activation(
    "elu",
    "Max(z, 0) + exp(Min(z, 0)) - 1",
    "exp(Min(z, 0))",
    value=lambda z, out=None: torch.add(z.clamp(min=0), torch.expm1(z.clamp(max=0)), out=out),
    slope=lambda z: torch.exp(z.clamp(max=0)),
    reference=TF.elu,
    gain=math.sqrt(2),
    init="he",
)

_HARDTANH = Activation(
    "hardtanh",
    "Max(z, -1) - Max(z, 1) + 1",
    "Piecewise((1, Abs(a) < 1), (0, True))",
    value=lambda z, out=None: torch.clamp(z, min=-1, max=1, out=out),
    slope=lambda a: (a.abs() < 1).to(a.dtype),
    reference=TF.hardtanh,
    keeps="a",
)

_IDENTITY = Activation(
    "identity",
    "z",
    "1",
    value=lambda z, out=None: z if out is None or out is z else out.copy_(z),
    slope=torch.ones_like,
    reference=torch.clone,
    keeps="a",
    kernel=lambda da, _, out=None: da if out is None or out is da else out.copy_(da),
)

_SOFTPLUS = Activation(
    "softplus",
    "log(1 + exp(z))",
    "1 / (1 + exp(-z))",
    value=lambda z, out=None: _into(out, TF.softplus(z, threshold=50)),
    slope=eq.sigmoid,
    reference=partial(TF.softplus, threshold=50),
    kernel=_kernel("softplus_backward", 1, 50),
    gain=2.0,  # its slope at 0 is 1/2
)

_SILU = Activation(
    "silu",
    "z / (1 + exp(-z))",
    "a + (1 - a) / (1 + exp(-z))",
    value=lambda z, out=None: torch.mul(z, eq.sigmoid(z), out=out),
    slope=lambda z: eq.sigmoid(z) + z * eq.sigmoid_derivative_at(z),
    reference=TF.silu,
    kernel=_kernel("silu_backward"),
    gain=math.sqrt(2),
    init="he",
)


def _normal_cdf(z: Tensor) -> Tensor:
    return torch.erfc(z * -math.sqrt(0.5)) / 2  # exact in the left tail, where 1 + erf cancels


def _gelu_slope(z: Tensor) -> Tensor:
    return _normal_cdf(z) + z * torch.exp(z * z * -0.5) / math.sqrt(2 * math.pi)


_GELU = Activation(
    "gelu",
    "z * (1 + erf(z/sqrt(2))) / 2",
    "(1 + erf(z/sqrt(2)))/2 + z*exp(-z**2/2)/sqrt(2*pi)",
    value=lambda z, out=None: torch.mul(z, _normal_cdf(z), out=out),
    slope=_gelu_slope,
    reference=TF.gelu,
    kernel=_gelu_kernel("none"),
    gain=math.sqrt(2),
    init="he",
)


_GELU_CUBE = 0.044715


def _gelu_tanh_inner(z: Tensor) -> tuple[Tensor, Tensor]:
    """2u = 2√(2/π) (z + 0.044715 z³) and its derivative by z; (1 + tanh u)/2 is the sigmoid of 2u.

    z is clamped to |z| ≤ 22, where the sigmoid is 0 or 1 in every precision: this keeps the derivative finite.
    """
    z = z.clamp(min=-22.0, max=22.0)
    c = 2 * math.sqrt(2 / math.pi)
    return c * (z + _GELU_CUBE * z * z * z), c * (1 + 3 * _GELU_CUBE * z * z)


def _gelu_tanh(z: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(z, eq.sigmoid(_gelu_tanh_inner(z)[0]), out=out)


def _gelu_tanh_slope(z: Tensor) -> Tensor:
    u, du = _gelu_tanh_inner(z)
    return eq.sigmoid(u) + z * eq.sigmoid_derivative_at(u) * du


_GELU_TANH_OF_U = f"tanh(sqrt(2/pi)*(z + {_GELU_CUBE}*z**3))"

_GELU_TANH = Activation(
    "gelu_tanh",
    f"z * (1 + {_GELU_TANH_OF_U}) / 2",
    f"(1 + {_GELU_TANH_OF_U})/2 + z*(1 - {_GELU_TANH_OF_U}**2)*sqrt(2/pi)*(1 + 3*{_GELU_CUBE}*z**2)/2",
    value=_gelu_tanh,
    slope=_gelu_tanh_slope,
    reference=partial(TF.gelu, approximate="tanh"),
    kernel=_gelu_kernel("tanh"),
    gain=math.sqrt(2),
    init="he",
)

# --- With learnable parameters: equation 4.1.


def _scaled_slope(z: Tensor, beta: Tensor, theta: Tensor) -> Tensor:
    """g'(β(z - θ)) of the sigmoid."""
    return eq.sigmoid_derivative_at(beta * (z - theta))


_SCALED_SIGMOID = Activation(
    "scaled_sigmoid",
    "1 / (1 + exp(-beta*(z - theta)))",
    "beta*a*(1 - a)",
    value=lambda z, beta, theta, out=None: eq.sigmoid(beta * (z - theta), out=out),
    slope=lambda z, beta, theta: beta * _scaled_slope(z, beta, theta),
    reference=lambda z, beta, theta: torch.sigmoid(beta * (z - theta)),
    parameters={
        "beta": elementwise(1.0, lambda z, beta, theta: (z - theta) * _scaled_slope(z, beta, theta)),
        "theta": elementwise(0.0, lambda z, beta, theta: -beta * _scaled_slope(z, beta, theta)),
    },
    gain=4.0,
)

_SWISH = Activation(
    "swish",
    "z / (1 + exp(-beta*z))",
    "1/(1 + exp(-beta*z)) + beta*z*exp(-beta*z)/(1 + exp(-beta*z))**2",
    value=lambda z, beta, out=None: torch.mul(z, eq.sigmoid(beta * z), out=out),
    slope=lambda z, beta: eq.sigmoid(beta * z) + beta * z * eq.sigmoid_derivative_at(beta * z),
    reference=lambda z, beta: z * torch.sigmoid(beta * z),
    parameters={"beta": elementwise(1.0, lambda z, beta: z * (z * eq.sigmoid_derivative_at(beta * z)))},
    gain=math.sqrt(2),
    init="he",
)

_PRELU = Activation(
    "prelu",
    "Max(z, 0) + alpha*Min(z, 0)",
    "Piecewise((1, z > 0), (alpha, True))",
    value=lambda z, alpha, out=None: torch.add(z.clamp(min=0), alpha * z.clamp(max=0), out=out),
    slope=lambda z, alpha: torch.where(z > 0, torch.ones_like(z), alpha),
    reference=lambda z, alpha: torch.relu(z) - alpha * torch.relu(-z),
    parameters={"alpha": elementwise(0.25, lambda z, alpha: z.clamp(max=0))},
    gain=math.sqrt(2),
    init="he",
)

# The unknown g is piecewise linear between fixed knots. Its values at the knots are learned.
_STEP, _FIRST, _LAST = 0.5, -16, 16
KNOTS = tuple(k * _STEP for k in range(_FIRST, _LAST + 1))


def _cell(z: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each z: the index of the knot to its left, its position from that knot to the next, and each unit's values.

    Beyond the outermost knots, the outermost line continues. The position is exact: the knot is subtracted from z itself.
    """
    steps = z / _STEP
    left = steps.detach().floor().nan_to_num(0.0).clamp(_FIRST, _LAST - 1)
    return (left - _FIRST).long(), steps - left, values.expand(*values.shape[:-1], z.shape[-1])


def _unknown(z: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    left, position, values = _cell(z, values)
    return torch.lerp(values.gather(-2, left), values.gather(-2, left + 1), position, out=out)


def _unknown_slope(z: Tensor, values: Tensor) -> Tensor:
    left, _, values = _cell(z, values)
    return (values.gather(-2, left + 1) - values.gather(-2, left)) / _STEP


def _unknown_gradient(da: Tensor, z: Tensor, values: Tensor) -> Tensor:
    """∂L/∂values, (C, n): each dA is divided between the two knots next to its z."""
    left, position, each = _cell(z, values)
    gradient = torch.zeros_like(each) if each.is_contiguous() else each.new_zeros(each.shape)
    return gradient.scatter_add(-2, left, da * (1 - position)).scatter_add(-2, left + 1, da * position)


def _unknown_reference(z: Tensor, values: Tensor) -> Tensor:
    """Σ_k values_k φ_k(z) with hat functions φ_k, and straight lines beyond the outermost knots."""
    knots = torch.tensor(KNOTS, dtype=z.dtype, device=z.device)
    hats = torch.relu(1 - (z.clamp(KNOTS[0], KNOTS[-1]).unsqueeze(-1) - knots).abs() / _STEP)
    below, above = (z - KNOTS[0]).clamp(max=0), (z - KNOTS[-1]).clamp(min=0)
    lines = (values[1] - values[0]) * below + (values[-1] - values[-2]) * above
    return (hats * values.mT).sum(-1) + lines / _STEP


_UNKNOWN = Activation(
    "unknown",
    "Sum(values_k * Max(0, 1 - Abs(z - knot_k) / step), k)",
    "(values_right - values_left) / step",  # the values at the knots to the right and left of z
    value=_unknown,
    slope=_unknown_slope,
    reference=_unknown_reference,
    parameters={
        "values": Parameter(
            tuple(1 / (1 + math.exp(-knot)) for knot in KNOTS),  # it starts as the sigmoid
            tangent=lambda dvalues, z, values: _unknown(z, dvalues),
            gradient=_unknown_gradient,
        )
    },
    gain=4.0,
)

ACTIVATIONS: dict[str, Activation] = {
    g.name: g
    for g in (
        _SIGMOID,
        _TANH,
        _RELU,
        _LEAKY_RELU,
        _ELU,
        _HARDTANH,
        _IDENTITY,
        _SOFTPLUS,
        _SILU,
        _GELU,
        _GELU_TANH,
        _SCALED_SIGMOID,
        _SWISH,
        _PRELU,
        _UNKNOWN,
    )
}
