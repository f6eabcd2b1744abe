import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.vae.finite_scalar_quantization import bound, finite_scalar_quantizer


def quantized(quantizer, latent):
    return jax.jit(quantizer.quantize, static_argnums=3)(latent, {}, None, True)


@pytest.mark.parametrize("levels", [(3,), (8, 5, 5), (4, 3, 7, 6)])
def test_every_code_comes_back_as_itself(levels):
    one = finite_scalar_quantizer(levels)
    assert one.codes == math.prod(levels) and one.dimensions == len(levels)
    indices = jnp.arange(one.codes).reshape(1, 1, -1)
    values = one.look_up(indices, {})
    assert len(np.unique(values.reshape(-1, len(levels)), axis=0)) == one.codes
    # The latents that the bound puts on these values: undone level by level.
    sizes = np.asarray(levels)
    reach = (sizes - 1) * (1 - 1e-3) / 2
    down = np.where(sizes % 2 == 0, 0.5, 0.0)
    steps = np.float64(values) * (sizes // 2)
    inner = np.clip((steps + down) / reach, -0.999, 0.999)
    latent = np.arctanh(inner) - np.arctanh(down / reach)
    found = quantized(one, jnp.asarray(latent, jnp.float32))
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("levels", [3, 4, 5, 8])
def test_each_level_is_reached_and_no_other(levels):
    one = finite_scalar_quantizer((levels,))
    latent = jnp.linspace(-20, 20, 2001).reshape(1, 1, -1, 1)
    found = quantized(one, latent)
    np.testing.assert_array_equal(np.unique(found.indices), np.arange(levels))
    expected = (np.arange(levels) - levels // 2) / (levels // 2)
    np.testing.assert_allclose(np.unique(found.values), expected, rtol=1e-6)
    assert np.all(np.diff(np.asarray(found.indices).reshape(-1)) >= 0)


def test_nothing_stays_nothing():
    zero = jnp.zeros((1, 1, 1, 4))
    np.testing.assert_allclose(bound(zero, (3, 4, 5, 8)), zero, atol=1e-6)


def test_gradient_is_that_of_the_bound():
    levels = (5, 8)
    one = finite_scalar_quantizer(levels)
    latent = jax.random.normal(jax.random.key(0), (2, 3, 3, 2))
    gradient = jax.random.normal(jax.random.key(1), latent.shape)
    (found,) = jax.vjp(lambda latent: quantized(one, latent).values, latent)[1](gradient)
    half = jnp.array([2.0, 4.0]).reshape(1, 1, 1, 2)
    (expected,) = jax.vjp(jax.jit(lambda z: bound(z, levels) / half), latent)[1](gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_keeps_no_state_and_adds_no_loss():
    one = finite_scalar_quantizer((5, 5))
    found = quantized(one, jnp.ones((1, 2, 2, 2)))
    assert one.init(jax.random.key(0)) == {} == found.state and found.loss == 0
    np.testing.assert_allclose(found.metrics["perplexity"], 1)


@pytest.mark.parametrize("levels", [(), (8, 2)])
def test_too_few_levels(levels):
    with pytest.raises(UserError, match="at least 3 levels"):
        finite_scalar_quantizer(levels)
