"""Every formula of the text, once, as a plain tensor function.

A batch has B samples as rows. For layer l, the input ``x`` or ``a`` is (B, n[l-1]), ``W`` is (n[l], n[l-1]), ``b`` is (n[l]),
and ``z``, ``dz``, ``da`` are (B, n[l]); ``dz`` means ∂L/∂z. K networks side by side have tensors (K, B, n), W (K, m, n) and b
(K, 1, m). Elementwise formulas take any shape. ``out=`` takes the result; it may be an argument, for an in-place update.

A matrix that a formula transposes is passed already transposed, ``Wt`` for Wᵀ, ``dzt`` for dZᵀ: making the view takes as long
as a small product, so a caller makes it once.

======  ==========================================  =======================================
no.     formula                                     function
======  ==========================================  =======================================
2.1     Z1 = X W1ᵀ + b1                             :func:`weighted_input`
2.2     A1 = g(Z1)                                  :func:`sigmoid`, or :mod:`torchbp.activations`
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
3.2e    dZ1 = (dZ2 W2) * g'(Z1)                     :func:`activation_gradient`, :func:`hidden_error`
3.2f    dW1 = dZ1ᵀ X; db1 = Σ_rows dZ1              :func:`weight_gradient`, :func:`bias_gradient`
3.2g    W ← W - α dW; b ← b - α db                  :func:`descend`
4.2     A = softmax(Z); L = -Σ y ln a               :func:`softmax`, :func:`softmax_cross_entropy`
4.2     dZ = A Σy - Y                               :func:`softmax_output_error`
5.1     Z_t = X_t Wiᵀ + bi + bh + A_{t-1} Whᵀ       :func:`weighted_input`, :func:`recurrent_input`
5.2     dA_t = (from above) + dZ_{t+1} Wh           :func:`recurrent_gradient`
5.3     dWh = Σ_t dZ_tᵀ A_{t-1}                     :func:`recurrent_weight_gradient`
======  ==========================================  =======================================
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

# PyTorch's own limits for the cross-entropy of an activation: a logarithm is never below -100, a denominator never below 1e-12.
LOG_MIN = -100.0
DENOMINATOR_MIN = 1e-12


def weighted_input(x: Tensor, Wt: Tensor, b: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """Weighted input of a layer, Z = X Wᵀ + b: (B, n_in), (n_in, n_out), (n_out) -> (B, n_out). Equations 2.1, 2.3, 5.1."""
    if b is None:
        return torch.matmul(x, Wt, out=out)
    if Wt.dim() == 2:
        return torch.addmm(b, x, Wt, out=out)
    z = torch.bmm(x, Wt, out=out)  # faster with the bias apart than baddbmm
    return torch.add(z, b.to(z.dtype), out=out)  # to: autocast may have made z of another type


def sigmoid(z: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Activation g(z) = 1 / (1 + e^-z), in [0, 1]. Equations 2.2, 2.4 and 3.0."""
    return torch.sigmoid(z, out=out)


def sigmoid_derivative(a: Tensor) -> Tensor:
    """Derivative of the activation by the weighted input, ∂a/∂z = a(1 - a), from ``a`` in [0, 1]. Equation 3.2b."""
    return a * (1 - a)


def sigmoid_derivative_at(z: Tensor) -> Tensor:
    """The same derivative from ``z``, g(z) g(-z): exact also for a so near 1 that 1 - a has lost its digits. Equation 3.2b."""
    return sigmoid(z) * sigmoid(-z)


def squared_error(a: Tensor, y: Tensor) -> Tensor:
    """Squared error (a - y)² of each element. Equation 3.1a before the mean."""
    return (a - y).square()


