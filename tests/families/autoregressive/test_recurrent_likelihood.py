"""What is carried along streams is what a whole pass would remember."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import parameters

from jaxgen.data.streams import Streams
from jaxgen.experiment import Context, Model, Update
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import cross_entropy, next_token_loss
from jaxgen.families.autoregressive.recurrent import RecurrentLanguage
from jaxgen.families.autoregressive.recurrent_likelihood import (
    carried,
    carried_loss,
    carried_pass,
)
from jaxgen.nn.recurrent_cells import LSTM
from jaxgen.nn.recurrent_stack import RecurrentStack
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import unbox
from jaxgen.training.optimizers import adamw
from jaxgen.training.state import initializer
from jaxgen.training.step import make_train_step

NETWORK = RecurrentLanguage(11, 8, partial(RecurrentStack, [partial(LSTM, 12), partial(LSTM, 8)]))
TEXT = np.random.default_rng(0).integers(11, size=8 * 12 + 1)
STREAMS = Streams(TEXT, 5, 8)
PARAMS = jax.tree.map(lambda leaf: 4 * leaf, parameters(NETWORK))


def nats():
    """Of each stream's tokens, by a pass over the whole stream."""
    rows = jnp.asarray(np.stack([TEXT[12 * row : 12 * row + 13] for row in range(8)]))
    logits = jax.jit(NETWORK.apply)({"params": PARAMS}, rows[:, :-1])
    return np.asarray(cross_entropy(logits, rows[:, 1:]))


def test_losses_along_a_stream_are_those_of_the_whole_pass_and_of_a_new_one():
    loss = jax.jit(carried_loss(NETWORK))
    variables = unbox(carried(NETWORK, 8))
    expected = nats()
    for step in range(5):
        batch = STREAMS.batch(step, slice(0, 8))
        out = loss(PARAMS, Context(batch, jax.random.key(0), step, variables, None))
        variables = out.variables
        here = expected[:, step % 3 * 5 :][:, :5]
        assert float(out.weight) == here.size
        assert float(out.value) == pytest.approx(here.mean(), abs=1e-5)
    # What lies before a part is remembered, and not differentiated.
    slope = jax.grad(
        lambda carry: (
            carried_loss(NETWORK)(
                PARAMS, Context(batch, jax.random.key(0), 4, {"carry": carry}, None)
            ).value
        )
    )(variables["carry"])
    assert any(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(slope))


def test_a_whole_text_is_scored_by_all_before():
    score = carried_pass(NETWORK, "text")
    found = score(Model(PARAMS, {}), {"text": STREAMS}, jax.random.key(0))
    assert found["nats"] == pytest.approx(nats().mean(), abs=1e-5)


def test_a_step_on_eight_devices_is_a_step_on_one_and_parts_of_a_batch_keep_their_rows():
    def trained(devices, accumulate):
        mesh = make_mesh(MeshShape(), jax.devices()[:devices])
        update = Update(
            "lstm", carried_loss(NETWORK), adamw(0.01, weight_decay=0.0), accumulate=accumulate
        )
        start = lambda key, batch: (
            NETWORK.init(key, batch["tokens"])["params"],
            carried(NETWORK, 8),
        )
        first = STREAMS.batch(0, slice(0, 8))
        with jax.set_mesh(mesh):
            create, _ = initializer(start, [update], mesh)(jax.random.key(0), first)
            state = create()
            step = jax.jit(make_train_step([update], jax.random.key(1)))
            for number in range(4):
                batch = jax.tree.map(lambda leaf: leaf[None], STREAMS.batch(number, slice(0, 8)))
                state, metrics, _ = step(state, batch)
        return jax.device_get((state.params, state.variables, metrics["lstm/loss"]))

    one = trained(1, 1)
    for other in (trained(8, 1), trained(1, 2)):
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4), one, other)


def test_without_streams_the_network_is_a_language_model_like_any_other():
    tokens = jnp.asarray(np.random.default_rng(1).integers(11, size=(4, 9)))
    out = next_token_loss(language_model(NETWORK))(
        PARAMS, Context({"tokens": tokens}, jax.random.key(0), 0, {}, None)
    )
    logits = NETWORK.apply({"params": PARAMS}, tokens[:, :-1])
    expected = cross_entropy(logits, tokens[:, 1:]).mean()
    assert float(out.value) == pytest.approx(float(expected), abs=1e-5)
