"""speechbrain 1.1.2: the quaternion layers leave out a frozen bias; the custom backward detaches the weights."""

import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, published

q_ops = published("speechbrain", "1.1.2", "speechbrain", "nnet/quaternion_networks/q_ops.py")


def test_value_changes_when_the_bias_is_frozen() -> None:
    x, weights, bias = normal(2, 8), [normal(2, 1) for _ in range(4)], normal(4)
    for layer in (q_ops.QuaternionLinearCustomBackward.apply, q_ops.quaternion_linear_op):
        trained = layer(x, *weights, bias.requires_grad_())
        frozen = layer(x, *weights, bias.detach())
        assert torch.allclose(trained - frozen, bias.expand(2, 4))


def test_penalty_by_a_weight() -> None:
    x, (_, i, j, k), bias = normal(2, 8), [normal(2, 1) for _ in range(4)], normal(4).requires_grad_()

    def penalty(layer):
        def of_weight(r):
            at = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(layer(at, r, i, j, k, bias).tanh().sum(), at, create_graph=True)
            return (g * g).sum()

        return of_weight

    r = normal(2, 1)
    custom, plain = penalty(q_ops.QuaternionLinearCustomBackward.apply), penalty(q_ops.quaternion_linear_op)
    assert error(gradient(custom, r), finite_differences(custom, r)) > WRONG
    assert error(gradient(plain, r), finite_differences(custom, r)) < RIGHT
