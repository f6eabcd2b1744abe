"""StyleGAN2 in the game: what it learns, what it remembers, and where w leads."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Model, Update
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.path_length import PathLength, path_lengths
from jaxgen.families.gan.penalties import Penalty, r1
from jaxgen.families.gan.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from jaxgen.nn.adversary import NON_SATURATING
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training.state import initializer, random_keys
from jaxgen.training.step import make_train_step

GENERATOR = StyleGAN2Generator(
    (6, 4), colours=1, style=8, classes=3, mapping_layers=2, mixing=0.5, decay=0.9
)
GAME = Game(
    GENERATOR,
    StyleGAN2Discriminator((4, 6), classes=3, mapping_layers=1),
    NON_SATURATING,
    latent=5,
    classes=3,
    penalties=(Penalty("r1", r1, weight=0.5, every=2),),
    generator_penalties=(PathLength(GENERATOR, every=2),),
)
UPDATES = [
    Update("discriminator", GAME.discriminator_loss, optax.adam(0.01, 0.0, 0.99), "discriminator"),
    Update("generator", GAME.generator_loss, optax.adam(0.01, 0.0, 0.99), "generator", ema=0.9),
]


@pytest.fixture(scope="module")
def trained():
    """The states before, between and after two steps, and what was logged."""
    rng = np.random.default_rng(0)
    first, key, _ = random_keys(0)
    batches = [
        {
            "image": rng.uniform(-1, 1, (1, 8, 8, 8, 1)).astype(np.float32),
            "label": rng.integers(0, 3, (1, 8)).astype(np.int32),
        }
        for _ in range(2)
    ]
    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    create, _ = initializer(GAME.init, UPDATES, mesh)(
        first, jax.tree.map(lambda leaf: leaf[0], batches[0])
    )
    states, logged, step = [create()], [], jax.jit(make_train_step(UPDATES, key))
    for batch in batches:
        state, metrics, finite = step(states[-1], batch)
        assert finite
        states.append(state)
        logged.append(jax.device_get(metrics))
    return states, logged


def test_two_steps_move_both_players_and_the_penalties_come_in_the_second(trained):
    states, logged = trained
    moved = jax.tree.map(
        lambda before, after: bool(jnp.any(before != after)), states[0].params, states[2].params
    )
    # The mapping network learns at a hundredth of the rate, but it learns.
    assert all(jax.tree.leaves(moved))
    assert logged[0]["generator/path_length"] == logged[0]["discriminator/r1"] == 0
    assert logged[1]["generator/path_length"] > 0 and logged[1]["discriminator/r1"] > 0
    # From 0, a hundredth of the way to the mean length m; the mean square then is 0.98 m² or more.
    mean = float(states[2].variables["penalties"]["path_length"]["state"]["mean"])
    assert 0 < mean <= 0.01 * np.sqrt(logged[1]["generator/path_length"]) / 0.98
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(states[2])))
    constants = [
        np.asarray(tree["generator"]["synthesis"]["constant"])
        for tree in (states[0].params, states[2].ema["generator"], states[2].params)
    ]
    to_average, to_last = (np.abs(one - constants[0]).mean() for one in constants[1:])
    assert 0 < to_average < to_last


def test_training_moves_the_mean_of_w_and_leaves_the_fixed_noise(trained):
    before, after = (trained[0][n].variables["generator"] for n in (0, 2))
    assert not np.any(before["styles"]["mean"]) and np.all(np.abs(after["styles"]["mean"]) > 0)
    jax.tree.map(np.testing.assert_array_equal, before["fixed_noise"], after["fixed_noise"])


def applied(state, *given, method=None, generator=GENERATOR, rngs=None, **how):
    whole = {"params": state.params["generator"], **state.variables["generator"]}
    return jax.jit(
        lambda whole, given, rngs: generator.apply(whole, *given, **how, method=method, rngs=rngs)
    )(whole, given, rngs)


LATENT = jax.random.normal(jax.random.key(3), (6, 5))
LABEL = jnp.arange(6) % 3


def test_the_running_mean_of_w_goes_a_step_of_decay(trained):
    state = trained[0][2]
    styles, after = applied(
        state, LATENT, LABEL, method="map", train=True, mutable=["styles"], truncation=None
    )
    assert styles.shape == (6, 4, 8)
    before = state.variables["generator"]["styles"]["mean"]
    expected = 0.9 * np.asarray(before) + 0.1 * np.asarray(styles)[:, 0].mean(0)
    np.testing.assert_allclose(after["styles"]["mean"], expected, rtol=1e-5)


def test_truncation_leads_to_the_mean(trained):
    state = trained[0][2]
    plain, half, none = (
        np.asarray(applied(state, LATENT, LABEL, method="map", truncation=psi))
        for psi in (None, 0.5, 0.0)
    )
    mean = np.asarray(state.variables["generator"]["styles"]["mean"])
    np.testing.assert_allclose(half, (plain + mean) / 2, atol=1e-6)
    np.testing.assert_allclose(none, np.broadcast_to(mean, none.shape), atol=1e-6)
    pictures = np.asarray(applied(state, jnp.asarray(none), method="synthesize"))
    assert pictures.shape == (6, 8, 8, 1)
    np.testing.assert_allclose(pictures, pictures[:1].repeat(6, 0), atol=1e-6)
    # One w stands for the same in each layer; and the whole is its halves.
    model = Model(state.params, state.variables)
    whole = np.asarray(jax.jit(GAME.generate)(model, LATENT, LABEL))
    halves = applied(state, jnp.asarray(plain[:, 0]), method="synthesize")
    np.testing.assert_allclose(whole, halves, atol=1e-6)
    assert np.abs(whole[0] - whole[3]).max() > 1e-3


def test_mixed_styles_change_once_and_keep_the_first(trained):
    state, mixing = trained[0][2], dataclasses.replace(GENERATOR, mixing=1.0)
    plain = np.asarray(applied(state, LATENT, LABEL, method="map"))
    mixed = np.asarray(
        applied(
            state,
            LATENT,
            LABEL,
            method="map",
            generator=mixing,
            rngs={"noise": jax.random.key(0)},
            train=True,
        )
    )
    np.testing.assert_allclose(mixed[:, 0], plain[:, 0], atol=1e-6)
    changes = np.any(np.abs(np.diff(mixed, axis=1)) > 1e-6, -1)
    np.testing.assert_array_equal(changes.sum(1), 1)
    assert len(set(changes.argmax(1))) > 1


def test_noise_is_drawn_where_there_is_a_key_and_fixed_elsewhere(trained):
    state = trained[0][2]
    styles = jax.random.normal(jax.random.key(1), (2, 8)).at[1].set(0).at[0].set(0)
    drawn = [
        applied(state, styles, method="synthesize", rngs={"noise": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    fixed = np.asarray(applied(state, styles, method="synthesize"))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(np.asarray(drawn[0]) - drawn[2]).max() > 1e-4
    # Equal w: the drawn noise differs by row, the fixed one doesn't.
    assert np.abs(np.asarray(drawn[0])[0] - np.asarray(drawn[0])[1]).max() > 1e-4
    np.testing.assert_allclose(fixed[0], fixed[1], atol=1e-6)


def test_a_logit_sees_its_label_and_its_group(trained):
    state = trained[0][2]
    pictures = jax.random.normal(jax.random.key(5), (8, 8, 8, 1))
    judge = jax.jit(lambda pictures, label: GAME.judge(Model(state.params, {
        "discriminator": {}}), pictures, label).logits)  # fmt: skip
    label = jnp.zeros(8, jnp.int32)
    one, other = np.asarray(judge(pictures, label)), np.asarray(judge(pictures, label.at[0].set(1)))
    assert one[0] != other[0] and np.allclose(one[1:], other[1:], atol=1e-6)
    # The first four are a group, the others know nothing of it.
    moved = np.asarray(judge(pictures.at[0].multiply(3.0), label))
    assert np.all(one[:4] != moved[:4]) and np.allclose(one[4:], moved[4:], atol=1e-6)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UserError, match="7×7 pixels can't be halved"):
        jax.eval_shape(
            StyleGAN2Discriminator((4, 4, 4)).init, jax.random.key(0), jnp.zeros((8, 14, 14, 1))
        )
    with pytest.raises(UserError, match="3 classes needs a label"):
        jax.eval_shape(GENERATOR.init, jax.random.key(0), LATENT)


class Plain(nn.Module):
    """w is the latent, and things are any function of it."""

    made: Callable

    def map(self, latent, label=None, *, train=False):
        return latent

    def synthesize(self, styles):
        return self.made(styles)


def test_path_lengths_of_a_linear_map_are_those_of_its_matrix():
    kernel = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    key = jax.random.key(0)
    found = jax.jit(
        lambda styles: path_lengths(lambda w: (w @ kernel).reshape(-1, 2, 5, 3), styles, key)
    )(jnp.ones((2000, 4)))
    # Jᵀy is the kernel times y ~ N(0, 1/10): its mean square is ‖kernel‖²/10.
    noise = np.asarray(jax.random.normal(key, (2000, 2, 5, 3))).reshape(2000, 30) / np.sqrt(10)
    np.testing.assert_allclose(found, np.linalg.norm(noise @ kernel.T, axis=1), rtol=1e-4)
    assert float(np.square(found).mean()) == pytest.approx(np.square(kernel).sum() / 10, rel=0.05)


def test_layers_of_their_own_count_by_the_mean_of_their_squares():
    @jax.jit
    def lengths(shares):
        def made(w):
            return jnp.einsum("bld,l->bd", w, shares)[:, None]

        return path_lengths(made, jnp.ones((8, 2, 5)), jax.random.key(0))

    # √((3² + 4²)/2) beside √(1²/2).
    found, alone = (np.asarray(lengths(np.float32(shares))) for shares in ([3, 4], [1, 0]))
    np.testing.assert_allclose(found, 5 * alone, rtol=1e-5)


def test_the_penalty_is_nothing_where_all_lengths_are_the_running_mean():
    # Of things that are 2 w, a length is 2 ‖y‖: 2 √n, and of variance 4/2 for any n.
    penalty = PathLength(Plain(lambda w: 2.0 * w[:, None]), batch_shrink=1)
    latent, length = jnp.zeros((64, 1024)), 2 * np.sqrt(1024)

    @jax.jit
    def measured(mean):
        return penalty({}, {}, latent, None, jax.random.key(0), {"mean": mean})

    far, state = measured(0.0)
    assert float(far) == pytest.approx((0.99 * length) ** 2, rel=0.01)
    assert float(state["mean"]) == pytest.approx(0.01 * length, rel=0.01)
    near, state = measured(length)
    assert float(near) == pytest.approx(2**2 / 2, rel=0.5)
    assert float(state["mean"]) == pytest.approx(length, rel=1e-3)


def test_the_penalty_looks_at_every_second_row():
    penalty = PathLength(Plain(lambda w: 0.5 * jnp.square(w)[:, None]))

    @jax.jit
    def measured(latent):
        return penalty({}, {}, latent, None, jax.random.key(0), penalty.init())[0]

    rows = np.ones((5, 4), np.float32)
    odd, last = rows.copy(), rows.copy()
    odd[1::2], last[4] = 9, 9
    assert float(measured(rows)) == float(measured(odd)) != float(measured(last))
