"""SNGAN's networks, their ways of knowing the class, and a training step of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Context
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.heads import ClassifierHead, LogitHead, ProjectionHead
from jaxgen.families.gan.sngan import SNGANDiscriminator, SNGANGenerator
from jaxgen.nn.adversary import HINGE
from jaxgen.parallel.sharding import unbox

FEATURES = jax.random.normal(jax.random.key(0), (6, 5))


@pytest.mark.parametrize("widths, start, blocks, halvings, side, parameters", [
    ((256,) * 4, 4, (128,) * 4, 2, 32, (4_276_739, 1_053_825)),
    ((512, 256, 128, 64), 6, (64, 128, 256, 512, 1024), 4, 48, None),
    ((1024, 512, 256, 128, 64), 4, (64, 128, 256, 512, 1024), 5, 64, None),
])  # fmt: skip
def test_the_published_networks_reach_their_resolutions(
    widths, start, blocks, halvings, side, parameters
):
    generator = SNGANGenerator(widths, start)
    judge = SNGANDiscriminator(widths=blocks, halvings=halvings)
    made, of_maker = jax.eval_shape(
        generator.init_with_output, jax.random.key(0), jnp.zeros((2, 128))
    )
    said, of_judge = jax.eval_shape(judge.init_with_output, jax.random.key(0), made)
    assert made.shape == (2, side, side, 3)
    assert said.logits.shape == (2,)
    if parameters:
        sizes = [
            sum(leaf.size for leaf in jax.tree.leaves(unbox(each)["params"]))
            for each in (of_maker, of_judge)
        ]
        assert tuple(sizes) == parameters


def test_a_projections_logits_differ_by_the_features_along_the_classes_difference():
    head = ProjectionHead(3)
    label = jnp.arange(6) % 3
    variables = unbox(jax.jit(head.init)(jax.random.key(1), FEATURES, label))
    table = np.asarray(variables["params"]["classes"]["table"])
    vectors = table / np.linalg.svd(table, compute_uv=False)[0]
    apply = jax.jit(lambda label: head.apply(variables, FEATURES, label).logits)
    gap = apply(label) - apply((label + 1) % 3)
    expected = np.sum(
        (vectors[np.asarray(label)] - vectors[(np.asarray(label) + 1) % 3]) * FEATURES, -1
    )
    np.testing.assert_allclose(gap, expected, atol=1e-3)
    with pytest.raises(UserError, match="3 classes needs a label"):
        head.init(jax.random.key(1), FEATURES)


@pytest.mark.parametrize("head", [LogitHead, ProjectionHead, ClassifierHead])
def test_a_head_without_normalization_is_linear_in_its_kernels(head):
    made = head(spectral=False) if head is LogitHead else head(3, spectral=False)
    label = jnp.arange(6) % 3
    variables = unbox(jax.jit(made.init)(jax.random.key(1), FEATURES, label))
    assert set(variables) == {"params"}
    apply = jax.jit(lambda params: made.apply({"params": params}, FEATURES, label))
    params = variables["params"]
    once, twice = apply(params), apply(jax.tree.map(lambda leaf: 2 * leaf, params))
    for one, other in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(2 * one, other, rtol=1e-4, atol=1e-5)


def test_a_conditional_game_moves_all_of_the_discriminator_and_its_vectors():
    game = Game(
        SNGANGenerator((4, 4), start=2, classes=3),
        SNGANDiscriminator(ClassifierHead(3), (4,), halvings=1),
        HINGE,
        latent=5,
        classes=3,
    )
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.uniform(-1, 1, (8, 4, 4, 3)).astype(np.float32),
        "label": np.arange(8, dtype=np.int32) % 3,
    }

    # Drawn by numpy: what the networks draw themselves takes longer to compile than the loss.
    given = jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype),
        unbox(jax.eval_shape(game.init, jax.random.key(0), batch)),
    )

    @jax.jit
    def slopes(given, key):
        params, variables = given
        context = Context(batch, key, jnp.int32(0), variables, params)

        def judged(params):
            output = game.discriminator_loss(params, context)
            return output.value, output.variables

        slope, after = jax.grad(judged, has_aux=True)(params)
        return slope["discriminator"], after, variables

    slope, after, before = slopes(given, jax.random.key(1))
    # Real and made ones pull the logit's bias in two directions, equally within the margin.
    slope["head"]["logit"].pop("bias")
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(slope))
    before, after = (
        each["discriminator"]["spectral"]["block_0"]["convolution_in"]["norm"]
        for each in (before, after)
    )
    assert np.any(before["inward"] != after["inward"])
    assert np.any(before["outward"] != after["outward"])


def test_half_precision_keeps_pictures_and_logits_whole():
    generator = SNGANGenerator((4, 4), dtype=jnp.bfloat16)
    judge = SNGANDiscriminator(widths=(4, 4), dtype=jnp.bfloat16)
    made, _ = jax.eval_shape(generator.init_with_output, jax.random.key(0), jnp.zeros((2, 3)))
    said, held = jax.eval_shape(judge.init_with_output, jax.random.key(0), made)
    assert made.dtype == said.logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(held)} == {jnp.dtype(jnp.float32)}


def test_a_resolution_that_cannot_be_halved_is_refused():
    with pytest.raises(UserError, match="2×2 pixels don't fit pictures of 7×7"):
        jax.eval_shape(
            SNGANDiscriminator(widths=(4, 4)).init, jax.random.key(0), jnp.zeros((1, 14, 14, 3))
        )
