"""kornia 0.9.0: the null space's backward treats the singular vectors as constants."""

from published import RIGHT, WRONG, error, finite_differences, gradient, normal, penalty_error, published

essential = published("kornia", "0.9.0", "kornia.geometry.epipolar.essential")


def test_second_derivatives_of_the_null_space() -> None:
    weights = normal(9, 9)

    def value(x):
        basis = essential._NullSpaceBasis.apply(x)[0]
        return (basis @ basis.mT * weights).sum()  # the same for every basis of the subspace

    x = normal(1, 6, 9)
    assert error(gradient(value, x), finite_differences(value, x)) < RIGHT
    direction = normal(1, 6, 9)
    assert penalty_error(lambda v: value(x + v), direction) > WRONG
