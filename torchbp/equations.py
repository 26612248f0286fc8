"""Every formula of the text, once, as a plain tensor function.

A batch has B samples as rows. For layer l, ``x`` or ``a`` is (B, n[l-1]), ``W`` is (n[l], n[l-1]), ``b`` is (n[l]), and
``z``, ``dz``, ``da`` are (B, n[l]); a leading ``d`` means "∂L by". Elementwise formulas take any shape. Nothing here knows
of autograd or of modules: the autograd Functions call these, and so does whoever descends without a graph.

======  ==========================================  =======================================
no.     formula                                     function
======  ==========================================  =======================================
2.1     Z1 = X W1ᵀ + b1                             :func:`weighted_input`
2.2     A1 = g(Z1)                                  :func:`sigmoid`
2.3     Z2 = A1 W2ᵀ + b2                            :func:`weighted_input`
2.4     A2 = g(Z2)                                  :func:`sigmoid`
3.0     g(z) = 1 / (1 + e^-z)                       :func:`sigmoid`
3.1a    (a - y)²                                    :func:`squared_error`
3.1b    -ln a if y = 1; -ln(1 - a) if y = 0         :func:`cross_entropy_piecewise`
3.1c    -[y ln a + (1 - y) ln(1 - a)]               :func:`cross_entropy`
3.2a    (a - y) / (a(1 - a))                        :func:`cross_entropy_derivative`
3.2b    a(1 - a)                                    :func:`sigmoid_derivative`
3.2c    a - y                                       :func:`output_error`
3.2d    dW2 = dZ2ᵀ A1; db2 = Σ_rows dZ2             :func:`weight_gradient`, :func:`bias_gradient`
3.2e    dZ1 = (dZ2 W2) * A1(1 - A1)                 :func:`hidden_error`
3.2f    dW1 = dZ1ᵀ X; db1 = Σ_rows dZ1              :func:`weight_gradient`, :func:`bias_gradient`
3.2g    W ← W - α dW; b ← b - α db                  :func:`descend_`
======  ==========================================  =======================================
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

# PyTorch's own limits for the cross-entropy of an activation: a logarithm is never below -100, a denominator never below 1e-12.
LOG_MIN = -100.0
DENOMINATOR_MIN = 1e-12


def weighted_input(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """Weighted input of a layer, Z = X Wᵀ + b: (B, n_in), (n_out, n_in), (n_out) -> (B, n_out). Equations 2.1 and 2.3."""
    return x.mm(W.t()) if b is None else torch.addmm(b, x, W.t())


def sigmoid(z: Tensor) -> Tensor:
    """Activation g(z) = 1 / (1 + e^-z), elementwise, in [0, 1]. Equations 2.2, 2.4 and 3.0."""
    return torch.sigmoid(z)


def sigmoid_derivative(a: Tensor) -> Tensor:
    """Activation by weighted input, ∂a/∂z = a(1 - a), from the activation ``a`` in [0, 1]. Equation 3.2b."""
    return a * (1 - a)


def sigmoid_derivative_at(z: Tensor) -> Tensor:
    """Activation by weighted input from ``z`` itself, g(z) g(-z): exact also where 1 - a has lost its digits. Equation 3.2b."""
    return sigmoid(z) * sigmoid(-z)


def squared_error(a: Tensor, y: Tensor) -> Tensor:
    """Squared error (a - y)² of each element. Equation 3.1a before its mean is taken."""
    return (a - y).square()


def squared_error_derivative(a: Tensor, y: Tensor) -> Tensor:
    """Squared error by activation, 2(a - y). From equation 3.1a."""
    return 2 * (a - y)


def cross_entropy_piecewise(a: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for ``y`` in {0, 1}: -ln a where y is 1, -ln(1 - a) where it is 0. Equation 3.1b."""
    return torch.where(y == 1, -_bounded_log(a), -_bounded_log1p(-a))


