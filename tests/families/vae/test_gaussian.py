"""The diagonal Gaussian: closed forms, and parity with SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxgen.families.vae.gaussian import DiagonalGaussian, standard_normal


def gaussian(key, shape=(5,)):
    mean, deviation = jax.random.normal(jax.random.key(key), (2, *shape))
    return DiagonalGaussian(mean, 0.5 * deviation)


def test_density_is_scipys():
    one = gaussian(0)
    value = np.linspace(-2, 3, 5)
    expected = scipy.stats.norm(one.mean, np.exp(one.log_deviation)).logpdf(value)
    np.testing.assert_allclose(one.log_probability(jnp.asarray(value)), expected, rtol=1e-5)


def test_draws_come_with_their_density():
    one = gaussian(0, (2, 3))
    values, density = one.draw(jax.random.key(1), 7)
    assert values.shape == density.shape == (7, 2, 3)
    np.testing.assert_allclose(one.log_probability(values), density, rtol=1e-4, atol=1e-4)


def test_divergence_is_the_integral():
    one, other = gaussian(0), gaussian(1)
    grid = np.linspace(-12, 12, 20_001)
    p = scipy.stats.norm(np.asarray(one.mean)[:, None], np.exp(one.log_deviation)[:, None])
    q = scipy.stats.norm(np.asarray(other.mean)[:, None], np.exp(other.log_deviation)[:, None])
    integral = np.trapezoid(p.pdf(grid) * (p.logpdf(grid) - q.logpdf(grid)), grid, axis=1)
    np.testing.assert_allclose(one.divergence(other), integral, rtol=1e-4)


def test_divergence_from_itself_is_exactly_nothing():
    one = gaussian(0)
    assert (np.asarray(one.divergence(one)) == 0).all()
    assert (np.asarray(standard_normal((3,)).divergence(standard_normal((3,)))) == 0).all()


def test_samples_have_the_moments():
    one = gaussian(0)
    many = jax.vmap(one.sample)(jax.random.split(jax.random.key(2), 40_000))
    np.testing.assert_allclose(many.mean(0), one.mean, atol=0.03)
    np.testing.assert_allclose(many.std(0), np.exp(one.log_deviation), rtol=0.02)
