import numpy as np
import pytest
from scipy import linalg

from jaxgen.errors import UserError
from jaxgen.evaluation.frechet import Moments, frechet_distance


def normal(seed, count=50, features=4, mixing=None):
    values = np.random.default_rng(seed).normal(size=(count, features))
    return values if mixing is None else values @ mixing


def with_moments(mean, covariance, count=20):
    """Items that have exactly these moments."""
    features = len(mean)
    values = normal(0, count, features)
    values -= values.mean(0)
    whitened = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values.T))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_a_set_is_at_no_distance_from_itself():
    moments = Moments.of(normal(1))
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-9)


def test_diagonal_gaussians_have_a_closed_form():
    # Σ (μ₁ - μ₂)² + (σ₁ - σ₂)².
    one = with_moments(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    other = with_moments(np.array([0.0, -1.0]), np.diag([1.0, 25.0]))
    expected = 1 + 9 + (2 - 1) ** 2 + (3 - 5) ** 2
    assert frechet_distance(Moments.of(one), Moments.of(other)) == pytest.approx(expected)


def test_agrees_with_the_matrix_square_root():
    one, other = normal(1, mixing=normal(5, 4)), 1 + normal(2, mixing=normal(6, 4))
    product = np.cov(one.T) @ np.cov(other.T)
    gap = one.mean(0) - other.mean(0)
    traces = np.trace(np.cov(one.T)) + np.trace(np.cov(other.T))
    expected = gap @ gap + traces - 2 * np.trace(linalg.sqrtm(product)).real
    found = frechet_distance(Moments.of(one), Moments.of(other))
    assert found == pytest.approx(expected)
    assert found == pytest.approx(frechet_distance(Moments.of(other), Moments.of(one)))


def test_batches_join_to_the_moments_of_all():
    values = 1e4 + normal(3, 23)
    joined = Moments.of(values[:1])
    for start, stop in ((1, 9), (9, 10), (10, 23)):
        joined = joined.joined(Moments.of(values[start:stop]))
    assert joined.count == 23
    np.testing.assert_allclose(joined.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(joined.covariance(), np.cov(values.T), rtol=1e-6)


def test_moments_accumulate_as_batches_come():
    values = 1e4 + normal(3, 23)
    found = Moments.of_batches(iter(np.split(values, [1, 9, 10])))
    assert found.count == 23
    np.testing.assert_allclose(found.covariance(), np.cov(values.T), rtol=1e-6)
    with pytest.raises(UserError, match="no features to take moments of"):
        Moments.of_batches(iter([]))


def test_large_samples_of_two_gaussians_come_near_their_closed_form():
    one, other = normal(1, 20_000), 0.5 + 2 * normal(2, 20_000)
    found = frechet_distance(Moments.of(one), Moments.of(other))
    assert found == pytest.approx(4 * (0.5**2 + 1), rel=0.03)


def test_float32_features_are_summed_in_float64():
    values = (1e4 + normal(3, 200)).astype(np.float32)
    np.testing.assert_allclose(
        Moments.of(values).covariance(), np.cov(values.astype(np.float64).T), rtol=1e-9
    )


def test_too_few_samples_are_refused():
    enough, few = Moments.of(normal(1, 5)), Moments.of(normal(1, 4))
    frechet_distance(enough, enough)
    for pair in ((enough, few), (few, enough)):
        with pytest.raises(UserError, match="at least 5 samples, and there are 4"):
            frechet_distance(*pair)
