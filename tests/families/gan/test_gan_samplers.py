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
from jaxgen.families.gan.latent_space import LatentSpace, straight
from jaxgen.nn.adversary import NON_SATURATING


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
    made = jax.jit(sampler.sample, static_argnums=2)(MODEL, key, static, arrays)
    return jax.tree.map(np.asarray, made)


def shown(sampler, made):
    """(pictures, columns of the grid, frames) as they are saved."""
    artifact = sampler.render(made)
    assert artifact.pixels.min() >= 0 and artifact.pixels.max() <= 1
    frames = 0 if artifact.frames is None else len(artifact.frames)
    return len(artifact.pixels), artifact.columns, frames


def test_a_picture_depends_on_its_number_alone():
    sampler = samplers.game_samplers(GAME, PICTURES)["draw"]
    few = drawn(sampler, samplers.DrawRequest(count=3, seed=5))["image"]
    made = drawn(sampler, samplers.DrawRequest(count=12, seed=5))
    many = made["image"]
    assert shown(sampler, made) == (12, 10, 0)
    np.testing.assert_array_equal(few, many[:3])
    assert not np.array_equal(few, drawn(sampler, samplers.DrawRequest(count=3, seed=6))["image"])


def test_truncated_latents_follow_the_normal_between_the_bounds():
    space = samplers.prior_space(GAME)
    latents = jax.jit(lambda bound: space.latents(MODEL, jax.random.key(0), None, 1000, bound))
    latent = np.sort(np.ravel(latents(np.float32(0.7))))
    assert np.abs(latent).max() <= 0.7
    # Kolmogorov and Smirnov's distance; 4,000 fair draws stay below 0.031 in 999 of 1,000 cases.
    mass = (norm.cdf(latent) - norm.cdf(-0.7)) / (norm.cdf(0.7) - norm.cdf(-0.7))
    assert np.abs(mass - np.linspace(0, 1, 4000)).max() < 0.031
    assert np.abs(latents(None)).max() > 2


def test_classes_stand_row_by_row():
    sampler = samplers.game_samplers(LABELLED, PICTURES)["draw"]
    request = samplers.DrawRequest(count=35, truncation=0.1)
    classes = np.round(drawn(sampler, request)["image"].mean((1, 2, 3)))
    np.testing.assert_array_equal(classes, np.arange(35) // 10 % 3)
    request = samplers.DrawRequest(count=3, label=2, truncation=0.1)
    classes = np.round(drawn(sampler, request)["image"].mean((1, 2, 3)))
    np.testing.assert_array_equal(classes, [2, 2, 2])


def test_drawing_in_turn_or_as_told():
    def draw(game, count, *label):
        draw = jax.jit(lambda key: samplers.draw(game, MODEL, key, count, *label))
        return draw(jax.random.key(0))

    plain = draw(GAME, 6)
    in_turn = draw(LABELLED, 6) - plain
    np.testing.assert_allclose(in_turn[:, 0, 0, 0], [0, 1, 2, 0, 1, 2], atol=1e-6)
    told = draw(LABELLED, 3, jnp.array([2, 0, 0])) - plain[:3]
    np.testing.assert_allclose(told[:, 1, 0, 0], [2, 0, 0], atol=1e-6)


def test_ways_keep_to_the_sphere_and_their_class():
    sampler = samplers.game_samplers(LABELLED, PICTURES)["interpolate"]
    request = samplers.InterpolateRequest(count=4, steps=5, animate=True)
    made = drawn(sampler, request)
    rows = np.asarray(made["image"]).reshape(4, 5, 4) - np.array([0, 1, 2, 0])[:, None, None]
    norms, pace = np.linalg.norm(rows, axis=-1), np.diff(rows, axis=1)
    # Between the lengths of both ends, which the straight way would undercut.
    assert (norms.min(1) > norms[:, [0, -1]].min(1) - 1e-5).all()
    assert (np.linalg.norm(pace, axis=-1) > 0.1).all()
    np.testing.assert_array_equal(
        made["frames"].reshape(5, 4, 4)[2], made["image"][2::5, :, :, 0].reshape(4, 4)
    )
    assert shown(sampler, made) == (20, 5, 5)
    few = drawn(sampler, samplers.InterpolateRequest(count=2, steps=5))
    np.testing.assert_array_equal(few["image"], made["image"][:10])
    assert shown(sampler, few) == (10, 5, 0)


def test_a_row_of_classes_shares_its_latent():
    sampler = samplers.game_samplers(LABELLED, PICTURES)["classes"]
    made = drawn(sampler, samplers.ClassesRequest(2))
    rows = np.asarray(made["image"]).reshape(2, 3, 4) - np.arange(3)[None, :, None]
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], rows.shape), atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    assert shown(sampler, made) == (6, 3, 0)