def cross_entropy(a: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy -[y ln a + (1 - y) ln(1 - a)] for ``a`` and ``y`` in [0, 1]. Equation 3.1c.

    Logarithms are held at or above -100, as ``torch.nn.functional.binary_cross_entropy`` holds them.
    """
    return (y - 1) * _bounded_log1p(-a) - y * _bounded_log(a)


def cross_entropy_derivative(a: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy by activation, (a - y) / (a(1 - a)). Equation 3.2a; the denominator is held away from zero."""
    return (a - y) / sigmoid_derivative(a).clamp(min=max(DENOMINATOR_MIN, torch.finfo(a.dtype).tiny))


def cross_entropy_target_derivative(a: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy by target, ln(1 - a) - ln a. From equation 3.1c, where ``y`` stands once."""
    return _bounded_log1p(-a) - _bounded_log(a)


def cross_entropy_of_weighted_input(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of a = g(z) straight from ``z``, finite for every finite z. Equation 3.1c with 2.4 put into it.

    As -ln g(z) = ln(1 + e^-z) and -ln(1 - g(z)) = ln(1 + e^z), the cost is (1 - y) ln(1 + e^z) + y ln(1 + e^-z): for y in
    [0, 1] no term is negative, so that nothing cancels. Beyond z = 50, ln(1 + e^z) is z in every precision, so that
    nothing overflows.
    """
    y = y if y.dtype == z.dtype else y.to(z.dtype)
    return torch.lerp(softplus(z, threshold=50), softplus(-z, threshold=50), y)


def positives_weighted(y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Weight u = 1 - y + w y and target y' = w y / u: u times 3.1c of y' is -[w y ln a + (1 - y) ln(1 - a)]. Beyond the text.

    So the error of the output layer is u (a - y'). For y in {0, 1}, y' is y. The weight ``w``, 0 or above, is broadcast.
    """
    positive = w * y
    u = 1 - y + positive
    return u, positive / u.clamp(min=torch.finfo(u.dtype).tiny)


def output_error(a: Tensor, y: Tensor) -> Tensor:
    """Error of the output layer, ∂L/∂z = a - y: 3.2a times 3.2b, where the a(1 - a) cancels. Equation 3.2c."""
    return a - y


def softmax_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy -Σ y ln softmax(z) of each row: (B, C), (B, C) -> (B). Beyond the text, which has sigmoid outputs only."""
    return -(y * torch.log_softmax(z, -1)).sum(-1)


def softmax_cross_entropy_derivative(z: Tensor, y: Tensor) -> Tensor:
    """Softmax cross-entropy by weighted input, softmax(z) Σy - y: a - y where a row of y adds up to 1. Beyond the text."""
    return torch.softmax(z, -1) * y.sum(-1, keepdim=True) - y


def activation_gradient(dz: Tensor, W: Tensor) -> Tensor:
    """Cost by the activations that a layer was given, dA = dZ W: (B, n_out), (n_out, n_in) -> (B, n_in). In equation 3.2e."""
    return dz.mm(W)


def sigmoid_error(da: Tensor, a: Tensor) -> Tensor:
    """Error of a sigmoid layer, dZ = dA * A(1 - A), in one pass over memory. In equation 3.2e."""
    return _sigmoid_backward(da, a)


def hidden_error(dz_next: Tensor, W_next: Tensor, a: Tensor) -> Tensor:
    """Error carried back to the layer whose activation is ``a``, dZ = (dZ_next W_next) * A(1 - A). Equation 3.2e."""
    return activation_gradient(dz_next, W_next) * sigmoid_derivative(a)


def weight_gradient(dz: Tensor, x: Tensor) -> Tensor:
    """Cost by weights, dW = dZᵀ X: (B, n_out), (B, n_in) -> (n_out, n_in). Equations 3.2d and 3.2f."""
    return dz.t().mm(x)


def bias_gradient(dz: Tensor) -> Tensor:
    """Cost by bias, db = Σ_rows dZ: (B, n_out) -> (n_out). Equations 3.2d and 3.2f."""
    return dz.sum(0)


@torch.no_grad()
def descend_(parameter: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """Gradient descent in place, W ← W - α ∂L/∂W; returns the parameter. Equation 3.2g."""
    return parameter.add_(gradient, alpha=-lr)


# The same formulas in place, for descent without a graph: each writes over its first argument, which may be one of the others
# where that is said. Wt and dzt stand for the views Wᵀ and dZᵀ, ones for a vector of B ones, alpha for α/m.


def weighted_input_(z: Tensor, x: Tensor, Wt: Tensor, b: Tensor) -> Tensor:
    """Z = X Wᵀ + b. Equations 2.1 and 2.3."""
    return torch.addmm(b, x, Wt, out=z)


def sigmoid_(a: Tensor, z: Tensor) -> Tensor:
    """A = g(Z), where ``a`` may be ``z``. Equations 2.2 and 2.4."""
    return torch.sigmoid(z, out=a)


def output_error_(dz: Tensor, a: Tensor, y: Tensor) -> Tensor:
    """∂L/∂z = a - y. Equation 3.2c."""
    return torch.sub(a, y, out=dz)


def squared_error_derivative_(da: Tensor, a: Tensor, y: Tensor) -> Tensor:
    """2(a - y). From equation 3.1a."""
    return torch.sub(a, y, out=da).mul_(2)


def activation_gradient_(da: Tensor, dz: Tensor, W: Tensor) -> Tensor:
    """dA = dZ W. In equation 3.2e."""
    return torch.mm(dz, W, out=da)


def sigmoid_error_(dz: Tensor, da: Tensor, a: Tensor) -> Tensor:
    """dZ = dA * A(1 - A), where ``dz`` may be ``da`` or ``a``. In equation 3.2e."""
    return _sigmoid_backward_out(da, a, grad_input=dz)


def weight_gradient_(dW: Tensor, dzt: Tensor, x: Tensor) -> Tensor:
    """dW = dZᵀ X. Equations 3.2d and 3.2f."""
    return torch.mm(dzt, x, out=dW)


def bias_gradient_(db: Tensor, dzt: Tensor, ones: Tensor) -> Tensor:
    """db = Σ_rows dZ, the sum being dZᵀ times ones. Equations 3.2d and 3.2f."""
    return torch.mv(dzt, ones, out=db)


def descend_weight_(W: Tensor, dzt: Tensor, x: Tensor, alpha: float) -> Tensor:
    """W ← W - α/m dZᵀ X, the product subtracted as it is made. Equations 3.2d or 3.2f, and 3.2g."""
    return W.addmm_(dzt, x, alpha=-alpha)


def descend_bias_(b: Tensor, dzt: Tensor, ones: Tensor, alpha: float) -> Tensor:
    """b ← b - α/m Σ_rows dZ, the sum being dZᵀ times ones. Equations 3.2d or 3.2f, and 3.2g."""
    return b.addmv_(dzt, ones, alpha=-alpha)


# dA * A(1 - A) in one pass over memory.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.default
_sigmoid_backward_out = torch.ops.aten.sigmoid_backward.grad_input


def _bounded_log(a: Tensor) -> Tensor:
    return a.log().clamp(min=LOG_MIN)


def _bounded_log1p(a: Tensor) -> Tensor:
    return a.log1p().clamp(min=LOG_MIN)
