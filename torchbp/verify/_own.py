"""The audit of torchbp's own functionals, and of a function named by its import path."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbp import functional, functions
from torchbp._imports import imported, imported_module
from torchbp.activations import ACTIVATIONS, Activation
from torchbp.outputs import OUTPUTS
from torchbp.verify._audit import audit
from torchbp.verify._result import Result, one_line
from torchbp.verify._subject import CONSISTENCY

HIDDEN = ACTIVATIONS["swish"]  # of hidden layers: it has a parameter, and its slope needs z


class Sample(NamedTuple):
    """A function to audit, its arguments, and a PyTorch function with the same outputs."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    reference: Callable[..., Any] | None


def own_functionals(module: ModuleType = functional) -> list[Sample]:
    """The functions of :mod:`torchbp.functional`, or those of the same names in another module, as samples.

    Each sample calls its function in every way at once: with and without bias or ``pos_weight``, with every reduction. There is
    a sample of ``activate`` for each activation, such as ``activate-tanh``, and one of ``network_cost`` for each output.
    """
    generator = torch.Generator().manual_seed(0)
    x, W, b = _normal((4, 3), generator), _normal((2, 3), generator), _normal((2,), generator)
    z, a, y, p = (_normal((4, 3), generator) for _ in range(4))
    # Activations and targets lie in (0, 1), and a row of class probabilities adds up to 1.
    a, y, p = (t.detach().requires_grad_() for t in (a.sigmoid(), y.sigmoid(), p.softmax(-1)))
    W2, b2 = _normal((3, 2), generator), _normal((3,), generator)
    classes, w = torch.tensor([0, 2, 1, 1]), _normal((3,), generator).detach().exp()
    theta = _parameters(HIDDEN)
    xs, h, U, c = (_normal(shape, generator) for shape in ((4, 3, 3), (4, 2), (2, 2), (2,)))
    activations = [g for g in ACTIVATIONS.values() if g.name != "identity"]  # identity has no Function
    nn = torch.nn.functional
    every: list[tuple[str, Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]] = [
        ("linear", nn.linear, _with_and_without_bias, (x, W, b)),
        *((f"activate-{g.name}", _activate, _with_activation(g), (z, *_parameters(g))) for g in activations),
        ("activated_linear", _activated_linear, _with_activation_and_every_bias, (x, W, b, *theta)),
        ("sigmoid_linear", _sigmoid_linear, _with_and_without_bias, (x, W, b)),
        ("elman", _elman, _every_sequence, (xs, h, W, U, b, c, *theta)),
        ("mse_loss", nn.mse_loss, _every_reduction, (z, y)),
        ("binary_cross_entropy", nn.binary_cross_entropy, _every_reduction, (a, y)),
        ("binary_cross_entropy_with_logits", nn.binary_cross_entropy_with_logits, _every_reduction, (z, y, w)),
        ("cross_entropy", nn.cross_entropy, _both_targets, (z, p, classes)),
        *(
            (f"network_cost-{'-'.join(end)}", _network_cost, _with_output(*end, way), (x, y, w, W, b, *theta, W2, b2))
            for end, way in zip(OUTPUTS, itertools.cycle(("mean", "sum", "none")), strict=False)
        ),
    ]
    return [
        Sample(name, every_way(function), inputs, every_way(reference))
        for name, reference, every_way, inputs in every
        if (function := getattr(module, name.partition("-")[0], None)) is not None
    ]


