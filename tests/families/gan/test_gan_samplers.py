"""What one asks of a generator, on generators whose answers are known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from jaxgen.data.sources import Arrays
from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.families.gan import samplers
from jaxgen.families.gan.game import Game
from jaxgen.nn.adversary import NON_SATURATING
from jaxgen.training import drawing


class Plain(nn.Module):
    """The latent as a picture of 2×2, with the label added."""

    @nn.compact
    def __call__(self, latent, label=None, *, train=False):
        shift = 0.0 if label is None else label.astype(jnp.float32)[:, None]
        return (latent + shift).reshape(-1, 2, 2, 1)


GAME = Game(Plain(), Plain(), NON_SATURATING, latent=4)
LABELLED = Game(Plain(), Plain(), NON_SATURATING, latent=4, classes=3)
MODEL = Model({"generator": {}}, {"generator": {}})
PICTURES = Arrays(
    {
        "image": np.random.default_rng(0).uniform(-1, 1, (40, 2, 2, 1)).astype(np.float32),
        "label": np.arange(40, dtype=np.int32) % 3,
    }
)


def drawn(sampler, request):
    static, arrays = sampler.prepare(request)
    key = jax.random.key(request.seed)
    return jax.jit(sampler.sample, static_argnums=2)(MODEL, key, static, arrays)


def test_a_picture_depends_on_its_number_alone():
    sampler = samplers.game_samplers(GAME, PICTURES)["draw"]
    few = drawn(sampler, samplers.DrawRequest(count=3, seed=5))["image"]
    many = drawn(sampler, samplers.DrawRequest(count=12, seed=5))["image"]
    np.testing.assert_array_equal(few, many[:3])
    assert not np.array_equal(few, drawn(sampler, samplers.DrawRequest(count=3, seed=6))["image"])


def test_truncated_latents_follow_the_normal_between_the_bounds():
    space = samplers.prior_space(GAME)
    key = jax.random.key(0)
    latent = np.sort(np.ravel(space.latents(MODEL, key, None, 1000, np.float32(0.7))))
    assert np.abs(latent).max() <= 0.7
    # Kolmogorov and Smirnov's distance; 4,000 fair draws stay below 0.031 in 999 of 1,000 cases.
    mass = (norm.cdf(latent) - norm.cdf(-0.7)) / (norm.cdf(0.7) - norm.cdf(-0.7))
    assert np.abs(mass - np.linspace(0, 1, 4000)).max() < 0.031
    assert np.abs(space.latents(MODEL, key, None, 1000, None)).max() > 2


def test_classes_stand_row_by_row():
    sampler = samplers.game_samplers(LABELLED, PICTURES)["draw"]
    request = samplers.DrawRequest(count=35, truncation=0.1)
    classes = np.round(drawn(sampler, request)["image"].mean((1, 2, 3)))
    np.testing.assert_array_equal(classes, np.arange(35) // 10 % 3)
    request = samplers.DrawRequest(count=3, label=2, truncation=0.1)
    classes = np.round(drawn(sampler, request)["image"].mean((1, 2, 3)))
    np.testing.assert_array_equal(classes, [2, 2, 2])


def test_drawing_in_turn_or_as_told():
    key = jax.random.key(0)
    plain = samplers.draw(GAME, MODEL, key, 6)
    in_turn = samplers.draw(LABELLED, MODEL, key, 6) - plain
    np.testing.assert_allclose(in_turn[:, 0, 0, 0], [0, 1, 2, 0, 1, 2], atol=1e-6)
    told = samplers.draw(LABELLED, MODEL, key, 3, jnp.array([2, 0, 0])) - plain[:3]
    np.testing.assert_allclose(told[:, 1, 0, 0], [2, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("game", "request_", "message"),
    [
        (GAME, samplers.DrawRequest(count=0), "count has to be at least 1, not 0"),
        (GAME, samplers.DrawRequest(label=0), "knows no classes: leave label at -1"),
        (LABELLED, samplers.DrawRequest(label=3), "no class 3: label is one of 0 to 2"),
        (GAME, samplers.DrawRequest(truncation=-0.1), "truncation has to be 0 or more"),
    ],
)
def test_refusals(game, request_, message):
    names = {samplers.DrawRequest: "draw"}
    with pytest.raises(UserError, match=message):
        samplers.game_samplers(game, PICTURES)[names[type(request_)]].prepare(request_)


def test_all_of_them_render():
    for sampler in samplers.game_samplers(LABELLED, PICTURES).values():
        artifact = drawing.draw(sampler, sampler.request(count=2), MODEL)
        assert artifact.pixels.min() >= 0 and artifact.pixels.max() <= 1
