"""The Functions in the manner of ``torch.nn.functional``: the same names, arguments, shapes and meaning."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import _pytorch, functions
from torchbp import equations as eq
from torchbp._sequences import check_network_of_sequences, check_sequences, checked_lengths
from torchbp.activations import ACTIVATIONS, Activation, activation_of
from torchbp.elman import Padding
from torchbp.functions import as_rows, call_of, positives_weighted, reduce
from torchbp.iteration import Network, layers_of
from torchbp.outputs import CROSS_ENTROPY_OF_ACTIVATION, OUTPUTS, Output, output_of
from torchbp.recurrence import last_states, missing, padding, pooled, reverse, scanned, target_rows

__all__ = [
    "activate",
    "activated_linear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "elman",
    "linear",
    "mse_loss",
    "network_cost",
    "sigmoid_linear",
]

_linear = call_of(functions.Linear)
_SQUARED_ERROR = OUTPUTS["squared_error", "linear"]
_SIGMOID = OUTPUTS["cross_entropy", "sigmoid"]
_SOFTMAX = OUTPUTS["cross_entropy", "softmax"]
# Past Function.apply, which looks for torch.func's transforms as network_cost does, and takes a twentieth of a small step.
_network_cost = super(Function, functions.NetworkCost).apply


# What calls the Function of each entry. By id, for Dynamo hashes no dataclass.
_calls: dict[int, Callable[..., Tensor]] = {
    **{id(g): call_of(functions.activation_function(g)) for g in ACTIVATIONS.values()},
    **{id(output): call_of(functions.cost_function(output)) for output in (*OUTPUTS.values(), CROSS_ENTROPY_OF_ACTIVATION)},
}

_others: list[Activation] = []

# Likewise of recurrent layers.
_recurrent_calls: dict[int, Callable[..., Tensor]] = {
    id(g): call_of(functions.recurrent_function(g)) for g in ACTIVATIONS.values()
}


def _recurrent(g: Activation) -> Callable[..., Tensor]:
    if id(g) not in _recurrent_calls:
        _recurrent_calls[id(g)] = call_of(functions.recurrent_function(g))
        _others.append(g)
    return _recurrent_calls[id(g)]


def _activation(g: Activation) -> Callable[..., Tensor]:
    if id(g) not in _calls:
        _calls[id(g)] = call_of(functions.activation_function(g))
        _others.append(g)  # else its id could become another entry's
    return _calls[id(g)]


def _cost(output: Output) -> Callable[..., Tensor]:
    return _calls[id(output)]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted input of a layer, z = x Wᵀ + b (equations 2.1 and 2.3), as ``torch.nn.functional.linear``.

    Args:
        input: (*, in_features), any leading shape, also none; for K networks side by side (K, B, in_features), or
            (B, in_features) that all share.
        weight: (out_features, in_features), or (K, out_features, in_features).
        bias: (out_features), or (K, out_features), or None.

    Returns:
        (*, out_features), or (K, B, out_features).

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a tensor that is not of a real floating-point type.

    >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]))
    tensor([16.])
    """
    input, weight, bias = _checked_layer(input, weight, bias)
    if weight.dim() == 3:
        return _linear(input.expand(len(weight), *input.shape[-2:]), weight, None if bias is None else bias.unsqueeze(-2))
    if input.dim() == 2:
        return _linear(input, weight, bias)
    return _linear(as_rows(input), weight, bias).reshape(*input.shape[:-1], weight.shape[0])


def activate(input: Tensor, activation: str | Activation, *parameters: Tensor) -> Tensor:
    """Activation of weighted inputs, a = g(z; θ) (equations 2.2 and 4.1).

    Args:
        input: (*, n), any leading shape, also none; with parameters of K networks (K, B, n).
        activation: a name, an import path ``package.module:name``, or an :class:`torchbp.activations.Activation`.
        parameters: its learnable parameters, (C, 1) or (C, n) each, or (K, C, 1) or (K, C, n).

    Returns:
        The shape of ``input``.

    Raises:
        ValueError: no such activation, another number of parameters, or shapes that do not fit.
        TypeError: a tensor that is not of a real floating-point type.

    >>> activate(torch.tensor([-1.0, 0.0]), "sigmoid")
    tensor([0.2689, 0.5000])
    """
    g = activation_of(activation)
    _check_floating("input", input)
    _check_parameters(g, parameters, input.shape[-1] if input.dim() else 1)
    if g is ACTIVATIONS["identity"]:
        return input
    if not parameters:
        return _activation(g)(input)
    for name, theta in zip(g.parameters, parameters, strict=True):
        if theta.shape[:-2] not in ((), input.shape[:-2]):
            raise ValueError(f"{name} of {g.name} has shape {tuple(theta.shape)}; that is not of an input {tuple(input.shape)}")
        if theta.dtype != input.dtype:  # outside the Function, so that autograd carries each gradient back to its own type
            input = input.to(torch.promote_types(input.dtype, theta.dtype))
    parameters = tuple(theta.to(input.dtype) for theta in parameters)
    if any(theta.dim() > 2 for theta in parameters):
        return _activation(g)(input, *parameters)
    rows = input.reshape(1, -1) if input.dim() < 2 else as_rows(input)
    return _activation(g)(rows, *parameters).reshape(input.shape)