def squared_error_derivative(a: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Derivative of the squared error by the activation, 2(a - y). From equation 3.1a."""
    return torch.sub(a, y, out=out).mul_(2)


def cross_entropy_piecewise(a: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for ``y`` in {0, 1}: -ln a where y is 1, -ln(1 - a) where it is 0. Equation 3.1b."""
    return torch.where(y == 1, -_bounded_log(a), -_bounded_log1p(-a))


def cross_entropy(a: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy -[y ln a + (1 - y) ln(1 - a)] for ``a`` and ``y`` in [0, 1]. Equation 3.1c.

    Logarithms are clamped to -100 or above, as in ``torch.nn.functional.binary_cross_entropy``.
    """
    return (y - 1) * _bounded_log1p(-a) - y * _bounded_log(a)


def cross_entropy_derivative(a: Tensor, y: Tensor) -> Tensor:
    """Derivative of the cross-entropy by the activation, (a - y) / (a(1 - a)), the denominator kept above 0. Equation 3.2a."""
    return (a - y) / sigmoid_derivative(a).clamp(min=max(DENOMINATOR_MIN, torch.finfo(a.dtype).tiny))


def cross_entropy_target_derivative(a: Tensor, y: Tensor) -> Tensor:
    """Derivative of the cross-entropy by the target, ln(1 - a) - ln a. From equation 3.1c."""
    return _bounded_log1p(-a) - _bounded_log(a)


def cross_entropy_of_weighted_input(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of a = g(z) directly from ``z``, finite for every finite z. Equation 3.1c with 2.4 inserted.

    -ln g(z) = ln(1 + e^-z) and -ln(1 - g(z)) = ln(1 + e^z), so the cost is (1 - y) ln(1 + e^z) + y ln(1 + e^-z). For y in
    [0, 1] no term is negative, so nothing cancels. Above z = 50, ln(1 + e^z) is z in every precision, so nothing overflows.
    """
    y = y if y.dtype == z.dtype else y.to(z.dtype)
    return torch.lerp(softplus(z, threshold=50), softplus(-z, threshold=50), y)


def cross_entropy_of_weighted_input_target_derivative(z: Tensor) -> Tensor:
    """Derivative of the cross-entropy of g(z) by the target, ln(1 - a) - ln a = -z. From equations 3.1c and 2.4."""
    return -z


def positives_weighted(y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The weight u = 1 - y + w y and the target y' = w y / u that apply ``pos_weight`` w to the cross-entropy. Beyond the text.

    u times 3.1c with target y' is -[w y ln a + (1 - y) ln(1 - a)], and the error of the output layer is u (a - y'). For y in
    {0, 1}, y' is y. ``w``, 0 or above, is broadcast.
    """
    positive = w * y
    u = 1 - y + positive
    return u, positive / u.clamp(min=torch.finfo(u.dtype).tiny)


def output_error(a: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Error of the output layer, ∂L/∂z = a - y: 3.2a times 3.2b, in which a(1 - a) cancels. Equation 3.2c."""
    return torch.sub(a, y, out=out)


def softmax(z: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Softmax of each row, e^z / Σ e^z; a row of outputs adds up to 1. Equation 4.2."""
    return torch.softmax(z, -1) if out is None else torch.softmax(z, -1, out=out)


def softmax_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy -Σ y ln softmax(z) of each row: (B, C), (B, C) -> (B, 1). Equation 4.2."""
    return -(y * torch.log_softmax(z, -1)).sum(-1, keepdim=True)


def softmax_output_error(a: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Error of a softmax output layer, A Σy - Y: a - y if a row of y adds up to 1. Equation 4.2."""
    return torch.mul(a, y.sum(-1, keepdim=True), out=out).sub_(y)


def softmax_cross_entropy_target_derivative(z: Tensor) -> Tensor:
    """Derivative of the softmax cross-entropy by the target, -ln softmax(z). From equation 4.2."""
    return -torch.log_softmax(z, -1)


def smoothed(y: Tensor, smoothing: float) -> Tensor:
    """Label smoothing of targets (…, C) by ε = ``smoothing``: (1 - ε) y + ε/C. Beyond the text."""
    return y * (1 - smoothing) + smoothing / y.shape[-1]


def standardized(x: Tensor, mean: Tensor, scale: Tensor, clip: float | None = None) -> Tensor:
    """(x - mean) / scale, clamped to ±``clip``; None for no limit. Beyond the text."""
    z = x.sub(mean).div_(scale)
    return z if clip is None else z.clamp_(-clip, clip)


def activation_gradient(dz: Tensor, W: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gradient of a layer's input, dA = dZ W: (B, n_out), (n_out, n_in) -> (B, n_in). In equation 3.2e."""
    return torch.mm(dz, W, out=out) if W.dim() == 2 else torch.bmm(dz, W, out=out)


def hidden_error(da: Tensor, slope: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Error of a hidden layer, dZ = dA * g'(Z). Equation 3.2e."""
    return torch.mul(da, slope, out=out)


def weight_gradient(dzt: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gradient of the weights, dW = dZᵀ X: (n_out, B), (B, n_in) -> (n_out, n_in). Equations 3.2d and 3.2f."""
    return torch.mm(dzt, x, out=out) if dzt.dim() == 2 else torch.bmm(dzt, x, out=out)


def bias_gradient(dz: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gradient of the bias, db = Σ_rows dZ: (B, n_out) -> (n_out). Equations 3.2d and 3.2f."""
    return torch.sum(dz, -2) if out is None else torch.sum(dz, -2, out=out)


def recurrent_input(zt: Tensor, h: Tensor, Wht: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Weighted input of a recurrent layer at t, Z_t = (X_t Wiᵀ + bi + bh) + A_{t-1} Whᵀ. Equation 5.1.

    (B, m), (B, m), (m, m) -> (B, m). The bracket ``zt`` is 2.1, one product for all t.
    """
    return zt.addmm_(h, Wht) if out is zt else torch.addmm(zt, h, Wht, out=out)  # addmm_ is faster


def recurrent_gradient(da: Tensor, dz: Tensor, Wh: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Gradient of the state at t, dA_t = (from above) + dZ_{t+1} Wh: (B, m), (B, m), (m, m) -> (B, m). Equation 5.2."""
    return da.addmm_(dz, Wh) if out is da else torch.addmm(da, dz, Wh, out=out)


def recurrent_weight_gradient(dz: Tensor, a: Tensor, h: Tensor | None = None) -> Tensor:
    """Gradient of the recurrent weights, dWh = Σ_t dZ_tᵀ A_{t-1}: (T, B, m), (T, B, m), (B, m) -> (m, m). Equation 5.3.

    One product for all t; A_0 is ``h``, None for zeros.
    """
    dz, before = recurrent_rows(dz, a, h)
    return weight_gradient(dz.mT, before)


def recurrent_rows(dz: Tensor, a: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """dZ_t and A_{t-1} as rows, (N, m) each; without t = 1 if ``h`` is None, since A_0 is zero. In equation 5.3."""
    m = a.shape[-1]
    before = a[:-1].reshape(-1, m)
    return (dz[1:].reshape(-1, m), before) if h is None else (dz.reshape(-1, m), torch.cat([h, before]))


@torch.no_grad()
def descend(parameter: Tensor, gradient: Tensor, lr: float | Tensor) -> Tensor:
    """Gradient descent in place, W ← W - α ∂L/∂W; returns the parameter. Equation 3.2g."""
    return parameter.sub_(gradient * lr) if isinstance(lr, Tensor) else parameter.add_(gradient, alpha=-lr)


def clipping(norm: Tensor, limit: float) -> Tensor:
    """The factor that clips a gradient of this norm to ``limit``, as in PyTorch. Beyond the text."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


# Descent without gradients in memory: each product is subtracted at once. alpha is α/m, ones are (B) or (K, 1, B).


def descend_weight(W: Tensor, dzt: Tensor, x: Tensor, alpha: float) -> Tensor:
    """W ← W - α/m dZᵀ X in place. Equations 3.2d or 3.2f, and 3.2g."""
    return W.addmm_(dzt, x, alpha=-alpha) if W.dim() == 2 else W.baddbmm_(dzt, x, alpha=-alpha)


def descend_bias(b: Tensor, dzt: Tensor, ones: Tensor, alpha: float) -> Tensor:
    """b ← b - α/m Σ_rows dZ in place; the sum is dZᵀ times ones. Equations 3.2d or 3.2f, and 3.2g."""
    return b.addmv_(dzt, ones, alpha=-alpha) if b.dim() == 1 else b.baddbmm_(ones, dzt.mT, alpha=-alpha)


def _bounded_log(a: Tensor) -> Tensor:
    return a.log().clamp(min=LOG_MIN)


def _bounded_log1p(a: Tensor) -> Tensor:
    return a.log1p().clamp(min=LOG_MIN)