def test_a_mapped_space_takes_the_priors_place():
    """Styles drawn towards their mean by ψ, as StyleGAN does (Karras et al. 2019, section 4.2)."""

    def latents(model, key, label, count, truncation):
        style = 1 + samplers.prior_space(GAME).latents(model, key, label, count, None)
        return style if truncation is None else 1 + truncation * (style - 1)

    space = LatentSpace(latents, GAME.generate, straight)
    made = samplers.game_samplers(GAME, PICTURES, space=space)
    whole, half, none = (
        np.asarray(drawn(made["draw"], samplers.DrawRequest(count=3, truncation=psi))["image"])
        for psi in (None, 0.5, 0.0)
    )
    np.testing.assert_allclose(half, (whole + 1) / 2, atol=1e-6)
    np.testing.assert_array_equal(none, np.ones_like(none))
    way = drawn(made["interpolate"], samplers.InterpolateRequest(count=1, steps=3))["image"]
    np.testing.assert_allclose(way[1], (way[0] + way[2]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("game", "request_", "message"),
    [
        (GAME, samplers.DrawRequest(count=0), "count has to be at least 1, not 0"),
        (GAME, samplers.DrawRequest(label=0), "knows no classes: leave label at -1"),
        (LABELLED, samplers.DrawRequest(label=3), "no class 3: label is one of 0 to 2"),
        (LABELLED, samplers.InterpolateRequest(label=-2), "no class -2: label is one of 0 to 2"),
        (GAME, samplers.DrawRequest(truncation=-0.1), "truncation has to be 0 or more"),
        (LABELLED, samplers.ClassesRequest(truncation=-1), "truncation has to be 0 or more"),
        (GAME, samplers.InterpolateRequest(steps=0), "steps has to be at least 1"),
        (GAME, samplers.ProjectRequest(starts=0), "starts has to be at least 1"),
        (GAME, samplers.ProjectRequest(rate=0), "rate has to be above 0"),
        (GAME, samplers.ProjectRequest(first=35), "The data has 40 items: 10 from number 35"),
    ],
)
def test_refusals(game, request_, message):
    names = {
        samplers.DrawRequest: "draw",
        samplers.InterpolateRequest: "interpolate",
        samplers.ClassesRequest: "classes",
        samplers.ProjectRequest: "project",
    }
    with pytest.raises(UserError, match=message):
        samplers.game_samplers(game, PICTURES)[names[type(request_)]].prepare(request_)


def test_unlabelled_pictures_are_not_projected_into_a_class():
    bare = Arrays({"image": PICTURES.leaves["image"]})
    with pytest.raises(UserError, match="projects pictures with a label; this data has only image"):
        samplers.game_samplers(LABELLED, bare)["project"].prepare(samplers.ProjectRequest())


def test_only_a_conditional_game_has_a_grid_of_classes():
    plain = {"draw", "interpolate", "project"}
    assert set(samplers.game_samplers(GAME, PICTURES)) == plain
    assert set(samplers.game_samplers(LABELLED, PICTURES)) == plain | {"classes"}
