"""Iterations on networks small enough for a pocket calculator: our own, and a published one.

Our own: two inputs, two hidden units, one output; one sample, x = (1, 0.5) with y = 1; cross-entropy; learning rate 0.5. Every
number below was computed without this project, in decimal arithmetic of thirty digits, and rounded to ten places.
"""

import json

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from training_runs import CONFIGS

from torchbp import equations as eq
from torchbp import functional as F
from torchbp.cli import main
from torchbp.nn import BCEWithLogitsLoss, BPNetwork

LR = 0.5
X, Y = [[1.0, 0.5]], [[1.0]]
W1, b1 = [[0.1, -0.2], [0.4, 0.3]], [0.05, -0.1]
W2, b2 = [[0.5, -0.6]], [0.2]

# 2.1   z1 = W1 x + b1: 0.1·1 - 0.2·0.5 + 0.05; 0.4·1 + 0.3·0.5 - 0.1
Z1 = [[0.05, 0.45]]
# 2.2   a1 = 1 / (1 + e^-z1): 1 / 1.9512294245; 1 / 1.6376281516
A1 = [[0.5124973965, 0.6106392339]]
# 2.3   z2 = W2 a1 + b2: 0.5·0.5124973965 - 0.6·0.6106392339 + 0.2
Z2 = [[0.0898651579]]
# 2.4   a2 = 1 / (1 + e^-z2): 1 / 1.9140544300
A2 = [[0.5224511823]]
# 3.1c  L = -[1·ln a2 + 0·ln(1 - a2)] = -ln 0.5224511823
L = 0.6492237305
# 3.2c  ∂L/∂z2 = a2 - y = 0.5224511823 - 1
DZ2 = [[-0.4775488177]]
# 3.2d  ∂L/∂W2 = (a2 - y) a1ᵀ: -0.4775488177·0.5124973965; -0.4775488177·0.6106392339
DW2 = [[-0.2447425258, -0.2916100442]]
#       ∂L/∂b2 = a2 - y
DB2 = [-0.4775488177]
# 3.2e  ∂L/∂z1 = W2ᵀ ∂L/∂z2 * a1(1 - a1):
#       0.5·(-0.4775488177) = -0.2387744088, times 0.5124973965·0.4875026035 = 0.2498438151;
#       -0.6·(-0.4775488177) = 0.2865292906, times 0.6106392339·0.3893607661 = 0.2377589599
DZ1 = [[-0.0596563092, 0.0681249061]]
# 3.2f  ∂L/∂W1 = ∂L/∂z1 xᵀ: each row is its ∂L/∂z1 times (1, 0.5)
DW1 = [[-0.0596563092, -0.0298281546], [0.0681249061, 0.0340624531]]
#       ∂L/∂b1 = ∂L/∂z1
DB1 = [-0.0596563092, 0.0681249061]
# 3.2g  W ← W - 0.5 ∂L/∂W; b ← b - 0.5 ∂L/∂b
W2_AFTER = [[0.6223712629, -0.4541949779]]  # 0.5 + 0.1223712629; -0.6 + 0.1458050221
B2_AFTER = [0.4387744088]  # 0.2 + 0.2387744088
W1_AFTER = [[0.1298281546, -0.1850859227], [0.3659375469, 0.2829687735]]  # 0.1 + 0.0298281546; -0.2 + 0.0149140773; ...
B1_AFTER = [0.0798281546, -0.1340624531]  # 0.05 + 0.0298281546; -0.1 - 0.0340624531


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(actual: Tensor, expected: object) -> None:
    assert_close(actual.detach(), tensor(expected), rtol=0, atol=1e-10)


def network() -> BPNetwork:
    net = BPNetwork([2, 2, 1], dtype=torch.float64)
    state = {"layers.0.weight": W1, "layers.0.bias": b1, "layers.1.weight": W2, "layers.1.bias": b2}
    net.load_state_dict({name: tensor(values) for name, values in state.items()})
    return net


