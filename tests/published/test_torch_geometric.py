"""torch_geometric 2.8.1: sparse_cross_entropy subtracts a label's gradient once if the label is given several times."""

import torch
from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error, published

cross_entropy = published("torch_geometric", "2.8.1", "torch_geometric.utils.cross_entropy")


def test_a_label_given_twice() -> None:
    labels = torch.tensor([[0, 0, 1], [1, 1, 2]])  # rows, classes

    def loss(x):
        return cross_entropy.sparse_cross_entropy(x, labels)

    def by_pytorch(x):
        return -x.log_softmax(1)[labels[0], labels[1]].sum() / x.size(0)

    x = normal(2, 3)
    assert error(loss(x), by_pytorch(x)) < RIGHT
    assert error(finite_differences(loss, x), gradient(by_pytorch, x)) < RIGHT
    assert error(gradient(loss, x), gradient(by_pytorch, x)) > WRONG


def test_once_differentiable_lets_a_penalty_pass() -> None:
    """It raises only if the upstream gradient itself requires grad; that of a loss does not."""
    labels = torch.tensor([[0, 1], [1, 2]])
    assert penalty_error(lambda x: cross_entropy.sparse_cross_entropy(x, labels), normal(2, 3)) > WRONG
