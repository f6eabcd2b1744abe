import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.vae.autoencoder_kl import AutoencoderKL, gaussian_bottleneck, posterior

SMALL = AutoencoderKL(1, (4, 8, 8), blocks=1, latent_channels=3, groups=2)


def shapes(network, *picture):
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(picture))["params"]


def test_two_halvings_bring_mnist_to_seven_by_seven():
    picture = jnp.zeros((2, 28, 28, 1))
    params = {"params": shapes(SMALL, *picture.shape)}
    encoded = jax.eval_shape(lambda p: SMALL.apply(p, picture, method="encode"), params)
    assert encoded.shape == (2, 7, 7, 6)  # a mean and a log variance each
    quantized = SMALL.clone(gaussian=False)
    params = {"params": shapes(quantized, *picture.shape)}
    encoded = jax.eval_shape(lambda p: quantized.apply(p, picture, method="encode"), params)
    assert encoded.shape == (2, 7, 7, 3)
    decoded = jax.eval_shape(lambda p, z: quantized.apply(p, z, method="decode"), params, encoded)
    assert decoded.shape == picture.shape


def test_the_default_is_as_large_as_stable_diffusions():
    params = shapes(AutoencoderKL(), 1, 32, 32, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 83_653_863


def test_every_parameter_carries_its_logical_axes():
    leaves = jax.tree.leaves(
        shapes(SMALL, 1, 8, 8, 1), is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
    assert all(len(leaf.names) == leaf.value.ndim for leaf in leaves)


def test_pictures_that_cannot_be_halved_are_named():
    with pytest.raises(UserError, match="30×28"):
        shapes(SMALL, 1, 30, 28, 1)


def test_scaled_latents_are_brought_back():
    network = SMALL.clone(scaling_factor=0.5, shift=1.0)
    latent = jnp.array([-3.0, 1.0, 5.0, 9.0]).reshape(1, 2, 2, 1)
    scaled = network.apply({}, latent, method="normalized")
    np.testing.assert_allclose(scaled.ravel(), [-2, 0, 2, 4])
    np.testing.assert_allclose(network.apply({}, scaled, method="unnormalized"), latent)


def test_log_variances_are_clamped():
    encoded = jnp.array([3.0, 3.0, -100.0, 100.0]).reshape(1, 1, 1, 4)
    found = posterior(encoded)
    np.testing.assert_allclose(found.log_deviation.ravel(), [-15.0, 10.0])
    np.testing.assert_array_equal(found.mean.ravel(), [3.0, 3.0])


def test_the_gaussian_bottleneck_draws_and_weighs_its_divergence():
    mean, log_variance = 0.7, -1.3
    encoded = jnp.stack([jnp.full((4, 32, 32), mean), jnp.full((4, 32, 32), log_variance)], axis=-1)
    bottleneck = gaussian_bottleneck(0.25)
    trained = bottleneck(encoded, {}, jax.random.key(0), True)
    expected = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    np.testing.assert_allclose(trained.metrics["kl_per_latent"], expected, rtol=1e-5)
    np.testing.assert_allclose(trained.loss, 0.25 * expected, rtol=1e-5)
    # 4,096 draws: their mean and deviation to within four standard errors.
    deviation = np.exp(log_variance / 2)
    assert abs(trained.values.mean() - mean) < 4 * deviation / 64
    assert abs(trained.values.std() - deviation) < 4 * deviation / 64 / np.sqrt(2)
    still = bottleneck(encoded, {}, None, False)
    np.testing.assert_array_equal(still.values, encoded[..., :1])
    assert still.state == {}