def test_network_cost_and_optimizer() -> None:
    net, x, y = network(), tensor(X), tensor(Y)
    hidden, output = net.layers
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    same(F.linear(x, hidden.weight, hidden.bias), Z1)
    same(hidden(x), A1)
    z2 = net.logits(x)
    z2.retain_grad()
    same(z2, Z2)
    same(net(x), A2)
    cost = BCEWithLogitsLoss()(z2, y)
    same(cost, L)

    cost.backward()
    same(z2.grad, DZ2)
    same(output.weight.grad, DW2)
    same(output.bias.grad, DB2)
    same(hidden.weight.grad, DW1)
    same(hidden.bias.grad, DB1)
    # For one sample, ∂L/∂b1 is ∂L/∂z1.
    same(hidden.bias.grad.unsqueeze(0), DZ1)

    optimizer.step()
    same(output.weight, W2_AFTER)
    same(output.bias, B2_AFTER)
    same(hidden.weight, W1_AFTER)
    same(hidden.bias, B1_AFTER)


def test_cost_of_the_activation_gives_the_same_gradients() -> None:
    net, x, y = network(), tensor(X), tensor(Y)
    cost = F.binary_cross_entropy(net(x), y)
    same(cost, L)
    gradients = torch.autograd.grad(cost, list(net.parameters()))
    for gradient, expected in zip(gradients, (DW1, DB1, DW2, DB2), strict=True):
        same(gradient, expected)


def test_equation_by_equation() -> None:
    x, y = tensor(X), tensor(Y)
    parameters = [tensor(values) for values in (W1, b1, W2, b2)]
    w1, c1, w2, c2 = parameters

    z1 = eq.weighted_input(x, w1.mT, c1)
    a1 = eq.sigmoid(z1)
    z2 = eq.weighted_input(a1, w2.mT, c2)
    a2 = eq.sigmoid(z2)
    for actual, expected in zip((z1, a1, z2, a2), (Z1, A1, Z2, A2), strict=True):
        same(actual, expected)
    for cost in (eq.cross_entropy(a2, y), eq.cross_entropy_piecewise(a2, y), eq.cross_entropy_of_weighted_input(z2, y)):
        same(cost, [[L]])

    dz2 = eq.output_error(a2, y)
    same(dz2, DZ2)
    same(eq.cross_entropy_derivative(a2, y) * eq.sigmoid_derivative(a2), DZ2)
    dz1 = eq.hidden_error(eq.activation_gradient(dz2, w2), eq.sigmoid_derivative(a1))
    same(dz1, DZ1)
    gradients = eq.weight_gradient(dz1.mT, x), eq.bias_gradient(dz1), eq.weight_gradient(dz2.mT, a1), eq.bias_gradient(dz2)
    for gradient, expected in zip(gradients, (DW1, DB1, DW2, DB2), strict=True):
        same(gradient, expected)

    afterwards = W1_AFTER, B1_AFTER, W2_AFTER, B2_AFTER
    for parameter, gradient, expected in zip(parameters, gradients, afterwards, strict=True):
        same(eq.descend(parameter, gradient, LR), expected)


def test_published_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Matt Mazur, "A Step by Step Backpropagation Example" (2015), with the digits that it prints.

    Its error, ½Σ over two outputs, is their mean. It does not update biases, so they are not compared.
    """
    sample = ["--x", "0.05,0.1", "--y", "0.01,0.99", "--cost", "squared_error", "--lr", "0.5"]
    assert main(["trace", "--weights", str(CONFIGS / "weights" / "mazur.yaml"), *sample, "--json"]) == 0
    steps = {step["symbol"]: step["value"] for step in json.loads(capsys.readouterr().out)["steps"]}
    printed = {
        "Z1": [["0.3775", ...]],
        "A1": [["0.593269992", "0.596884378"]],
        "Z2": [["1.105905967", ...]],
        "A2": [["0.75136507", "0.772928465"]],
        "L": "0.298371109",
        "dA2": [["0.74136507", ...]],
        "∂A2/∂Z2": [["0.186815602", ...]],
        "dZ2": [["0.138498562", ...]],
        "dW2": [["0.082167041", ...], [..., ...]],
        "dW1": [["0.000438568", ...], [..., ...]],
        "W1": [["0.149780716", "0.19956143"], ["0.24975114", "0.29950229"]],
        "W2": [["0.35891648", "0.408666186"], ["0.511301270", "0.561370121"]],
    }
    for symbol, digits in printed.items():
        rounded(steps[symbol], digits)


def rounded(value: object, digits: object) -> None:
    """Checks that each number, rounded to as many places as were printed, is the printed one; ... was not printed."""
    if isinstance(value, list) and isinstance(digits, list):
        for each, printed in zip(value, digits, strict=True):
            rounded(each, printed)
    elif digits is not ...:
        assert f"{value:.{len(str(digits).partition('.')[2])}f}" == digits
