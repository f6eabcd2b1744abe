import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.vae.logistic_mixture import DiscretizedLogisticMixture, parameter_count


def mixture(channels, levels, mixtures=2, pixels=1, seed=0, spread=1.5):
    generator = np.random.default_rng(seed)
    raw = generator.normal(0, spread, (1, 1, pixels, parameter_count(mixtures, channels)))
    return jnp.asarray(raw, jnp.float32), lambda raw: DiscretizedLogisticMixture.of(
        raw, channels, levels
    )


def every(values):
    """One pixel for each: (1, 1, values, channels)."""
    return jnp.asarray(values, jnp.float32)[None, None]


@pytest.mark.parametrize("channels, levels", [(1, 256), (1, 2), (2, 16), (3, 8)])
def test_all_pictures_together_have_mass_one(channels, levels):
    raw, of = mixture(channels, levels)
    values = np.linspace(-1, 1, levels)
    pictures = every(np.stack(np.meshgrid(*[values] * channels), -1).reshape(-1, channels))
    raw = jnp.broadcast_to(raw, (1, 1, levels**channels, raw.shape[-1]))
    log_probability = np.asarray(of(raw).log_probability(pictures), np.float64)
    np.testing.assert_allclose(np.exp(log_probability).sum(), 1, atol=2e-5)


def test_it_is_the_difference_of_cumulatives_in_float64():
    raw, of = mixture(1, 256, mixtures=3)
    values = np.linspace(-1, 1, 256)
    logits, location, log_scale = np.asarray(raw, np.float64).reshape(3, 3).T
    edges = np.concatenate([[-np.inf], values[1:] - 1 / 255, [np.inf]])
    cumulative = 1 / (1 + np.exp(-(edges[:, None] - location) / np.exp(log_scale)))
    weights = np.exp(logits) / np.exp(logits).sum()
    expected = np.log((cumulative[1:] - cumulative[:-1]) @ weights)
    wide = jnp.broadcast_to(raw, (1, 1, 256, 9))
    found = of(wide).log_probability(every(values[:, None]))
    np.testing.assert_allclose(found[0, 0], expected, atol=2e-5)


@pytest.mark.parametrize("location", [-1e3, -1.0, 0.3, 1e3])
@pytest.mark.parametrize("log_scale", [-30.0, 0.0, 8.0])
def test_value_and_slope_are_finite_at_the_extremes(location, log_scale):
    raw = jnp.array([0.0, location, log_scale]).reshape(1, 1, 1, 3)
    wide = jnp.broadcast_to(raw, (1, 1, 4, 3))
    pictures = every(np.array([[-1.0], [-1 + 2 / 255], [0.2], [1.0]]))

    def total(raw):
        return DiscretizedLogisticMixture.of(raw, 1).log_probability(pictures).sum()

    value, slope = jax.value_and_grad(total)(wide)
    assert jnp.isfinite(value) and jnp.all(jnp.isfinite(slope)) and jnp.any(slope != 0)


def test_a_narrow_logistic_far_off_is_still_told_by_its_distance():
    # Its mass underflows, but its logarithm falls by the distance over the scale.
    raw = jnp.broadcast_to(jnp.array([0.0, -1.0, -5.0]).reshape(1, 1, 1, 3), (1, 1, 2, 3))
    pictures = every(np.array([[127], [153]]) / 127.5 - 1)
    found = DiscretizedLogisticMixture.of(raw, 1).log_probability(pictures)[0, 0]
    np.testing.assert_allclose(found[0] - found[1], 26 / 127.5 * np.exp(5.0), rtol=1e-4)
    assert found[0] < -100


def test_samples_are_as_frequent_as_they_are_probable_and_their_mean_is_told():
    count, levels = 40_000, 4
    raw, of = mixture(3, levels, seed=3)
    drawn = of(jnp.broadcast_to(raw, (1, 1, count, raw.shape[-1]))).sample(jax.random.key(0))
    index = np.round((np.asarray(drawn)[0, 0] + 1) * (levels - 1) / 2).astype(int)
    np.testing.assert_allclose(index * 2 / (levels - 1) - 1, drawn[0, 0], atol=1e-6)
    found = np.bincount(index @ [16, 4, 1], minlength=64) / count
    places = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), -1)
    wide = jnp.broadcast_to(raw, (1, 1, 64, raw.shape[-1]))
    expected = np.exp(of(wide).log_probability(every(places * 2 / 3 - 1)))[0, 0]
    # Five standard errors of each frequency.
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / count) + 1e-5)


def test_the_mean_is_that_of_the_levels():
    raw, of = mixture(1, 256, pixels=5)
    values = np.linspace(-1, 1, 256)
    wide = jnp.repeat(raw[0, 0][:, None], 256, 1)[None]
    pictures = jnp.broadcast_to(every(values[:, None]), (1, 5, 256, 1))
    mass = np.exp(of(wide).log_probability(pictures))[0]
    np.testing.assert_allclose(of(raw).mean()[0, 0, :, 0], mass @ values, atol=1 / 255)


def test_numbers_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="31 numbers"):
        DiscretizedLogisticMixture.of(jnp.zeros((1, 1, 1, 31)), 3)
