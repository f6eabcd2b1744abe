"""Projection finds what is there to be found: closed forms and known latents."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.sources import Arrays
from jaxgen.experiment import Model
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.projection import project, with_features
from jaxgen.families.gan.samplers import ProjectRequest, game_samplers
from jaxgen.nn.adversary import NON_SATURATING

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(3, 8)).astype(np.float32)
WANTED = RANDOM.uniform(-1, 1, (5, 8)).astype(np.float32)
STARTS = jax.random.normal(jax.random.key(0), (2, 5, 3))


def linear(latent):
    return latent @ KERNEL + 0.1


def least_squares(kernel, wanted):
    return np.linalg.lstsq(kernel.T, (wanted - 0.1).T, rcond=None)[0].T


def test_a_linear_generators_projection_is_the_least_squares_solution():
    found, distance = jax.jit(
        lambda starts: project(linear, jnp.asarray(WANTED), starts, steps=300, rate=0.1)
    )(STARTS)
    best = least_squares(KERNEL, WANTED)
    np.testing.assert_allclose(found, best, atol=1e-3)
    residual = np.square(best @ KERNEL + 0.1 - WANTED).mean(1)
    np.testing.assert_allclose(distance, residual, rtol=1e-4)


def test_features_count_as_weighted():
    """Doubling a pixel's error by a feature is least squares with that pixel's weight doubled."""
    distance = with_features(lambda seen: seen[:, :4], weight=3.0)
    found, _ = jax.jit(
        lambda starts: project(
            linear, jnp.asarray(WANTED), starts, steps=300, rate=0.1, distance=distance
        )
    )(STARTS)
    # The mean is over 8 pixels and over 4 features: 1/8 everywhere, and 3/4 more for the four.
    root = np.sqrt(np.where(np.arange(8) < 4, 1 / 8 + 3 / 4, 1 / 8)).astype(np.float32)
    np.testing.assert_allclose(
        found, np.linalg.lstsq((KERNEL * root).T, ((WANTED - 0.1) * root).T, rcond=None)[0].T,
        atol=1e-3,
    )  # fmt: skip


def test_more_starts_find_what_one_misses():
    def wavy(latent):
        # Many valleys along each axis; the deepest is where the picture came from.
        return jnp.concatenate([jnp.sin(4 * latent), 0.3 * latent], -1)

    wanted = wavy(jnp.linspace(-1.5, 1.5, 8)[:, None] * jnp.array([[1.0, -1.0]]))
    starts = jax.random.normal(jax.random.key(1), (8, 8, 2))
    run = jax.jit(lambda starts: project(wavy, wanted, starts, steps=150, rate=0.05)[1])
    one, all_of_them = np.asarray(run(starts[:1])), np.asarray(run(starts))
    assert (all_of_them <= one + 1e-6).all()
    assert (one > 1e-3).sum() >= 3
    assert (all_of_them < 1e-4).sum() > (one < 1e-4).sum()


class Curved(nn.Module):
    @nn.compact
    def __call__(self, latent, label=None, *, train=False):
        given = jnp.concatenate([latent, jax.nn.one_hot(label, 2)], -1)
        hidden = nn.tanh(nn.Dense(16, kernel_init=nn.initializers.orthogonal())(given))
        return nn.tanh(nn.Dense(36)(hidden)).reshape(-1, 6, 6, 1)


def test_a_made_picture_is_found_again():
    game = Game(Curved(), Curved(), NON_SATURATING, latent=3, classes=2)
    label = jnp.arange(4) % 2
    latent = jax.random.normal(jax.random.key(2), (4, 3))
    params = game.generator.init(jax.random.key(3), latent, label)["params"]
    model = Model({"generator": params}, {"generator": {}})
    made = np.asarray(game.generate(model, latent, label))
    sampler = game_samplers(game, Arrays({"image": made, "label": np.asarray(label)}))["project"]
    static, arrays = sampler.prepare(ProjectRequest(count=4))
    sample = jax.jit(sampler.sample, static_argnums=2)
    found = sample(model, jax.random.key(0), static, arrays)
    assert np.asarray(found["distance"]).max() < 1e-6
    np.testing.assert_allclose(found["latent"], latent, atol=1e-2)
    pairs = np.asarray(found["image"]).reshape(4, 2, 6, 6, 1)
    np.testing.assert_array_equal(pairs[:, 0], made)
    apart = np.square(pairs[:, 0] - pairs[:, 1]).mean((1, 2, 3))
    np.testing.assert_allclose(apart, found["distance"], rtol=1e-3, atol=1e-9)
    artifact = sampler.render(jax.tree.map(np.asarray, found))
    assert artifact.pixels.shape == (8, 6, 6, 1) and artifact.columns % 2 == 0
    # The first picture's projection is the same whatever stands beside it.
    others = {"image": made[[0, 2, 1, 3]], "label": arrays["label"][[0, 0, 1, 1]]}
    again = sample(model, jax.random.key(0), static, arrays | others)
    np.testing.assert_allclose(again["latent"][0], found["latent"][0], atol=1e-5)
    assert np.abs(again["latent"] - found["latent"]).max() > 0.1
