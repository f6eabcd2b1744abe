"""Sequences in the game: what sees what, and that waves are learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Update
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.recurrent import RecurrentDiscriminator, RecurrentGenerator, gru, lstm
from jaxgen.nn.adversary import LEAST_SQUARES
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import unbox
from jaxgen.training.state import initializer, model, random_keys
from jaxgen.training.step import make_train_step

TIME = 16


def initialized(network, *given):
    """Any parameters do here, and numpy's need no compilation."""
    shapes = unbox(jax.eval_shape(network.init, jax.random.key(0), *given))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def test_a_steps_own_noise_changes_it_and_what_follows():
    network = RecurrentGenerator(5, 2, shared=3, own=2, hidden=4, layers=2, cell=lstm)
    latent = np.random.default_rng(0).normal(size=(2, network.latent)).astype(np.float32)
    params, made = initialized(network, latent), jax.jit(network.apply)
    before = np.asarray(made(params, latent))
    assert before.shape == (2, 5, 2)
    latent[0, 3 + 2 * 2] += 1  # the third step's
    after = np.asarray(made(params, latent))
    np.testing.assert_array_equal(after[1], before[1])
    np.testing.assert_array_equal(after[0, :2], before[0, :2])
    assert np.all(after[0, 2:] != before[0, 2:])
    latent[0, 0] += 1  # all steps'
    assert np.all(np.asarray(made(params, latent))[0] != after[0])


def test_each_logit_has_seen_past_and_future():
    network = RecurrentDiscriminator(4, cell=lstm)
    sequence = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    params, whole = initialized(network, sequence), dataclasses.replace(network, each_step=False)
    each, one = jax.jit(network.apply), jax.jit(whole.apply)
    before, verdict = np.asarray(each(params, sequence)), np.asarray(one(params, sequence))
    assert before.shape == (2, 5) and verdict.shape == (2,)
    sequence[0, 2] += 1
    after = np.asarray(each(params, sequence))
    assert np.all(after[0] != before[0]) and np.all(after[1] == before[1])
    # The sequence's logit is of the same weights at both ends.
    assert np.asarray(one(params, sequence))[0] != verdict[0]


def test_labels_join_every_step():
    generator = RecurrentGenerator(4, 1, 2, 1, hidden=3, cell=gru, classes=3)
    judge = RecurrentDiscriminator(3, cell=gru, classes=3)
    latent, same = jnp.ones((2, generator.latent)), jnp.ones((2, 4, 1))
    for network, given in ((generator, latent), (judge, same)):
        label = jnp.array([0, 1])
        said = np.asarray(jax.jit(network.apply)(initialized(network, given, label), given, label))
        assert np.all(said[0] != said[1])
        with pytest.raises(UserError, match="3 classes needs a label for each sequence"):
            jax.eval_shape(network.init, jax.random.key(0), given)


def test_a_latent_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"made of 14 numbers .* not of 15"):
        jax.eval_shape(RecurrentGenerator(4, 1, 2, 3).init, jax.random.key(0), jnp.ones((2, 15)))


def waves(rng, *rows):
    """Sines of period 8 at any phase, with a little noise: (*rows, TIME, 1)."""
    phase = rng.uniform(0, 2 * np.pi, (*rows, 1))
    waves = np.sin(2 * np.pi * np.arange(TIME) / 8 + phase) + rng.normal(0, 0.05, (*rows, TIME))
    return waves[..., None].astype(np.float32)


def spectrum(sequences):
    """Mean power at each frequency; of the waves, all at the second one."""
    return np.square(np.abs(np.fft.rfft(np.asarray(sequences)[..., 0], axis=1))).mean(0) / TIME


@pytest.mark.slow
def test_a_pair_learns_waves():
    generator = RecurrentGenerator(TIME, 1, shared=4, own=1, hidden=16, cell=gru)
    judge = RecurrentDiscriminator(16, cell=gru, each_step=False)
    game = Game(generator, judge, LEAST_SQUARES, generator.latent, thing="sequence")
    updates = [
        Update(name, loss, optax.adam(0.01, 0.5), moves=name, repeats=5)
        for name, loss in (
            ("discriminator", game.discriminator_loss),
            ("generator", game.generator_loss),
        )
    ]
    rng = np.random.default_rng(0)
    first, key, _ = random_keys(0)
    create, _ = initializer(game.init, updates, make_mesh(MeshShape(), jax.devices()[:1]))(
        first, {"sequence": waves(rng, 32)}
    )
    state, step = create(), jax.jit(make_train_step(updates, key), donate_argnums=0)
    draw = jax.jit(lambda model: game.generate(model, game.latents(jax.random.key(1), 500)))
    wanted = spectrum(waves(rng, 500))

    def distance(state):
        return np.abs(spectrum(draw(model(state))) - wanted).sum()

    begun = distance(state)
    for _ in range(60):
        state, _, finite = step(state, {"sequence": waves(rng, 5, 32)})
        assert finite
    assert distance(state) < begun / 4
