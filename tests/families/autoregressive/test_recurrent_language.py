"""Recurrent language models: step by step is the whole pass, texts in a row don't mix."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import parameters

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.logits import temperature
from jaxgen.families.autoregressive.recurrent import RecurrentLanguage
from jaxgen.families.autoregressive.recurrent_decoder import recurrent_decoder
from jaxgen.families.autoregressive.speculation import speculate
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import RMSNorm
from jaxgen.nn.recurrent_cells import GRU, LSTM, Elman
from jaxgen.nn.recurrent_stack import BothWays, RecurrentStack, turned
from jaxgen.parallel.sharding import unbox

VOCABULARY = 11
NETWORKS = {
    "lstm": RecurrentLanguage(
        VOCABULARY, 8, partial(RecurrentStack, [partial(LSTM, 12), partial(LSTM, 8)]), tied=True
    ),
    "residual": RecurrentLanguage(
        VOCABULARY,
        12,
        partial(
            RecurrentStack,
            [partial(GRU, 12), partial(Elman, 12)],
            norm=RMSNorm,
            mlp=partial(MLP, hidden=16),
            residual=True,
        ),
    ),
}
TOKENS = jax.random.randint(jax.random.key(7), (3, 12), 0, VOCABULARY)
LENGTHS = jnp.asarray([3, 5, 8])


@functools.cache
def model(name):
    network = NETWORKS[name]
    params = parameters(network)
    # Strong enough for what was read to matter.
    params = jax.tree.map(lambda leaf: 4 * leaf, params)
    return network, params, jax.jit(partial(network.apply, {"params": params}))(TOKENS)


@pytest.mark.parametrize("name", NETWORKS)
def test_step_by_step_is_the_whole_pass_for_prompts_of_any_length(name):
    network, params, whole = model(name)
    decoder, rows = recurrent_decoder(network), np.arange(3)
    carry, logits = jax.jit(decoder.prefill)(params, TOKENS[:, :8], LENGTHS)
    np.testing.assert_allclose(logits, whole[rows, LENGTHS - 1], atol=1e-5)
    step = jax.jit(decoder.step)
    for ahead in range(4):
        carry, logits = step(params, carry, TOKENS[rows, LENGTHS + ahead])
        np.testing.assert_allclose(logits, whole[rows, LENGTHS + ahead], atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_can_be_taken_back(name):
    network, params, whole = model(name)
    decoder = recurrent_decoder(network).reading(3)

    @jax.jit
    def back(params):
        carry, _ = decoder.prefill(params, TOKENS[:, :3], jnp.asarray([3, 3, 3]))
        carry, first = decoder.extend(params, carry, TOKENS[:, 3:6])
        carry = decoder.rewind(carry, jnp.asarray([3, 5, 6]))
        carry, second = decoder.extend(
            params, carry, TOKENS[np.arange(3), np.array([3, 5, 6])][:, None]
        )
        # One token back, past what was taken back already.
        carry = decoder.rewind(carry, jnp.asarray([3, 5, 6]))
        carry = decoder.reorder(carry, jnp.asarray([1, 1, 0]))
        _, third = decoder.step(params, carry, TOKENS[np.array([1, 1, 0]), np.array([5, 5, 3])])
        return first, second[:, 0], third

    first, second, third = back(params)
    np.testing.assert_allclose(first, whole[:, 3:6], atol=1e-5)
    np.testing.assert_allclose(second, whole[np.arange(3), np.array([3, 5, 6])], atol=1e-5)
    np.testing.assert_allclose(third, second[np.array([1, 1, 0])], atol=1e-5)


def test_going_back_and_reading_ahead_have_to_be_asked_for():
    network, params, _ = model("lstm")
    decoder = recurrent_decoder(network)
    carry, _ = decoder.prefill(params, TOKENS, LENGTHS)
    with pytest.raises(UserError, match="ask for `ahead`"):
        decoder.rewind(carry, LENGTHS)
    with pytest.raises(UserError, match="5 tokens at a time"):
        carry, _ = decoder.reading(4).prefill(params, TOKENS, LENGTHS)
        decoder.reading(4).extend(params, carry, TOKENS[:, :5])


def test_a_draft_changes_nothing_of_what_is_likeliest():
    network, params, _ = model("lstm")
    small, other, _ = model("residual")
    greedy = temperature(0.0)
    large = recurrent_decoder(network)
    plain, _ = generate(
        large, params, jax.random.key(0), TOKENS[:, :8], LENGTHS, sampled(greedy), 9
    )
    made = speculate(
        large.reading(4),
        recurrent_decoder(small).reading(4),
        (params, other),
        jax.random.key(0),
        TOKENS[:, :8],
        LENGTHS,
        greedy,
        length=9,
        ahead=3,
    )
    np.testing.assert_array_equal(made.tokens, plain)


@pytest.mark.parametrize("name", NETWORKS)
def test_texts_side_by_side_in_a_row_are_each_alone(name):
    network, params, whole = model(name)
    row = jnp.concatenate([TOKENS[0, :5], TOKENS[1, :7]])[None]
    segments = jnp.asarray([[1] * 5 + [2] * 7])
    hidden = partial(network.apply, {"params": params}, method="hidden")
    logits = network.apply({"params": params}, hidden(row, None, segments), method="scores")[0]
    expected = jnp.concatenate([whole[0, :5], whole[1, :7]])
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_both_ways_read_what_is_there_in_both_directions():
    layer = BothWays(partial(LSTM, 4), partial(GRU, 3))
    x = jax.random.normal(jax.random.key(0), (2, 6, 5))
    reads = jnp.arange(6)[None, :] < jnp.asarray([[6], [4]])
    params = unbox(layer.init(jax.random.key(1), x))
    y, (last, first) = layer.apply(params, x, reads)
    for row, size in enumerate((6, 4)):
        there = x[row : row + 1, :size]
        on, end = LSTM(4).apply({"params": params["params"]["forward"]}, there)
        back, begin = GRU(3).apply({"params": params["params"]["backward"]}, there[:, ::-1])
        both = jnp.concatenate([on, back[:, ::-1]], -1)[0]
        np.testing.assert_allclose(y[row, :size], both, atol=1e-6)
        np.testing.assert_allclose(last[1][row], end[1][0], atol=1e-6)
        np.testing.assert_allclose(first[0][row], begin[0][0], atol=1e-6)
    np.testing.assert_array_equal(turned(turned(x, reads), reads), x)


def test_variational_dropout_drops_the_same_numbers_at_all_steps():
    stack = RecurrentStack([partial(LSTM, 6)], dropout=0.5, variational=True)
    x = jax.random.normal(jax.random.key(0), (2, 9, 5))
    params = unbox(stack.init(jax.random.key(1), x))
    y, _ = stack.apply(params, x, None, None, False, rngs={"dropout": jax.random.key(2)})
    dropped = np.asarray(y == 0)
    assert (dropped == dropped[:, :1]).all() and 0 < dropped.mean() < 1
