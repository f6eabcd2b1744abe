import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.convolution import convolution, doubled, group_norm


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (1, 1)])
def test_convolution_is_a_weighted_sum_of_its_neighbourhood(kernel, stride):
    picture = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    layer = convolution(5, kernel, stride=stride)
    variables = nn.unbox(layer.init(jax.random.key(1), picture))
    weights = np.asarray(variables["params"]["kernel"])
    reach = kernel // 2
    padded = np.pad(picture, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    expected = sum(
        padded[:, row : row + 4, column : column + 6] @ weights[row, column]
        for row in range(kernel)
        for column in range(kernel)
    )
    found = layer.apply(variables, picture)
    np.testing.assert_allclose(found, expected[:, ::stride, ::stride], atol=1e-5)


def test_zero_convolution_starts_as_nothing():
    picture = jnp.ones((1, 4, 4, 3))
    assert not jnp.any(convolution(2, zero=True).init_with_output(jax.random.key(0), picture)[0])


def test_group_norm_centres_each_group_of_each_picture():
    picture = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    found, _ = group_norm(8).init_with_output(jax.random.key(0), picture)
    groups = np.asarray(found).reshape(2, 16, 2, 4)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std((1, 3)), 1, atol=1e-3)


def test_doubled_repeats_each_pixel():
    picture = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    expected = np.asarray(picture).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(doubled(picture), expected)