def gradcheck(
    devices: Sequence[str] = ("cpu",),
    function: str | None = None,
    inputs: str | None = None,
    reference: str | None = None,
    module: str | None = None,
    only: Collection[str] | None = None,
    surrogate: str | None = None,
    tolerance: float = 0.0,
) -> Iterator[Result]:
    """Audit torchbp's own functions, or one named by its import path; yields one result at a time.

    Args:
        devices: where to audit; :func:`available_devices` lists all devices.
        function: one of torchbp's own, such as ``mse_loss`` or ``activate-tanh`` (``activate`` for every activation), or
            ``package.module:Function``, also from the working directory. All of torchbp's own by default.
        inputs: for a function with an import path: shapes such as ``"4,3 2,3 2"``, each a float64 tensor from N(0, 1), or the
            import path of a callable that returns the inputs.
        reference: for a function with an import path, the import path of a PyTorch function to compare it with.
        module: another module with functions of torchbp.functional's names and arguments, to audit instead of torchbp's.
        only: the names of the checks to run; all by default.
        surrogate: for a function with an import path, the import path of a callable with the meant derivative, or
            ``"consistency"``.
        tolerance: the largest absolute and relative error allowed.

    Raises:
        ValueError: something cannot be found, read or called.
    """
    if (inputs or reference or surrogate) and ":" not in (function or ""):
        raise ValueError("inputs, reference and surrogate need a function of your own, package.module:Function")
    if function is not None and ":" in function:
        samples = [_imported_sample(function, inputs, reference)]
    else:
        samples = _own_samples(function, module)
    meant = imported(surrogate) if surrogate not in (None, CONSISTENCY) else surrogate
    options: dict[str, Any] = {"devices": devices, "surrogate": meant, "tolerance": tolerance, "only": only}
    for name, called, arguments, same in samples:
        yield audit(called, arguments, reference=same, name=name, **options)


def _imported_sample(function: str, inputs: str | None, reference: str | None) -> Sample:
    if inputs is None:
        raise ValueError(f"{function} needs inputs: shapes such as '4,3 2,3 2', or package.module:callable that returns them")
    call, expected = imported_callable(function), imported_callable(reference) if reference else None
    return Sample(function, call, inputs_of(inputs), expected)


def _own_samples(function: str | None, module: str | None) -> list[Sample]:
    """The samples of one of torchbp's functions, or of all; or of another module with functions of these names."""
    own = own_functionals(functional if module is None else imported_module(module))
    if not own:
        raise ValueError(f"{module} has none of {', '.join(functional.__all__)}")
    named = [sample for sample in own if function in (None, sample.name, sample.name.partition("-")[0])]
    if not named:
        names = [sample.name for sample in own]
        some = ", ".join(get_close_matches(str(function), names, cutoff=0.45) or names[:3])
        raise ValueError(f"function is {function!r}; it must be package.module:Function, or one of {len(names)} such as {some}")
    return named


def available_devices() -> list[str]:
    """``cpu``, and ``cuda`` if there is one."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def inputs_of(text: str) -> tuple[Any, ...]:
    """Inputs from shapes, or from a callable's import path; see :func:`gradcheck`.

    >>> [tuple(t.shape) for t in inputs_of("4,3 2,3 2")]
    [(4, 3), (2, 3), (2,)]
    """
    if ":" in text:
        try:
            inputs = imported_callable(text)()
        except Exception as error:  # anything that the callable raises
            raise ValueError(f"inputs {text!r} cannot be called: {type(error).__name__}: {one_line(error)}") from error
        if not isinstance(inputs, Tensor | tuple | list):
            raise ValueError(
                f"inputs {text!r} returns {type(inputs).__name__}; it must return a tensor, or a tuple of all inputs"
            )
        return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    generator = torch.Generator().manual_seed(0)
    try:
        return tuple(_normal([int(size) for size in shape.split(",")], generator) for shape in text.split())
    except (ValueError, RuntimeError, TypeError):  # TypeError: a size beyond int64
        raise ValueError(f"inputs is {text!r}; it must be shapes such as '4,3 2,3 2', or package.module:callable") from None


def imported_callable(path: str) -> Callable[..., Any]:
    """The callable that ``package.module:name`` names; ValueError if it is not callable."""
    found = imported(path)
    if not callable(found):
        raise ValueError(f"{path!r} is {type(found).__name__}; it must be callable")
    return found


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def _parameters(g: Activation) -> list[Tensor]:
    """An activation's parameters, with their initial values."""
    return [parameter.start(dtype=torch.float64).requires_grad_() for parameter in g.parameters.values()]


# PyTorch functions with the same outputs.


def _activate(input: Tensor, activation: Activation, *parameters: Tensor) -> Tensor:
    return activation.reference(input, *parameters)


