import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxgen.families.vae.gaussian import DiagonalGaussian
from jaxgen.families.vae.vamp_prior import PseudoInputs, VampPrior
from jaxgen.parallel.sharding import unbox

MEANS, DEVIATIONS = jax.random.normal(jax.random.key(0), (2, 3, 4))


def test_log_probability_is_the_mixtures():
    prior = VampPrior(DiagonalGaussian(MEANS, 0.5 * DEVIATIONS))
    latent = jax.random.normal(jax.random.key(1), (2, 5, 4))
    found = jax.jit(prior.log_probability)(latent)
    components = [
        scipy.stats.multivariate_normal(mean, np.diag(np.exp(deviation)))
        for mean, deviation in zip(np.asarray(MEANS), np.asarray(DEVIATIONS), strict=True)
    ]
    density = np.mean([component.pdf(np.asarray(latent)) for component in components], axis=0)
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found, np.log(density), rtol=1e-4)


def test_latents_may_have_axes_of_their_own():
    flat = VampPrior(DiagonalGaussian(MEANS, DEVIATIONS))
    square = VampPrior(DiagonalGaussian(MEANS.reshape(3, 2, 2), DEVIATIONS.reshape(3, 2, 2)))
    latent = jax.random.normal(jax.random.key(1), (5, 4))
    found = jax.jit(square.log_probability)(latent.reshape(5, 2, 2))
    np.testing.assert_allclose(found, jax.jit(flat.log_probability)(latent), rtol=1e-6)


def test_the_density_integrates_to_one():
    prior = VampPrior(DiagonalGaussian(MEANS[:, :1], DEVIATIONS[:, :1]))
    grid = jnp.linspace(-40, 40, 40_001)
    density = np.exp(jax.jit(prior.log_probability)(grid[:, None]))
    assert abs(np.trapezoid(density, grid) - 1) < 1e-4


def test_far_away_the_density_is_small_but_not_lost():
    """Where the densities themselves are 0 in float32."""
    prior = VampPrior(DiagonalGaussian(MEANS, jnp.zeros((3, 4))))
    far = jnp.full((1, 4), 30.0)
    exact = -0.5 * np.sum((30.0 - np.asarray(MEANS, np.float64)) ** 2, 1) - 2 * np.log(2 * np.pi)
    expected = np.logaddexp.reduce(exact) - np.log(3)
    np.testing.assert_allclose(jax.jit(prior.log_probability)(far), [expected], rtol=1e-5)


def test_one_component_is_the_posterior_itself():
    one = DiagonalGaussian(MEANS[:1], DEVIATIONS[:1])
    latent = jax.random.normal(jax.random.key(1), (5, 4))
    found = jax.jit(VampPrior(one).log_probability)(latent)
    np.testing.assert_allclose(found, one.log_probability(latent).sum(-1), rtol=1e-5)


def test_samples_have_the_mixtures_moments():
    prior = VampPrior(DiagonalGaussian(3 * MEANS, 0.5 * DEVIATIONS))
    count = 40_000
    samples = np.asarray(jax.jit(prior.sample, static_argnums=1)(jax.random.key(2), count))
    assert samples.shape == (count, 4)
    within, between = np.exp(np.asarray(DEVIATIONS)).mean(0), 9 * np.asarray(MEANS).var(0)
    error = np.sqrt((within + between) / count)  # of the mean
    np.testing.assert_array_less(np.abs(samples.mean(0) - 3 * np.asarray(MEANS).mean(0)), 5 * error)
    np.testing.assert_allclose(samples.var(0), within + between, rtol=0.05)


def test_pseudo_inputs_are_pictures_and_learn():
    network = PseudoInputs(3, (2, 2, 1), mean=-0.9, deviation=0.3)
    params = unbox(network.init(jax.random.key(0)))
    pictures = network.apply(params)
    entries = params["params"]["pictures"]
    assert pictures.shape == (3, 2, 2, 1) and jnp.any(entries < -1)
    np.testing.assert_array_equal(pictures, np.clip(entries, -1, 1))

    def density(params):  # of a latent, by an encoder that reads a picture's brightness
        brightness = network.apply(params).mean((1, 2, 3))[:, None]
        prior = VampPrior(DiagonalGaussian(brightness, jnp.zeros((3, 1))))
        return prior.log_probability(jnp.array([[0.7]]))[0]

    moved = jax.jit(jax.grad(density))(params)["params"]["pictures"]
    np.testing.assert_array_equal(moved > 0, np.abs(entries) < 1)
