"""Decoding step by step against the network's whole pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import CONTEXT, NETWORKS, VOCABULARY, parameters

from jaxgen.families.autoregressive.decoder import Decoder, transformer_decoder
from jaxgen.families.autoregressive.decoding import decode, generate, sampled, start
from jaxgen.families.autoregressive.logits import temperature

LENGTHS = jnp.asarray([3, 5, 8])
GREEDY = sampled(temperature(0.0))


def prompts(time=8):
    return jax.random.randint(jax.random.key(7), (3, time), 0, VOCABULARY)


@functools.cache
def model(name):
    network = NETWORKS[name]
    params = parameters(network)
    whole = jax.jit(lambda tokens: network.apply({"params": params}, tokens))
    return transformer_decoder(network, CONTEXT), params, whole


def greedily(whole, prompt, length, context):
    """Token by token over whole passes, forgetting as `decode` documents."""
    seen, written = list(prompt[-context:]), []
    for _ in range(length):
        padded = jnp.zeros((1, context), jnp.int32).at[0, : len(seen)].set(jnp.asarray(seen))
        written.append(int(whole(padded)[0, len(seen) - 1].argmax()))
        if len(seen) >= context:
            seen = seen[context // 2 + 1 :]
        seen.append(written[-1])
    return written


@pytest.mark.parametrize("name", NETWORKS)
def test_cached_logits_are_those_of_the_whole_pass(name):
    decoder, params, whole = model(name)
    tokens = prompts(12)
    expected = np.asarray(whole(tokens))
    rows = np.arange(3)
    params = decoder.ready(params)
    carry, logits = jax.jit(decoder.prefill)(params, tokens[:, :8], LENGTHS)
    step = jax.jit(decoder.step)
    np.testing.assert_allclose(logits, expected[rows, LENGTHS - 1], atol=1e-4)
    for ahead in range(4):
        places = LENGTHS + ahead
        carry, logits = step(params, carry, tokens[rows, places])
        np.testing.assert_allclose(logits, expected[rows, places], atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_greedy_decoding_is_the_argmax_of_whole_passes_even_past_the_context(name):
    decoder, params, whole = model(name)
    tokens, length = prompts(), 2 * CONTEXT + 3
    run = jax.jit(functools.partial(generate, decoder, choice=GREEDY, length=length))
    out, _ = run(params, jax.random.key(0), tokens, LENGTHS)
    for row, size in enumerate(LENGTHS):
        expected = greedily(whole, list(np.asarray(tokens[row, :size])), length, CONTEXT)
        assert expected == list(np.asarray(out[row]))


def test_of_a_prompt_longer_than_the_context_the_end_is_read():
    decoder, params, whole = model("learned")
    tokens = prompts(CONTEXT + 9)
    lengths = jnp.asarray([4, CONTEXT + 2, CONTEXT + 9])
    run = jax.jit(functools.partial(generate, decoder, choice=GREEDY, length=3))
    out, _ = run(params, jax.random.key(0), tokens, lengths)
    for row, size in enumerate(lengths):
        expected = greedily(whole, list(np.asarray(tokens[row, :size])), 3, CONTEXT)
        assert expected == list(np.asarray(out[row]))


def test_decoding_in_parts_is_decoding_at_once():
    decoder, params, _ = model("rotary")
    choice, key = sampled(temperature(1.0)), jax.random.key(3)

    @jax.jit
    def at_once(params):
        return generate(decoder, params, key, prompts(), LENGTHS, choice, 12)[0]

    @jax.jit
    def in_parts(params):
        params = decoder.ready(params)
        state = start(decoder, params, prompts(), LENGTHS, choice)
        state, first = decode(decoder, params, key, state, choice, 7)
        _, second = decode(decoder, params, key, state, choice, 5)
        return jnp.concatenate([first, second], axis=1)

    np.testing.assert_array_equal(at_once(params), in_parts(params))


def test_rows_are_independent_of_the_batch_that_they_are_in():
    decoder, params, _ = model("rotary")
    run = jax.jit(functools.partial(generate, decoder, choice=GREEDY, length=20))
    together, _ = run(params, jax.random.key(0), prompts(), LENGTHS)
    alone, _ = run(params, jax.random.key(0), prompts()[1:2], LENGTHS[1:2])
    np.testing.assert_array_equal(together[1:2], alone)


def test_reorder_and_rewind_go_back_to_what_a_row_was():
    decoder, params, whole = model("rotary")
    tokens = prompts(8)

    @jax.jit
    def back(params):
        params = decoder.ready(params)
        carry, _ = decoder.prefill(params, tokens, jnp.asarray([8, 8, 8]))
        carry = decoder.reorder(carry, jnp.asarray([2, 2, 0]))
        carry = decoder.rewind(carry, jnp.asarray([3, 5, 7]))
        return decoder.step(params, carry, jnp.asarray([1, 2, 3]))[1]

    logits = back(params)
    for row, (source, kept) in enumerate([(2, 3), (2, 5), (0, 7)]):
        text = jnp.concatenate([tokens[source, :kept], jnp.asarray([row + 1])])
        np.testing.assert_allclose(logits[row], whole(text[None])[0, -1], atol=1e-4)


def test_the_loop_asks_for_no_more_than_the_contract():
    """A decoder that counts, without a context: token n is followed by n + 1."""

    def logits(token):
        return jax.nn.one_hot((token + 1) % VOCABULARY, VOCABULARY)

    counting = Decoder(
        prefill=lambda params, tokens, lengths: (
            None,
            logits(jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]),
        ),
        extend=lambda params, carry, tokens: (carry, logits(tokens)),
        reorder=lambda carry, beams: carry,
        rewind=lambda carry, accepted: carry,
    )
    out, _ = generate(
        counting,
        None,
        jax.random.key(0),
        jnp.asarray([[3, 0], [4, 9]]),
        jnp.asarray([1, 2]),
        GREEDY,
        5,
    )
    np.testing.assert_array_equal(out, [[4, 5, 6, 7, 8], [10, 0, 1, 2, 3]])
