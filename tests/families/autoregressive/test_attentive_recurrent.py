"""Recurrent attention: its equations, padding that changes nothing, steps, beams and slopes."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import parameters

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.attentive_recurrent import (
    AttentiveRecurrent,
    LookAfter,
    LookBefore,
)
from jaxgen.families.autoregressive.recurrent_decoder import attentive_decoder
from jaxgen.families.autoregressive.transduction import Transducer
from jaxgen.nn.recurrent_cells import GRU, LSTM
from jaxgen.nn.recurrent_stack import BothWays, RecurrentStack

VOCABULARY, WIDTH = 9, 6
ENCODER = partial(BothWays, partial(GRU, WIDTH, unroll=1), partial(GRU, WIDTH, unroll=1))
NETWORKS = {
    "bahdanau": AttentiveRecurrent(
        VOCABULARY,
        WIDTH,
        ENCODER,
        partial(LookBefore, partial(RecurrentStack, [partial(GRU, WIDTH)])),
    ),
    "luong": AttentiveRecurrent(
        VOCABULARY,
        WIDTH,
        ENCODER,
        partial(LookAfter, partial(RecurrentStack, [partial(LSTM, 5), partial(LSTM, WIDTH)])),
    ),
}
SOURCE = jax.random.randint(jax.random.key(1), (2, 5), 0, VOCABULARY)
SEGMENTS = jnp.ones((2, 5), jnp.int32).at[0, 3:].set(0)
TARGET = jax.random.randint(jax.random.key(2), (2, 7), 0, VOCABULARY)


@functools.cache
def made(name):
    network = NETWORKS[name]
    params = parameters(network, SOURCE, TARGET, SEGMENTS)
    params = jax.tree.map(lambda leaf: 5 * leaf, params)
    return network, params, jax.jit(partial(network.apply, {"params": params}))


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_nothing_and_the_source_everything(name):
    _, _, run = made(name)
    whole = run(SOURCE, TARGET, SEGMENTS)
    np.testing.assert_allclose(run(SOURCE.at[0, 4].add(1), TARGET, SEGMENTS), whole, atol=1e-6)
    short = run(SOURCE[:1, :3], TARGET[:1], SEGMENTS[:1, :3])
    np.testing.assert_allclose(short, whole[:1], atol=1e-5)
    other = run(SOURCE.at[:, 1].set((SOURCE[:, 1] + 1) % VOCABULARY), TARGET, SEGMENTS)
    assert np.abs(other - whole).max(-1).min() > 1e-4
    later = run(SOURCE, TARGET.at[:, 4].set((TARGET[:, 4] + 1) % VOCABULARY), SEGMENTS)
    np.testing.assert_allclose(later[:, :4], whole[:, :4], atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_its_papers_equations(name):
    """The first step, with numpy, from what the encoder gave."""
    network, params, run = made(name)
    (state, top), memory = network.apply({"params": params}, SOURCE, SEGMENTS, method="begin")
    p = jax.tree.map(np.asarray, params)
    soft = lambda e: np.exp(e - e.max()) / np.exp(e - e.max()).sum()
    for row, size in enumerate((3, 5)):
        values, keys = (np.asarray(x[row, :size]) for x in (memory.values, memory.keys))
        np.testing.assert_allclose(keys, values @ p["keys"]["kernel"], atol=1e-5)
        token = p["tokens"]["embedding"][TARGET[row, 0]]
        step, start = p["step"], np.asarray(top[row])
        before = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], state)

        def layers(x, before=before, ours=params["step"]["stack"]):
            stack = RecurrentStack(network.step.args[0].args[0])
            return np.asarray(stack.apply({"params": ours}, jnp.asarray(x)[None, None], before)[0])[
                0, 0
            ]

        if name == "bahdanau":
            asked = start @ step["scores"]["query"]["kernel"]
            scores = np.tanh(asked + keys) @ step["scores"]["score"]["kernel"][:, 0]
            context = soft(scores) @ values
            y = layers(np.concatenate([token, context]))
            out = np.concatenate([y, context, token]) @ step["out"]["kernel"] + step["out"]["bias"]
        else:
            y = layers(np.concatenate([token, start]))
            context = soft(keys @ y) @ values
            out = np.concatenate([context, y]) @ step["out"]["kernel"]
        expected = p["tokens"]["embedding"] @ np.tanh(out)
        np.testing.assert_allclose(run(SOURCE, TARGET, SEGMENTS)[row, 0], expected, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_step_by_step_is_the_whole_pass_for_prompts_of_any_length(name):
    network, params, run = made(name)
    whole = run(SOURCE, TARGET, SEGMENTS)
    decoder, rows = attentive_decoder(network, 7, SOURCE, SEGMENTS), np.arange(2)
    lengths = jnp.asarray([2, 4])
    carry, logits = jax.jit(decoder.prefill)(params, TARGET[:, :4], lengths)
    np.testing.assert_allclose(logits, whole[rows, lengths - 1], atol=1e-5)
    for ahead in range(2):
        carry, logits = jax.jit(decoder.step)(params, carry, TARGET[rows, lengths + ahead])
        np.testing.assert_allclose(logits, whole[rows, lengths + ahead], atol=1e-5)
    with pytest.raises(UserError, match="can't take tokens back"):
        decoder.rewind(carry, lengths)


def test_beams_find_no_worse_answers_than_greed():
    network, params, run = made("luong")
    transducer = Transducer(network, 1, 2, source_length=5, length=4, decoder=attentive_decoder)
    search = jax.jit(transducer.search, static_argnums=3)
    best = [search(params, SOURCE, SEGMENTS, beams, 0.0) for beams in (1, 4)]
    assert (best[1].scores[:, 0] >= best[0].scores[:, 0] - 1e-5).all()
    for row in range(2):
        size = int(best[1].lengths[row, 0])
        answer = best[1].tokens[row, 0, :size]
        asked = jnp.concatenate([jnp.asarray([1]), answer[:-1]])[None]
        logits = jax.nn.log_softmax(run(SOURCE[row : row + 1], asked, SEGMENTS[row : row + 1]))[0]
        assert float(best[1].scores[row, 0]) == pytest.approx(
            float(logits[jnp.arange(size), answer].sum()), abs=1e-4
        )


def test_packed_targets_are_refused():
    network, params, _ = made("luong")
    with pytest.raises(UserError, match="don't pack"):
        network.apply({"params": params}, SOURCE, TARGET, SEGMENTS, TARGET, method="hidden")
