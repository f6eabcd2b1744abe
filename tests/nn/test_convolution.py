from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.convolution import GroupNorm, convolution


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (1, 1), ((1, 5), 1), ((3, 1), 2)])
def test_convolution_is_a_weighted_sum_of_its_neighbourhood(kernel, stride, padded):
    picture = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    layer = convolution(5, kernel, stride=stride, padding=None if padded else 0, bias=padded)
    variables = nn.unbox(layer.init(jax.random.key(1), picture))
    assert ("bias" in variables["params"]) == padded
    weights = np.asarray(variables["params"]["kernel"])
    down, across = (kernel, kernel) if isinstance(kernel, int) else kernel
    reach = (down // 2, across // 2) if padded else (0, 0)
    around = np.pad(picture, ((0, 0), (reach[0], reach[0]), (reach[1], reach[1]), (0, 0)))
    height, width = around.shape[1] - down + 1, around.shape[2] - across + 1
    expected = sum(
        around[:, row : row + height, column : column + width] @ weights[row, column]
        for row in range(down)
        for column in range(across)
    )
    found = layer.apply(variables, picture)
    np.testing.assert_allclose(found, expected[:, ::stride, ::stride], atol=1e-5)


def test_padding_may_be_one_sided():
    picture = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    below_and_right = convolution(5, stride=2, padding=((0, 1), (0, 1)))
    variables = nn.unbox(below_and_right.init(jax.random.key(1), picture))
    padded = jnp.pad(picture, ((0, 0), (0, 1), (0, 1), (0, 0)))
    found = below_and_right.apply(variables, picture)
    assert found.shape == (2, 2, 3, 5)
    none = convolution(5, stride=2, padding=0)
    np.testing.assert_allclose(found, none.apply(variables, padded), atol=1e-5)


def test_groups_are_convolutions_apart():
    picture = jax.random.normal(jax.random.key(0), (2, 4, 6, 6))
    layer = convolution(9, groups=3)
    variables = nn.unbox(layer.init(jax.random.key(1), picture))
    found = layer.apply(variables, picture)
    for group in range(3):
        part = {
            "kernel": variables["params"]["kernel"][..., 3 * group : 3 * group + 3],
            "bias": variables["params"]["bias"][3 * group : 3 * group + 3],
        }
        alone = convolution(3).apply({"params": part}, picture[..., 2 * group : 2 * group + 2])
        np.testing.assert_allclose(found[..., 3 * group : 3 * group + 3], alone, atol=1e-5)


def test_zero_convolution_starts_as_nothing():
    picture = jnp.ones((1, 4, 4, 3))
    assert not jnp.any(convolution(2, zero=True).init_with_output(jax.random.key(0), picture)[0])


@pytest.mark.parametrize("channels, groups", [(2, 1), (8, 2), (256, 32)])
def test_group_norm_is_that_of_flax(channels, groups):
    picture = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, channels))
    generator = np.random.default_rng(0)
    params = {name: generator.normal(size=channels) for name in ("scale", "bias")}
    variables = {"params": jax.tree.map(jnp.float32, params)}
    theirs = nn.GroupNorm(groups, epsilon=1e-5)

    def loss(picture, variables, network):
        return jnp.sum(jnp.sin(network.apply(variables, picture)))

    for compute in (loss, jax.grad(loss), jax.grad(loss, argnums=1)):
        ours, expected = (compute(picture, variables, one) for one in (GroupNorm(), theirs))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), ours, expected)


def test_group_norm_takes_other_groups_and_another_epsilon():
    picture = 1e-3 * jax.random.normal(jax.random.key(0), (2, 4, 4, 12))
    ours, theirs = GroupNorm(3, 1e-6), nn.GroupNorm(3, epsilon=1e-6)
    found, variables = ours.init_with_output(jax.random.key(0), picture)
    np.testing.assert_allclose(found, theirs.apply(nn.unbox(variables), picture), atol=1e-4)
    with pytest.raises(UserError, match="12 channels can't be normalized in 5"):
        GroupNorm(5).init(jax.random.key(0), picture)


def test_group_norm_scales_and_shifts_each_picture_on_its_own():
    picture = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    scale, shift = jax.random.normal(jax.random.key(1), (2, 2, 8))
    plain, variables = GroupNorm().init_with_output(jax.random.key(2), picture)
    found = GroupNorm().apply(variables, picture, scale, shift)
    expected = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)
