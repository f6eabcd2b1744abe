"""R3GAN's networks: how they start, what they make, and that every weight learns."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.gan.r3gan import R3ganBlock, R3ganDiscriminator, R3ganGenerator
from jaxgen.nn.filtered_resampling import filtered_double, filtered_half

LATENT = jax.random.normal(jax.random.key(0), (3, 5))
LABEL = jnp.array([0, 1, 1])
GENERATOR = R3ganGenerator((8, 4), blocks=1, classes=2, group_width=4)
DISCRIMINATOR = R3ganDiscriminator((8, 4), blocks=1, classes=2, projection=6, group_width=4)


def begun(network, *given):
    return nn.unbox(jax.jit(network.init)(jax.random.key(1), *given))


def test_blocks_start_as_their_shortcut_and_the_spread_falls_with_depth():
    picture = jax.random.normal(jax.random.key(0), (2, 4, 4, 64))
    for depth in (1, 16):
        block = R3ganBlock(depth)
        variables = begun(block, picture)
        np.testing.assert_array_equal(block.apply(variables, picture), picture)
        kernels = variables["params"]
        # 64 numbers are summed up in the first kernel, and 9 · 16 in one of 8 groups.
        for name, fan in (("widen", 64), ("mix", 9 * 16)):
            gain = math.sqrt(2 / 1.04) * depth**-0.25
            spread = float(jnp.std(kernels[name]["kernel"]))
            assert spread == pytest.approx(gain / math.sqrt(fan), rel=0.05)
        assert kernels["mix"]["kernel"].shape == (3, 3, 16, 128)


def test_the_generator_starts_as_its_linear_path():
    variables = begun(GENERATOR, LATENT, LABEL)
    weights = variables["params"]
    told = jnp.concatenate([LATENT, jnp.eye(2)[LABEL] @ weights["label"]["kernel"]], -1)
    picture = weights["basis"][None] * (told @ weights["latent"]["kernel"])[:, None, None]
    picture = filtered_double(picture @ weights["change_1"]["kernel"][0, 0])
    expected = picture @ weights["picture"]["kernel"][0, 0]
    found = jax.jit(GENERATOR.apply)(variables, LATENT, LABEL)
    assert found.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_discriminator_starts_as_its_linear_path():
    picture = jax.random.normal(jax.random.key(2), (3, 8, 8, 3))
    variables = begun(DISCRIMINATOR, picture, LABEL)
    weights = variables["params"]
    seen = filtered_half(picture @ weights["channels"]["kernel"][0, 0])
    seen = seen @ weights["change_1"]["kernel"][0, 0]
    numbers = jnp.einsum("bhwc,hwc->bc", seen, weights["basis"]) @ weights["logit"]["kernel"]
    expected = jnp.sum(numbers * weights["label"]["kernel"][LABEL], -1)
    found = jax.jit(DISCRIMINATOR.apply)(variables, picture, LABEL)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_weight_gets_a_slope_once_the_branches_are_open():
    made, judged = (
        begun(GENERATOR, LATENT, LABEL),
        begun(DISCRIMINATOR, jnp.zeros((3, 8, 8, 3)), LABEL),
    )

    @jax.jit
    @jax.grad
    def slopes(both):
        opened = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf + 0.1 if "narrow" in jax.tree_util.keystr(path) else leaf, both
        )
        picture = GENERATOR.apply({"params": opened[0]}, LATENT, LABEL)
        logits = DISCRIMINATOR.apply({"params": opened[1]}, picture, LABEL)
        return jnp.sum(jnp.sin(logits + jnp.arange(3)))

    for path, slope in jax.tree_util.tree_leaves_with_path(
        slopes((made["params"], judged["params"]))
    ):
        assert float(jnp.abs(slope).sum()) > 0, path


def test_pictures_of_another_size_labels_left_out_and_odd_groups_are_refused():
    key = jax.random.key(0)
    with pytest.raises(UserError, match="2 widths are for pictures of 8×8, and these are 28×28"):
        DISCRIMINATOR.init(key, jnp.zeros((1, 28, 28, 3)), LABEL[:1])
    with pytest.raises(UserError, match="needs a label for each row"):
        GENERATOR.init(key, LATENT)
    with pytest.raises(UserError, match="12 channels within a block can't be parted in groups"):
        R3ganBlock(1, group_width=5).init(key, jnp.zeros((1, 4, 4, 6)))


def test_half_precision_is_inside_only():
    half = R3ganGenerator((8, 4), blocks=1, group_width=4, dtype=jnp.bfloat16)
    variables = begun(half, LATENT)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert jax.jit(half.apply)(variables, LATENT).dtype == jnp.float32
