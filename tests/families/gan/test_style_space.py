"""The samplers in StyleGAN2's space of styles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.sources import Arrays
from jaxgen.experiment import Model
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.samplers import ClassesRequest, game_samplers
from jaxgen.families.gan.style_space import style_space
from jaxgen.families.gan.stylegan2 import StyleGAN2Generator
from jaxgen.nn.adversary import NON_SATURATING

GENERATOR = StyleGAN2Generator((4,), colours=1, style=6, classes=2, mapping_layers=1)
GAME = Game(GENERATOR, GENERATOR, NON_SATURATING, latent=6, classes=2)
LABEL = jnp.array([0, 1, 1])


@pytest.mark.slow
def test_styles_take_the_priors_place():
    space = style_space(GAME)
    pictures = Arrays({"image": np.zeros((1, 4, 4, 1), np.float32)})
    sampler = game_samplers(GAME, pictures, space=space)["classes"]
    static, arrays = sampler.prepare(ClassesRequest(count=2))

    @jax.jit
    def work(key):
        made = dict(GENERATOR.init(key, jnp.zeros((3, 6)), LABEL))
        made["styles"] = {"mean": jnp.full(6, 0.25)}
        model = Model({"generator": made.pop("params")}, {"generator": made})
        whole, half, none = (space.latents(model, key, LABEL, 3, psi) for psi in (None, 0.5, 0.0))
        latent = GAME.latents(jax.random.fold_in(key, 1), 1)
        direct = GAME.generate(model, latent, LABEL[1:2])
        grid = sampler.sample(model, key, static, arrays)["image"]
        return whole, half, none, space.make(model, whole, LABEL), direct, grid

    whole, half, none, pictures, direct, grid = work(jax.random.key(1))
    np.testing.assert_allclose(half, (whole + 0.25) / 2, atol=1e-6)
    np.testing.assert_array_equal(none, np.full((3, 6), 0.25))
    np.testing.assert_allclose(pictures[1:2], direct, atol=1e-5)
    # The first row is of the first latent, and each class makes something else of it.
    np.testing.assert_allclose(grid[0], pictures[0], atol=1e-5)
    assert grid.shape == (4, 4, 4, 1) and np.abs(grid[0] - grid[1]).max() > 1e-3
