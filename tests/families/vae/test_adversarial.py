import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.experiment import Context
from jaxgen.families.vae.adversarial import (
    AdversarialAutoencoder,
    adaptive_weight,
    sloped,
)
from jaxgen.families.vae.autoencoder_kl import AutoencoderKL, gaussian_bottleneck
from jaxgen.families.vae.perceptual import perceptual_distance
from jaxgen.nn.patch_discriminator import PatchDiscriminator
from jaxgen.parallel.mesh import MeshShape, make_mesh

BOTTLENECK = gaussian_bottleneck(0.3)


def see(picture):
    return [jnp.sin(3 * picture * jnp.arange(1.0, 4.0).reshape(1, 1, 1, 3))]


MODEL = AdversarialAutoencoder(
    AutoencoderKL(1, (4,), blocks=1, latent_channels=1, groups=2),
    BOTTLENECK,
    PatchDiscriminator(4, layers=1),
    lambda one, other: perceptual_distance(see, one, other),
    perceptual_weight=0.4,
    adversarial_weight=0.6,
    start=5,
)
PICTURE = jax.random.uniform(jax.random.key(0), (8, 8, 8, 1), minval=-1.0)


@pytest.fixture(scope="module")
def params():
    """Away from zero everywhere, so that no branch is silent."""
    boxed = jax.eval_shape(MODEL.init, jax.random.key(0), {"image": PICTURE})
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.3, leaf.shape), jnp.float32),
        nn.unbox(boxed),
    )


def context(params, step, picture=PICTURE):
    return Context({"image": picture}, jax.random.key(1), jnp.int32(step), {}, params)


@jax.jit
def ours(params, step, picture):
    def value(part):
        output = MODEL.autoencoder_loss(
            params | {"autoencoder": part}, context(params, step, picture)
        )
        return output.value, output.metrics

    (loss, metrics), slope = jax.value_and_grad(value, has_aux=True)(params["autoencoder"])
    return loss, metrics, slope


@jax.jit
def by_hand(params, adversarial):
    """The objective written out, each gradient taken on its own."""
    judge = params["discriminator"]

    def terms(part):
        encoded = MODEL.network.apply({"params": part}, PICTURE, method="encode")
        passed = BOTTLENECK(encoded, {}, jax.random.key(1), True)
        made = MODEL.network.apply({"params": part}, passed.values, method="decode")
        likeness = jnp.mean(jnp.abs(made - PICTURE))
        likeness += 0.4 * jnp.mean(perceptual_distance(see, PICTURE, made))
        fooling = -jnp.mean(MODEL.discriminator.apply({"params": judge}, made))
        return jnp.stack([likeness, fooling, passed.loss])

    values, slopes = terms(params["autoencoder"]), jax.jacrev(terms)(params["autoencoder"])
    last = slopes["decoder"]["convolution_out"]
    lengths = jnp.sqrt(sum(jnp.sum(leaf.reshape(3, -1) ** 2, 1) for leaf in last.values()))
    weight = adversarial * lengths[0] / (lengths[1] + 1e-4)
    weights = jnp.stack([jnp.ones(()), weight, jnp.ones(())])
    return (
        values @ weights,
        weight,
        jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), slopes),
    )


@pytest.mark.parametrize("step, adversarial", [(4, 0.0), (5, 0.6)])
def test_the_loss_and_its_gradient_are_those_of_the_paper(params, step, adversarial):
    loss, metrics, slope = ours(params, step, PICTURE)
    expected, weight, expected_slope = by_hand(params, adversarial)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["adversarial_weight"], weight, rtol=1e-3)
    assert (weight > 0.01) == (adversarial > 0)
    jax.tree.map(
        lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-4),
        slope,
        expected_slope,
    )


def test_the_loss_is_the_same_on_eight_devices(params):
    mesh = make_mesh(MeshShape(data=8))
    picture = jax.device_put(PICTURE, NamedSharding(mesh, PartitionSpec("data")))
    for found, expected in zip(ours(params, 5, picture), ours(params, 5, PICTURE), strict=True):
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4),
            found,
            expected,
        )


def test_the_discriminator_waits_and_then_learns(params):
    @jax.jit
    def slope_at(step):
        def value(part):
            joined = params | {"discriminator": part}
            return MODEL.discriminator_loss(joined, context(params, step)).value

        return jax.value_and_grad(value)(params["discriminator"])

    loss, slope = slope_at(4)
    assert loss == 0 and not any(jnp.any(leaf) for leaf in jax.tree.leaves(slope))
    loss, slope = slope_at(5)
    assert loss > 0
    moved = jax.tree.map(lambda leaf, s: leaf - 1e-3 * s, params["discriminator"], slope)
    params = params | {"discriminator": moved}
    assert slope_at(5)[0] == loss  # jit kept the old parameters
    after = MODEL.discriminator_loss(params, context(params, 5)).value
    assert after < loss


def test_the_adaptive_weight_is_a_ratio_of_lengths():
    reconstruction, adversarial = {"a": jnp.array([3.0, 4.0])}, {"a": jnp.array([0.0, 2.0])}
    np.testing.assert_allclose(adaptive_weight(reconstruction, adversarial), 2.5, rtol=1e-3)
    assert adaptive_weight(reconstruction, {"a": jnp.zeros(2)}) == 1e4


def test_sloped_says_its_gradient():
    at, slope = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 1))
    value, found = jax.value_and_grad(lambda at: sloped(jnp.float32(7), slope, at))(at)
    assert value == 7
    np.testing.assert_array_equal(found, slope)