def activated_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | Activation, *parameters: Tensor
) -> Tensor:
    """Activation of a layer, a = g(x Wᵀ + b; θ) (equations 2.1 and 2.2); as :func:`linear` and :func:`activate`.

    >>> activated_linear(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, -1.5]]), None, "relu")
    tensor([0.])
    """
    return activate(linear(input, weight, bias), activation, *parameters)


def sigmoid_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Activation of a sigmoid layer, a = g(x Wᵀ + b) (equations 2.1 and 2.2); arguments and errors as :func:`linear`.

    >>> sigmoid_linear(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, -1.0]]))
    tensor([0.5000])
    """
    return _activation(ACTIVATIONS["sigmoid"])(linear(input, weight, bias))


def elman(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    activation: str | Activation = "tanh",
    *parameters: Tensor,
    lengths: Tensor | Sequence[int] | None = None,
    batch_first: bool = False,
    backwards: bool = False,
) -> tuple[Tensor, Tensor]:
    """States of a recurrent (Elman) layer, a_t = g(x_t Wiᵀ + bi + a_{t-1} Whᵀ + bh; θ) (equation 5.1), of whole sequences.

    The backward is backpropagation through time (5.2, 5.3), in one node of the graph. A layer of ``torch.nn.RNN``, of any
    activation.

    Args:
        input: (T, B, n), or (B, T, n) with ``batch_first``, or (T, n) for one sequence.
        hx: a_0, (B, m), or (m) for one sequence; None for zeros.
        weight_ih, weight_hh: Wi (m, n) and Wh (m, m).
        bias_ih, bias_hh: bi and bh, (m) each, or None.
        activation, parameters: as for :func:`activate`.
        lengths: how many steps each sequence has, (B) integers from 1 to T; None for T. What comes after is padding: it may
            hold anything, its states are 0, and no gradient goes there.
        batch_first: whether the batch is the first dimension of input and output.
        backwards: whether each sequence is read from its end to its beginning.

    Returns:
        The states, in the shape of ``input`` with m for n, and the last one read of each sequence, (B, m) or (m).

    Raises:
        ValueError: shapes that do not fit, lengths that are not from 1 to T, no such activation.
        TypeError: a tensor that is not of a real floating-point type, or lengths that are not integers.

    >>> elman(torch.ones(3, 1), None, torch.ones(1, 1), torch.ones(1, 1), activation="identity")[0].squeeze()
    tensor([1., 2., 3.])
    """
    g = activation_of(activation)
    check_sequences(input, hx, weight_ih, weight_hh, bias_ih, bias_hh, batch_first)
    _check_parameters(g, parameters, len(weight_hh))
    one, transposed = input.dim() == 2, batch_first and input.dim() == 3
    x = input.unsqueeze(1) if one else input.transpose(0, 1) if transposed else input
    ended = None
    if lengths is not None:
        lengths = checked_lengths(lengths, x)
        ended = padding(lengths, x.shape[0])
        x = x.masked_fill(ended, 0)
    h = hx.unsqueeze(0) if one and hx is not None else hx
    layer = weight_ih, weight_hh, bias_ih, bias_hh, *parameters
    a, last = _read(x, h, layer, g, lengths, ended, backwards)
    if one:
        return a.squeeze(1), last.squeeze(0)
    return (a.transpose(0, 1) if transposed else a), last


def _read(
    x: Tensor,
    h: Tensor | None,
    layer: Sequence[Tensor | None],
    g: Activation,
    lengths: Tensor | None,
    ended: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, Tensor]:
    """All states, and the last one read, of sequences (T, B, n) that are 0 after their end, by Wi, Wh, bi, bh, θ..."""
    x, h, *layer = _cast(x, h, *layer)
    Wi, Wh, bi, bh, *theta = layer
    x = reverse(x, lengths) if backwards else x
    if torch.compiler.is_exporting():
        a = scanned(functions.from_input(x, Wi, bi, bh), h, Wh.mT, g.value, theta, ended)
    else:
        a = _recurrent(g)(x, h, Wi, Wh, bi, bh, ended, *theta)
    last = last_states(a, lengths)
    return reverse(a, lengths) if backwards else a, last


def _cast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """All of them in the type that autocast asks for, or else the last of them, which are parameters, in that of x."""
    if _autocasts(x) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), *(t if t is None else t.to(dtype) for t in others)
    return x, *others[:5], *(t if t is None else t.to(x.dtype) for t in others[5:])


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared-error cost (a - y)² (equation 3.1a), as ``torch.nn.functional.mse_loss``.

    Args:
        input: activations or predictions, any shape.
        target: the same shape as ``input``; unlike PyTorch's, never broadcast.
        reduction: ``'mean'`` divides by the number of elements, ``'sum'`` adds them, ``'none'`` keeps the shape.

    Returns:
        A scalar, or the shape of ``input`` for ``'none'``.

    Raises:
        ValueError: shapes that differ, or another ``reduction``.
        TypeError: a tensor that is not of a real floating-point type.

    >>> mse_loss(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]))
    tensor(0.1250)
    """
    return _cost(_SQUARED_ERROR)(*_checked_cost(input, target, reduction))


