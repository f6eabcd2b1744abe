"""Games side by side: each is trained as if it were alone."""

import jax
import numpy as np
import optax

from jaxgen.experiment import Context, Model
from jaxgen.families.gan.contenders import init_each, one_of, updates_within
from jaxgen.families.gan.dense import DenseDiscriminator, DenseGenerator
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.penalties import Penalty, r1
from jaxgen.nn.adversary import LEAST_SQUARES, NON_SATURATING

GENERATOR = DenseGenerator((2,), hidden=(4,), bounded=False, batch_norm=True)
GAMES = {
    "one": Game(GENERATOR, DenseDiscriminator((4,)), NON_SATURATING, latent=3),
    "two": Game(
        GENERATOR, DenseDiscriminator((4,)), LEAST_SQUARES, 3, penalties=(Penalty("r1", r1, 1.0),)
    ),
}
BATCH = {"image": np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)}


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def test_a_games_updates_see_and_change_its_own_subtree_alone():
    params, variables = jax.jit(lambda key: init_each(GAMES, key, BATCH))(jax.random.key(0))
    whole = Context(BATCH, jax.random.key(1), np.int32(0), variables, params)
    own = Context(BATCH, jax.random.key(1), np.int32(0), variables["two"], params["two"])
    sgd = optax.sgd(1.0)
    updates = updates_within("two", GAMES["two"], sgd, sgd, ema=0.9)
    assert [(update.name, update.moves, update.ema) for update in updates] == [
        ("two_discriminator", "two/discriminator", None),
        ("two_generator", "two/generator", 0.9),
    ]
    for update, loss in zip(
        updates, (GAMES["two"].discriminator_loss, GAMES["two"].generator_loss), strict=True
    ):
        lifted, alone = jax.jit(update.loss)(params, whole), jax.jit(loss)(params["two"], own)
        np.testing.assert_allclose(lifted.value, alone.value, rtol=1e-6)
        assert lifted.metrics.keys() == alone.metrics.keys()
        assert same(lifted.variables["one"], variables["one"])
        assert not same(lifted.variables["two"], variables["two"])


def test_one_of_several_models():
    model = Model({"one": 1, "two": 2}, {"one": 3, "two": 4})
    assert one_of(model, "two") == Model(2, 4)
