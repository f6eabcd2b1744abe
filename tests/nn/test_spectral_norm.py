"""Spectral normalization against numpy's singular values and a slope in closed form."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.spectral_norm import (
    SpectralConvolution,
    SpectralEmbedding,
    SpectralLinear,
    SpectralNorm,
)
from jaxgen.parallel.sharding import unbox

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
NORM = SpectralNorm()


def trained(variables, kernel, steps):
    """The normalized kernel and the vectors after so many training steps."""

    def step(spectral, _):
        answer, after = NORM.apply({"spectral": spectral}, kernel, train=True, mutable=["spectral"])
        return after["spectral"], answer

    spectral, answers = jax.jit(lambda start: jax.lax.scan(step, start, None, steps))(variables)
    return answers[-1], spectral


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (5, 1)])
def test_the_largest_singular_value_is_numpys(shape):
    kernel = jax.random.normal(jax.random.key(1), shape)
    begun = {"outward": jnp.ones(shape[-1]), "inward": jnp.ones(kernel.size // shape[-1])}
    answer, _ = trained(begun, kernel, steps=100)
    sigma = np.linalg.svd(np.asarray(kernel).reshape(-1, shape[-1]), compute_uv=False)[0]
    np.testing.assert_allclose(answer, kernel / sigma, rtol=1e-5)


def test_an_iteration_is_the_papers():
    spectral = {"outward": jnp.eye(6)[0], "inward": jnp.eye(36)[0]}
    answer, after = trained(spectral, KERNEL, steps=1)
    matrix = np.asarray(KERNEL).reshape(36, 6)
    inward = matrix @ np.eye(6)[0]
    inward /= np.linalg.norm(inward)
    outward = matrix.T @ inward
    outward /= np.linalg.norm(outward)
    np.testing.assert_allclose(after["inward"], inward, rtol=1e-5)
    np.testing.assert_allclose(after["outward"], outward, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer, KERNEL / (inward @ matrix @ outward), rtol=1e-5)
    # Where nobody trains nothing moves, and the estimate is that of the vectors as they are.
    apply = jax.jit(lambda given: NORM.apply(given, KERNEL, train=False, mutable=["spectral"]))
    still, same = apply({"spectral": spectral})
    assert all(np.array_equal(same["spectral"][name], leaf) for name, leaf in spectral.items())
    np.testing.assert_allclose(still, KERNEL / KERNEL[0, 0, 0, 0], rtol=1e-5)


def test_the_slope_goes_through_the_singular_value_with_its_vectors_held():
    spectral = {"outward": jnp.ones(6) / 6**0.5, "inward": jnp.ones(36) / 6}
    weight = jax.random.normal(jax.random.key(3), KERNEL.shape)

    def value(kernel):
        answer, after = NORM.apply({"spectral": spectral}, kernel, train=True, mutable=["spectral"])
        return jnp.sum(weight * answer), after["spectral"]

    slope, after = jax.jit(jax.grad(value, has_aux=True))(KERNEL)
    inward, outward = after["inward"], after["outward"]
    matrix, weights = KERNEL.reshape(36, 6), weight.reshape(36, 6)
    sigma = inward @ matrix @ outward
    # Their equation 12: what lies along the first singular pair is taken out of the slope.
    share = jnp.sum(weights * matrix) / sigma
    expected = (weights - share * jnp.outer(inward, outward)) / sigma
    np.testing.assert_allclose(slope.reshape(36, 6), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "given", "name"),
    [
        (SpectralConvolution(6), jnp.ones((2, 5, 5, 4)), "kernel"),
        (SpectralLinear(6), jnp.ones((2, 4)), "kernel"),
        (SpectralEmbedding(3, 6), jnp.array([0, 2]), "table"),
    ],
    ids=["convolution", "linear", "embedding"],
)
def test_a_layer_is_the_plain_one_with_the_divided_kernel(layer, given, name):
    variables = unbox(jax.jit(layer.init)(jax.random.key(0), given))
    params = variables["params"]
    kernel = np.asarray(params[name])
    sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    plain = {
        "kernel": nn.Conv(6, kernel.shape[:2]) if kernel.ndim == 4 else nn.Dense(6),
        "table": nn.Embed(3, 6),
    }[name]
    divided = {("embedding" if name == "table" else name): kernel / sigma}
    if "bias" in params:
        divided["bias"] = params["bias"] = jnp.arange(6.0)
    answer = jax.jit(layer.apply)(variables, given)
    assert answer.dtype == jnp.float32
    # The 15 iterations of the beginning leave so much of the estimate open.
    np.testing.assert_allclose(
        answer, plain.apply({"params": divided}, given), rtol=0.02, atol=0.02
    )


def test_half_precision_is_of_the_computation_alone():
    layer, picture = SpectralConvolution(4, dtype=jnp.bfloat16), jnp.ones((1, 4, 4, 2))
    answer, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), picture)
    assert answer.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