def binary_cross_entropy(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy cost of activations (equation 3.1c), as ``torch.nn.functional.binary_cross_entropy``.

    ``input`` and ``target`` lie in [0, 1]; shapes, ``reduction`` and errors as :func:`mse_loss`. Where the activation comes
    from a sigmoid, :func:`binary_cross_entropy_with_logits` is as exact at saturation, and its gradient never vanishes there.

    >>> binary_cross_entropy(torch.tensor([0.5]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    return _cost(CROSS_ENTROPY_OF_ACTIVATION)(*_checked_cost(input, target, reduction))


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, reduction: str = "mean", pos_weight: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy cost of g(z) from the weighted input z (equations 2.4 and 3.1c); its backward is a - y (3.2c).

    As ``torch.nn.functional.binary_cross_entropy_with_logits``, finite for every finite ``input``; ``target`` lies in [0, 1];
    shapes, ``reduction`` and errors as :func:`mse_loss`. ``pos_weight``, 0 or above and broadcast to ``input``, multiplies the
    cost's term of the positive class, y ln a; ``weight``, broadcast likewise, multiplies each cost. Both may have gradients.

    >>> binary_cross_entropy_with_logits(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    input, target, reduction = _checked_cost(input, target, reduction)
    if pos_weight is None and weight is None:
        return _cost(_SIGMOID)(input, target, reduction)
    costs_weight = 1 if weight is None else weight
    if pos_weight is not None:
        u, target = positives_weighted(target.to(input.dtype), pos_weight)
        costs_weight = costs_weight * u
    return reduce(costs_weight * _cost(_SIGMOID)(input, target, "none"), reduction)


def cross_entropy(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy cost of softmax outputs (equation 4.2), as ``torch.nn.functional.cross_entropy``; its backward is a - y.

    Args:
        input: weighted inputs, finite, (C) or (B, C).
        target: class indices, () or (B), or probabilities of the shape of ``input``.
        reduction: ``'mean'`` divides by the number of rows, or for class indices by the sum of their weights; ``'sum'`` adds
            the rows' costs, ``'none'`` gives one cost a row.
        weight: (C), what each class's term is multiplied by.
        label_smoothing: the share of the target, in [0, 1], that is spread evenly over all classes.

    Returns:
        A scalar, or () or (B) for ``'none'``.

    Raises:
        ValueError: shapes that do not fit, another ``reduction``, or a ``label_smoothing`` outside [0, 1].
        TypeError: an ``input`` that is not of a real floating-point type.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    if input.dim() not in (1, 2):
        raise ValueError(f"input has shape {tuple(input.shape)}; cross_entropy takes (C) or (B, C)")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to 1")
    if weight is not None and weight.shape != input.shape[-1:]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one a class, {tuple(input.shape[-1:])}")
    divisor = None
    if not (target.is_floating_point() or target.is_complex()):
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"target has shape {tuple(target.shape)}; class indices for an input of shape {tuple(input.shape)} "
                f"have shape {tuple(input.shape[:-1])}"
            )
        divisor = None if weight is None else weight[target].sum()
        target = torch.zeros_like(input).scatter(-1, target.long().unsqueeze(-1), 1)  # one-hot, also under vmap
    input, target, reduction = _checked_cost(input, target, reduction)
    if label_smoothing:
        target = eq.smoothed(target, label_smoothing)
    if weight is not None:
        target = target * weight
    one_row = input.dim() == 1
    if one_row:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    if reduction == "none":
        costs = _cost(_SOFTMAX)(input, target, "none").squeeze(-1)
        return costs.squeeze(0) if one_row else costs
    if reduction == "mean" and divisor is not None:
        return _cost(_SOFTMAX)(input, target, "sum") / divisor
    return _cost(_SOFTMAX)(input, target, reduction)


def network_cost(
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    cost: str = "cross_entropy",
    output: str = "sigmoid",
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    activation: str | Activation | Sequence[str | Activation] = "sigmoid",
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cost of a network, and its prediction, with one node in the graph (equations 2.1 to 3.1).

    The values and gradients are those of :func:`activated_linear`, :func:`linear` and the cost one after the other, at less
    overhead and memory. Under torch.compile, torch.func, forward-mode derivatives and autocast it is these functions that run.

    Args:
        input: (*, n0); for K networks (K, B, n0), or (B, n0) that all share.
        target: (*, nL), within the range that the output takes; taken in the type of ``input``.
        parameters: W1 (n1, n0), b1 (n1), those of its activation, ..., WL, bL, of at least one layer; or of K networks, each
            with a leading K.
        cost: ``'cross_entropy'`` (3.1c, 4.2) or ``'squared_error'`` (3.1a), or another that goes with the output.
        output: the activation of the last layer, as an entry of :mod:`torchbp.outputs` has it; ``'linear'`` for none.
        reduction: as in :func:`mse_loss`, for softmax as in :func:`cross_entropy`; of K networks for each.
        pos_weight: as in :func:`binary_cross_entropy_with_logits`, for sigmoid outputs with cross-entropy.
        activation: of the hidden layers, one for all or one each.
        weight: (*), what multiplies the costs of each row; it has no gradient.

    Returns:
        The cost, a scalar, or the single costs for ``'none'``, (*, nL) or, of softmax, (*, 1); of K networks one each; and the
        prediction (*, nL), without a gradient.

    Raises:
        ValueError: shapes that do not fit, a ``cost`` and ``output`` that do not go together, another ``reduction``, a
            ``pos_weight`` of another output.
        TypeError: a tensor that is not of a real floating-point type.

    >>> network_cost(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]), [torch.tensor([[2.0, -1.0]]), torch.tensor([0.0])])
    (tensor(0.6931), tensor([[0.5000]]))
    """
    network = _network(cost, output, activation if isinstance(activation, str | Activation) else tuple(activation), parameters)
    return cost_of(network, input, target, parameters, reduction, pos_weight, weight)


def cost_of(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`network_cost` of a network that is described already.

    Of a recurrent one ``input`` is (B, T, n0), NaN in every channel after a sequence's end, and ``target`` (B, nL); or with a
    target at each step (B, T, nL), NaN where there is none, whose prediction is likewise NaN there.
    """
    if reduction not in _REDUCTIONS:
        _check_reduction(reduction)
    _check_floating("input", input)
    if target.dtype != input.dtype:
        _check_floating("target", target)
        target = target.to(input.dtype)
    if network.pooling is not None:
        return _cost_of_sequences(network, input, target, parameters, reduction, pos_weight, weight)
    weight_has_gradient = False
    if pos_weight is not None:
        network.output.check_pos_weight()
        weight_has_gradient = target.requires_grad or pos_weight.requires_grad
    if weight is not None:
        if weight.shape not in (input.shape[:-1], target.shape[:-1]):
            raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each row, {tuple(target.shape[:-1])}")
        weight = weight.unsqueeze(-1)
    if (
        reduction == "none"
        or weight_has_gradient
        or _pytorch.more_than_gradients()
        or (parameters and parameters[0].dim() == 3)
    ):
        return _by_single_layers(network, input, target, parameters, reduction, pos_weight, weight)
    if pos_weight is not None:
        u, target = positives_weighted(target, pos_weight)
        weight = u if weight is None else weight * u
    call = _network_cost if torch.is_grad_enabled() else functions.network_forward
    try:
        if input.dim() == 2:
            return call(input, target, weight, network, reduction == "mean", *parameters)
        weight = None if weight is None else as_rows(weight)
        value, prediction = call(as_rows(input), as_rows(target), weight, network, reduction == "mean", *parameters)
    except (RuntimeError, ValueError, IndexError):
        # Looked at only now, for to look at every shape takes a twentieth of a small network's step.
        _check_network(network, input, target, parameters)
        raise
    return value, prediction.reshape(target.shape)


def _cost_of_sequences(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    reduction: str,
    pos_weight: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if reduction == "none" or _pytorch.more_than_gradients():
        cost, prediction, _ = cost_in_time(network, input, target, parameters, None, pos_weight, weight, reduction)
        return cost.reshape(*target.shape[:-1], -1) if reduction == "none" else cost, prediction
    y, w = _sequence_rows(network, input, target, parameters, pos_weight, weight, reduction)
    call = _network_cost if torch.is_grad_enabled() else functions.network_forward
    cost, prediction = call(input, y, w, network, reduction == "mean", *parameters)
    return cost, _where_asked(prediction, target)


def cost_in_time(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    hx: Sequence[Tensor] | None,
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """:func:`cost_of` of a recurrent network, layer by layer, and its last states without a gradient; ``hx`` the first ones."""
    y, w = _sequence_rows(network, input, target, parameters, pos_weight, weight, reduction)
    rows, last = states_of(network, input, parameters, hx)
    top = layers_of(network, parameters)[-1]
    cost, prediction = _output_cost(network.output, linear(rows, top.W, top.b), y, reduction, w)
    return cost, _where_asked(prediction, target), [h.detach() for h in last]


def _sequence_rows(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    pos_weight: Tensor | None,
    weight: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor | None]:
    """Targets as rows, and what multiplies each one's cost."""
    check_network_of_sequences(network, input, target, parameters)
    if weight is not None and weight.shape != input.shape[:1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be one for each sequence, {tuple(input.shape[:1])}")
    y, w = target_rows(target, weight, len(input) if reduction == "mean" else None)
    if pos_weight is None:
        return y, w
    network.output.check_pos_weight()
    u, y = positives_weighted(y, pos_weight)
    return y, u if w is None else w * u


def _where_asked(prediction: Tensor, target: Tensor) -> Tensor:
    """Predictions in the shape of targets, NaN where a step has none."""
    prediction = prediction.reshape(target.shape)
    return prediction if target.dim() == 2 else prediction.masked_fill(missing(target), float("nan"))


def states_of(
    network: Network, input: Tensor, parameters: Sequence[Tensor], hx: Sequence[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """What the last layer of a recurrent network sees of sequences, as rows, and the last states of every layer.

    Args:
        network, input, parameters: as for :func:`cost_of`.
        hx: the states of every layer before the first step, (B, m) each; None for zeros.

    Returns:
        (B, m), or of each state (B T, m); and the last state of each layer, or of each direction, (B, m): with ``hx`` after
        the last step, where it is 0 for a sequence that has ended.
    """
    batch = Padding()
    last: list[Tensor] = []
    x = batch.read(input)
    for layer in layers_of(network, parameters)[:-1]:
        outputs = []
        for one in getattr(layer, "directions", (layer,)):
            h = None if hx is None else hx[len(last)]
            own = one.Wi, one.Wh, one.bi, one.bh, *one.theta
            a, end = _read(x, h, own, one.g, batch.lengths, batch.ended, one.backwards)
            last.append(end if hx is None else a[-1])
            outputs.append(end if one.handed_on == "last" else a)
        x = torch.cat(outputs, -1)
    if network.pooling == "mean":
        x = pooled(x, batch.lengths, "mean")
    return as_rows(x.transpose(0, 1) if network.pooling == "each" else x), last


@lru_cache(maxsize=256)
def _described(output: Output, hidden: tuple[Activation, ...]) -> Network:
    return Network(hidden, output)


def _network(cost: str, output: str, activation: object, parameters: Sequence[Tensor]) -> Network:
    if isinstance(activation, tuple):
        return _described(output_of(cost, output), tuple(map(activation_of, activation)))
    g = activation_of(activation)  # type: ignore[arg-type]
    return _described(output_of(cost, output), (g,) * ((len(parameters) - 2) // (2 + len(g.parameters))))


def _by_single_layers(
    network: Network,
    input: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    reduction: str,
    pos_weight: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check_network(network, input, target, parameters)
    z = input
    *hidden, last = layers_of(network, parameters)
    for layer in hidden:
        z = activated_linear(z, layer.W, layer.b, layer.g, *layer.theta)
    z = linear(z, last.W, last.b)
    return _output_cost(network.output, z, target.expand_as(z), reduction, weight, pos_weight, last.W.dim() == 3)


def _output_cost(
    output: Output,
    z: Tensor,
    target: Tensor,
    reduction: str,
    weight: Tensor | None,
    pos_weight: Tensor | None = None,
    of_networks: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cost and prediction of the weighted inputs of the last layer."""
    if pos_weight is not None:
        u, target = positives_weighted(target, pos_weight)
        weight = u if weight is None else weight * u
    prediction = output.activation(z.detach())
    weighted = weight is not None
    z, target, reduction = _checked_cost(z, target, reduction)
    if z.dim() == 1:  # one row
        z, target = z.unsqueeze(0), target.unsqueeze(0)
    costs = _cost(output)(z, target, "none" if weighted or of_networks else reduction)
    if weight is not None:
        costs = weight * costs
    if reduction == "none":
        return (costs.reshape(*prediction.shape[:-1], -1) if z.dim() != prediction.dim() else costs), prediction
    if of_networks:
        return (costs.mean((-2, -1)) if reduction == "mean" else costs.sum((-2, -1))), prediction
    return (reduce(costs, reduction) if weighted else costs), prediction


def _check_network(network: Network, input: Tensor, target: Tensor, parameters: Sequence[Tensor]) -> None:
    if not parameters:
        raise ValueError("there are 0 parameters; they must be W1, b1, ..., WL, bL")
    *rows, n = input.shape or (None,)
    for layer in layers_of(network, parameters):
        W, b = layer.W, layer.b
        _check_floating("W", W)
        if W.shape != (*b.shape, n) or b.dim() not in (1, 2):
            raise ValueError(
                f"a layer's W has shape {tuple(W.shape)} and its b {tuple(b.shape)}, where the layer below or the input has "
                f"width {n}; they must be (n, {n}) and (n)"
            )
        n = b.shape[-1]
    shape = (*rows, n)
    if target.shape != shape and not (parameters[0].dim() == 3 and target.shape[-2:] == shape[-2:]):
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be that of the prediction, {shape}")


def _check_parameters(g: Activation, parameters: Sequence[Tensor], n: int) -> None:
    if len(parameters) != len(g.parameters):
        raise ValueError(f"there are {len(parameters)} parameters; {g.name} has {len(g.parameters)}")
    for (name, parameter), theta in zip(g.parameters.items(), parameters, strict=True):
        count = len(parameter.initial)
        if theta.shape[-2:] not in ((count, 1), (count, n)):
            raise ValueError(f"{name} of {g.name} has shape {tuple(theta.shape)}; it must be ({count}, 1) or ({count}, {n})")
        _check_floating(name, theta)


def _checked_layer(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    of_networks = weight.dim() == 3 and input.dim() in (2, 3) and input.shape[:-2] in ((), weight.shape[:1])
    if (weight.dim() != 2 and not of_networks) or input.dim() == 0 or input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; "
            "they must be (*, in_features) and (out_features, in_features)"
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; for this weight it must be {tuple(weight.shape[:-1])}")
    _check_floating("input", input)
    _check_floating("weight", weight)
    if bias is not None:
        _check_floating("bias", bias)
    if _autocasts(input) and input.dtype != torch.float64:
        # The casts stand outside the Function, so that autograd carries each gradient back to its own type.
        dtype = torch.get_autocast_dtype(input.device.type)
        return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return input, weight, bias


def _checked_cost(input: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor, str]:
    if input.shape != target.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be that of input, {tuple(input.shape)}")
    _check_reduction(reduction)
    _check_floating("input", input)
    _check_floating("target", target)
    if _autocasts(input) and input.dtype in (torch.float16, torch.bfloat16):
        return input.float(), target.float(), reduction
    if input.dtype != target.dtype:
        dtype = torch.promote_types(input.dtype, target.dtype)
        return input.to(dtype), target.to(dtype), reduction
    return input, target, reduction


def _autocasts(tensor: Tensor) -> bool:
    device_type = tensor.device.type
    return device_type != "meta" and torch.is_autocast_enabled(device_type)  # there is none for meta, and it cannot be asked


_REDUCTIONS = ("mean", "sum", "none")


def _check_reduction(reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be 'mean', 'sum' or 'none'")


def _check_floating(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} is {tensor.dtype}; it must be of a real floating-point type")
