"""torch_struct 0.5: the sparsemax semiring's value is not the function whose gradient it returns."""

from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error, published

semirings = published("torch_struct", "0.5", "torch_struct.semirings")


def test_value_and_gradient_disagree() -> None:
    def value(x):
        return semirings.SparseMaxSemiring.sum(x, -1).sum()

    x = normal(2, 4)
    got = gradient(value, x)
    assert error(got, finite_differences(value, x)) > WRONG

    def with_half_the_squared_norm(x):  # max over the simplex of <x, p> - |p|²/2 (Martins and Astudillo 2016)
        p = gradient(value, x)
        return (x * p).sum() - (p * p).sum() / 2

    assert error(got, finite_differences(with_half_the_squared_norm, x)) < RIGHT


def test_checkpointed_semiring_loses_second_derivatives() -> None:
    b = normal(1, 3, 2).requires_grad_()
    checkpointed = semirings.CheckpointSemiring(semirings.LogSemiring, 1)
    assert penalty_error(lambda a: checkpointed.matmul(a, b).square().sum(), normal(1, 2, 3)) > WRONG
    assert penalty_error(lambda a: semirings.LogSemiring.matmul(a, b).square().sum(), normal(1, 2, 3)) < RIGHT
