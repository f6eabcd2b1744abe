"""Beam search against trying every text there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import LEARNED, ROTARY, parameters

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.automata import until_token
from jaxgen.families.autoregressive.beams import beam_search, gnmt_penalty, power_penalty
from jaxgen.families.autoregressive.decoder import encoder_decoder_decoder, transformer_decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5
from jaxgen.families.autoregressive.logits import temperature
from jaxgen.families.autoregressive.policies import guided

SMALL, END, LENGTH = 4, 2, 4
PROMPTS, LENGTHS = jnp.asarray([[1, 3, 0], [2, 1, 1]]), jnp.asarray([2, 3])
PENALTIES = {"likeliest": power_penalty(0.0), "mean": power_penalty(1.0), "gnmt": gnmt_penalty(0.6)}
POLICY = guided(until_token(SMALL, [END]))


@functools.cache
def model():
    network = ROTARY.clone(vocabulary=SMALL)
    params = jax.tree.map(lambda leaf: 3 * leaf, parameters(network))
    return network, params


def every_text():
    """All texts that end, and those that have come to the longest length."""
    for size in range(1, LENGTH + 1):
        for tokens in itertools.product(range(SMALL), repeat=size):
            if END not in tokens[:-1] and (tokens[-1] == END or size == LENGTH):
                yield tokens


@functools.cache
def log_probabilities():
    """Of each text after each prompt, by whole passes."""
    network, params = model()
    texts = list(every_text())
    found = np.zeros((2, len(texts)))
    for row, held in enumerate(LENGTHS.tolist()):
        rows = np.zeros((len(texts), held + LENGTH), np.int32)
        rows[:, :held] = PROMPTS[row, :held]
        for place, text in enumerate(texts):
            rows[place, held : held + len(text)] = text
        logits = network.apply({"params": params}, jnp.asarray(rows))
        scores = np.asarray(jax.nn.log_softmax(logits))
        for place, text in enumerate(texts):
            found[row, place] = sum(
                scores[place, held - 1 + ahead, token] for ahead, token in enumerate(text)
            )
    return texts, found


@pytest.mark.parametrize("name", PENALTIES)
def test_with_beams_enough_the_best_of_all_texts_are_found(name):
    network, params = model()
    decoder = transformer_decoder(network, 12)
    found = jax.jit(
        functools.partial(
            beam_search, decoder, policy=POLICY, beams=64, length=LENGTH, penalty=PENALTIES[name]
        )
    )(params, PROMPTS, LENGTHS)
    texts, likely = log_probabilities()
    sizes = jnp.asarray([len(text) for text in texts])
    scores = likely / np.asarray(PENALTIES[name](sizes))
    for row in range(2):
        best = np.argsort(-scores[row])[:20]
        np.testing.assert_allclose(found.scores[row, :20], scores[row][best], atol=1e-4)
        written = [
            tuple(np.asarray(tokens[:size]).tolist())
            for tokens, size in zip(found.tokens[row, :20], found.lengths[row, :20], strict=True)
        ]
        assert written == [texts[place] for place in best]


def test_one_beam_is_greedy_and_more_find_what_is_likelier():
    network, params = model()
    decoder = transformer_decoder(network, 12)

    @functools.partial(jax.jit, static_argnums=1)
    def best(params, beams):
        return beam_search(
            decoder, params, PROMPTS, LENGTHS, POLICY, beams=beams, length=LENGTH,
            penalty=power_penalty(0.0),
        )  # fmt: skip

    @jax.jit
    def greedy(params):
        choice = sampled(POLICY, temperature(0.0))
        return generate(decoder, params, jax.random.key(0), PROMPTS, LENGTHS, choice, LENGTH)

    tokens, lengths = greedy(params)
    one = best(params, 1)
    np.testing.assert_array_equal(one.tokens[:, 0], tokens)
    np.testing.assert_array_equal(one.lengths[:, 0], lengths)
    scores = [np.asarray(best(params, beams).scores[:, 0]) for beams in (1, 3, 64)]
    assert np.all(scores[0] <= scores[1] + 1e-6) and np.all(scores[1] <= scores[2] + 1e-6)
    assert np.any(scores[0] < scores[2] - 0.05)


def test_prompts_in_one_batch_are_searched_as_alone_past_the_context_too():
    params = parameters(LEARNED)
    decoder = transformer_decoder(LEARNED, 8)
    search = jax.jit(
        functools.partial(
            beam_search, decoder, policy=guided(until_token(11, [4])), beams=3, length=12,
            penalty=power_penalty(0.5),
        )
    )  # fmt: skip
    together = search(params, PROMPTS, LENGTHS)
    for row in range(2):
        alone = search(params, PROMPTS[row : row + 1], LENGTHS[row : row + 1])
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one[0], other[row], atol=1e-4)


def test_an_encoder_decoders_sources_stay_with_their_beams():
    network = t5(11, 32, 1, heads=4, depth=8, hidden=64, furthest=16, buckets=8)
    source = jax.random.randint(jax.random.key(1), (2, 7), 0, 11)
    segments = jnp.ones((2, 7), jnp.int32).at[0, 4:].set(0)
    begin = jnp.zeros((2, 1), jnp.int32)
    params = jax.tree.map(lambda leaf: 2 * leaf, parameters(network, source, begin))

    @functools.partial(jax.jit, static_argnums=2)
    def search(source, segments, context):
        decoder = encoder_decoder_decoder(network, context, source, segments)
        rows = source.shape[0]
        return beam_search(
            decoder, params, begin[:rows], jnp.ones(rows, jnp.int32), guided(until_token(11, [1])),
            beams=3, length=6, penalty=power_penalty(1.0),
        )  # fmt: skip

    together = search(source, segments, 7)
    alone = search(source[1:], segments[1:], 7)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[1])
    # The score is that of the whole pass.
    tokens, size = together.tokens[1, 0], int(together.lengths[1, 0])
    seen = jnp.concatenate([jnp.zeros(1, jnp.int32), tokens])[None, :size]
    logits = network.apply({"params": params}, source[1:], seen, segments[1:])
    scores = jax.nn.log_softmax(logits)[0, jnp.arange(size), tokens[:size]]
    np.testing.assert_allclose(scores.mean(), together.scores[1, 0], atol=1e-4)
    # Where a row forgets its beginning, its source is read again.
    short, alone = search(source, segments, 5), search(source[1:], segments[1:], 5)
    np.testing.assert_array_equal(alone.tokens[0], short.tokens[1])


def test_a_search_needs_a_beam():
    with pytest.raises(UserError, match="at least 1 beam"):
        beam_search(
            transformer_decoder(LEARNED, 8), None, PROMPTS, LENGTHS, POLICY, beams=0, length=3,
            penalty=power_penalty(1.0),
        )  # fmt: skip