def _activated_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, *parameters: Tensor
) -> Tensor:
    return activation.reference(torch.nn.functional.linear(input, weight, bias), *parameters)


def _sigmoid_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.sigmoid(torch.nn.functional.linear(input, weight, bias))


def _elman(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: Activation,
    *parameters: Tensor,
    lengths: Tensor | None = None,
    backwards: bool = False,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    linear = torch.nn.functional.linear
    h = input.new_zeros(len(input), len(weight_hh)) if hx is None else hx
    steps = range(input.shape[1])
    states: dict[int, Tensor] = {}
    for t in reversed(steps) if backwards else steps:
        z = linear(input[:, t], weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)
        a = activation.reference(z, *(theta.to(z.dtype) for theta in parameters))  # also under autocast
        going = torch.ones_like(a) if lengths is None else (t < lengths.to(a.device)).to(a.dtype).unsqueeze(-1)
        h, states[t] = torch.where(going == 1, a, h.to(a.dtype)), a * going
    return torch.stack([states[t] for t in steps], 1), h


def _network_cost(
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    cost: str,
    output: str,
    *,
    reduction: str,
    pos_weight: Tensor | None = None,
    activation: Activation,
) -> tuple[Tensor, Tensor]:
    W, b, *theta, W2, b2 = parameters
    z = torch.nn.functional.linear(_activated_linear(input, W, b, activation, *theta), W2, b2)
    end = OUTPUTS[cost, output]
    a = end.activation(z.detach())
    if pos_weight is not None:
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        return bce(z, target, reduction=reduction, pos_weight=pos_weight), a
    return functions.reduce(end.reference(z, target), reduction), a


# Each function called in every way at once, the same ways for torchbp's and PyTorch's.


def _with_and_without_bias(layer: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def both(input: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return layer(input, weight, bias), layer(input, weight)

    return both


def _every_reduction(cost: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def every(input: Tensor, target: Tensor, *pos_weight: Tensor) -> tuple[Tensor, ...]:
        plain = (cost(input, target, reduction=reduction) for reduction in ("mean", "sum", "none"))
        return *plain, *(cost(input, target, pos_weight=w) for w in pos_weight)

    return every


def _both_targets(cost: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def both(input: Tensor, probabilities: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        return *_every_reduction(cost)(input, probabilities), cost(input, classes)

    return both


def _with_activation(g: Activation) -> Callable[..., Callable[..., Tensor]]:
    def of(activate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda input, *theta: activate(input, g, *theta)

    return of


def _with_activation_and_every_bias(layer: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def both(input: Tensor, weight: Tensor, bias: Tensor, *theta: Tensor) -> tuple[Tensor, ...]:
        return layer(input, weight, bias, HIDDEN, *theta), layer(input, weight, None, HIDDEN, *theta)

    return both


def _every_sequence(elman: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, ...]]:
    """With lengths, backwards, bias, initial state and a slope that needs z; and without any of these."""

    def every(input: Tensor, h: Tensor, Wi: Tensor, Wh: Tensor, bi: Tensor, bh: Tensor, *theta: Tensor) -> tuple[Tensor, ...]:
        lengths = torch.arange(input.shape[0]) % input.shape[1] + 1
        return (
            *elman(input, h, Wi, Wh, bi, bh, HIDDEN, *theta, lengths=lengths, backwards=True, batch_first=True),
            *elman(input, None, Wi, Wh, None, None, ACTIVATIONS["tanh"], batch_first=True),
        )

    return every


def _with_output(cost: str, output: str, reduction: str) -> Callable[..., Callable[..., Tensor]]:
    """The cost only: the prediction has no gradient."""

    def of(network_cost: Callable[..., Any]) -> Callable[..., Tensor]:
        def call(input: Tensor, target: Tensor, w: Tensor, *parameters: Tensor) -> Tensor:
            pos_weight = w if (cost, output) == ("cross_entropy", "sigmoid") else None
            how: dict[str, Any] = {"reduction": reduction, "pos_weight": pos_weight, "activation": HIDDEN}
            return network_cost(input, target, parameters, cost, output, **how)[0]

        return call

    return of
