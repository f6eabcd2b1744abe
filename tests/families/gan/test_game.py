"""The game's contract: which part moves down what, and what is kept between steps."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Context, Model, Update
from jaxgen.families.gan.dense import DenseGenerator
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.parts import Judgement
from jaxgen.families.gan.penalties import Penalty, r1
from jaxgen.nn.adversary import NON_SATURATING, RELATIVISTIC
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import batch_sharding
from jaxgen.training.state import initializer
from jaxgen.training.step import make_train_step


class Maker(nn.Module):
    @nn.compact
    def __call__(self, latent, label=None, *, train=False):
        if label is not None:
            latent = jnp.concatenate([latent, jax.nn.one_hot(label, 3)], -1)
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(latent))
        return nn.tanh(nn.Dense(2)(nn.relu(hidden)))


class Judge(nn.Module):
    classes: int = 0

    @nn.compact
    def __call__(self, point, label=None, *, train=False):
        hidden = nn.tanh(nn.Dense(8)(point))
        logits = nn.Dense(1)(hidden)[:, 0]
        return Judgement(logits, nn.Dense(self.classes)(hidden)) if self.classes else logits


class Counting:
    """An augmentation that shifts by what it has counted."""

    def init(self):
        return {"seen": jnp.zeros(())}

    def __call__(self, key, things, state):
        return things + state["seen"]

    def following(self, state, real_logits):
        return {"seen": state["seen"] + 1.0}


GAME = Game(Maker(), Judge(), RELATIVISTIC, latent=4)
BATCH = {
    "image": np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32),
    "label": np.arange(8, dtype=np.int32) % 3,
}


def begun(game, batch=BATCH, step=0, seed=1):
    params, variables = jax.jit(game.init)(jax.random.key(0), batch)
    context = Context(batch, jax.random.key(seed), jnp.int32(step), variables, params)
    return params, context


def moves(loss, params, context):
    slope = jax.jit(jax.grad(lambda params: loss(params, context).value))(params)
    return {name: bool(size(part) > 0) for name, part in slope.items()}


def size(tree):
    return sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(tree))


def test_each_loss_moves_only_its_own_player():
    params, context = begun(GAME)
    assert moves(GAME.discriminator_loss, params, context) == {
        "generator": False,
        "discriminator": True,
    }
    assert moves(GAME.generator_loss, params, context) == {
        "generator": True,
        "discriminator": False,
    }


def test_only_the_generators_update_keeps_its_running_statistics():
    params, context = begun(GAME)
    before = context.variables["generator"]["batch_stats"]
    of_judge = GAME.discriminator_loss(params, context).variables["generator"]["batch_stats"]
    of_maker = GAME.generator_loss(params, context).variables["generator"]["batch_stats"]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, of_judge)))
    assert not np.array_equal(before["BatchNorm_0"]["mean"], of_maker["BatchNorm_0"]["mean"])


@pytest.mark.parametrize(("step", "counted"), [(0, 0.0), (3, 4.0), (7, 4.0), (8, 0.0)])
def test_a_lazy_penalty_counts_as_often_as_it_was_left_out(step, counted):
    plain = dataclasses.replace(GAME, adversary=NON_SATURATING)
    held = dataclasses.replace(plain, penalties=(Penalty("r1", r1, weight=0.5, every=4),))
    params, context = begun(held, step=step)
    measured = held.discriminator_loss(params, context)
    bare = plain.discriminator_loss(params, context)
    points, model = jnp.asarray(BATCH["image"]), Model(params, context.variables)
    slopes = r1(lambda seen: held.judge(model, seen).logits, points, points, jax.random.key(0))
    assert float(measured.value - bare.value) == pytest.approx(
        0.5 * counted * float(slopes), rel=1e-4, abs=1e-6
    )
    # The last value stays in the log until the next one.
    assert float(measured.metrics["r1"]) == pytest.approx(float(slopes) * (counted > 0), rel=1e-4)


def test_a_penaltys_weight_may_change_with_the_steps():
    def value(weight, step):
        game = dataclasses.replace(GAME, penalties=(Penalty("r1", r1, weight),))
        params, context = begun(game, step=step)
        return float(game.discriminator_loss(params, context).value)

    without = value(0.0, 0)
    term = value(1.0, 0) - without
    assert term > 0.01
    for step in (0, 3):
        found = value(lambda step: 2.0 - 0.5 * step, step) - without
        assert found == pytest.approx((2.0 - 0.5 * step) * term, rel=1e-3)


def test_an_auxiliary_classifier_is_learned_by_both():
    game = dataclasses.replace(GAME, classes=3, discriminator=Judge(3), adversary=NON_SATURATING)
    params, context = begun(game)
    without = dataclasses.replace(game, class_weight=0.0)
    for loss, other in (
        (game.discriminator_loss, without.discriminator_loss),
        (game.generator_loss, without.generator_loss),
    ):
        assert float(loss(params, context).value) > float(other(params, context).value)


def test_an_augmentations_state_follows_the_discriminators_updates():
    game = dataclasses.replace(GAME, augmentation=Counting())
    params, context = begun(game)
    output = game.discriminator_loss(params, context)
    assert float(output.variables["augmentation"]["seen"]) == 1.0
    assert float(game.generator_loss(params, context).variables["augmentation"]["seen"]) == 0.0


def test_classes_without_labels_are_refused():
    game = dataclasses.replace(GAME, classes=3)
    with pytest.raises(UserError, match="needs data with a label"):
        game.init(jax.random.key(0), {"image": BATCH["image"]})


def test_a_generator_of_other_classes_is_refused():
    game = Game(DenseGenerator((2,), (8,)), Judge(), RELATIVISTIC, latent=4, classes=3)
    with pytest.raises(UserError, match="has 3 classes and its generator 0"):
        game.init(jax.random.key(0), BATCH)


def test_a_step_is_the_same_on_eight_devices_as_on_one():
    """Batch statistics, mean penalties and gradients are of all rows, wherever they lie."""
    judged = Penalty("r1", r1, weight=0.5, every=2)
    game = dataclasses.replace(GAME, penalties=(judged,), augmentation=Counting())
    updates = [
        Update("discriminator", game.discriminator_loss, optax.sgd(0.1), moves="discriminator"),
        Update("generator", game.generator_loss, optax.sgd(0.1), moves="generator", ema=0.9),
    ]
    batch = {name: leaf[None] for name, leaf in BATCH.items()}
    ends = []
    for devices in (1, 8):
        mesh = make_mesh(MeshShape(), jax.devices()[:devices])
        create, _ = initializer(game.init, updates, mesh)(jax.random.key(0), BATCH)
        step = jax.jit(
            make_train_step(updates, jax.random.key(1)), in_shardings=(None, batch_sharding(mesh))
        )
        state = create()
        for _ in range(3):
            state, metrics, _ = step(state, batch)
        ends.append(jax.device_get((state.params, state.variables, state.ema, metrics)))
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-6), *ends)


def test_a_generator_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"makes \(2,\) and the data is \(3,\)"):
        GAME.init(jax.random.key(0), {"image": np.zeros((4, 3), np.float32)})
