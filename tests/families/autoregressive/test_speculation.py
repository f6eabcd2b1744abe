"""Speculative decoding writes what the large model alone would, in fewer passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2
from small_transformers import CONTEXT, LEARNED, NETWORKS, ROTARY, VOCABULARY, parameters

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.automata import until_token
from jaxgen.families.autoregressive.decoder import Decoder, transformer_decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.logits import temperature
from jaxgen.families.autoregressive.policies import combined, frequency, guided
from jaxgen.families.autoregressive.speculation import speculate

PROMPTS, LENGTHS = jax.random.randint(jax.random.key(7), (3, 4), 0, VOCABULARY), [2, 3, 4]
LENGTHS = jnp.asarray(LENGTHS)


def table_decoder(table):
    """A Markov chain: the logits of what follows are the last token's row."""

    def prefill(params, tokens, lengths):
        last = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]
        return lengths, table[last]

    return Decoder(
        prefill,
        extend=lambda params, carry, tokens: (carry + tokens.shape[1], table[tokens]),
        reorder=lambda carry, beams: carry[beams],
        rewind=lambda carry, held: held,
    )


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_distribution_is_the_large_models(ahead):
    """χ² of 10⁵ pairs of tokens, whose first is drawn in one round and second in another or not."""
    rows, size = 100_000, 3
    keys = jax.random.split(jax.random.key(5), 2)
    large, small = (table_decoder(0.7 * jax.random.normal(key, (size, size))) for key in keys)
    prompts, lengths = jnp.zeros((rows, 1), jnp.int32), jnp.ones(rows, jnp.int32)
    made = jax.jit(
        functools.partial(
            speculate, large, small, (None, None), policy=temperature(0.8), length=4, ahead=ahead
        )
    )(jax.random.key(0), prompts, lengths)
    chances = jax.nn.softmax(large.extend(None, 0, jnp.arange(size)[None])[1][0] / 0.8)
    chances = np.asarray(chances, np.float64)
    expected = np.einsum("a,ab,bc,cd->abcd", chances[0], chances, chances, chances)
    cells = np.ravel_multi_index(np.asarray(made.tokens).T, (size,) * 4)
    observed = np.bincount(cells, minlength=size**4)
    expected = expected.ravel() * rows
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert expected.min() > 5
    assert statistic < chi2.ppf(0.999, size**4 - 1)
    # The small model alone would be told at once.
    assert 0.1 < made.accepted.sum() / made.lengths.sum() < 0.9


@pytest.mark.parametrize("name", ["learned", "rotary", "turns"])
def test_greedily_it_is_the_plain_loop_whoever_drafts(name):
    network = NETWORKS[name]
    params, other = parameters(network), parameters(LEARNED)
    choice = sampled(temperature(0.0))
    key = jax.random.key(0)
    plain, _ = jax.jit(
        lambda params: generate(
            transformer_decoder(network, CONTEXT), params, key, PROMPTS, LENGTHS, choice, 8
        )
    )(params)
    # A draft that is always right, and one that rarely is.
    for draft, weights in ((network, params), (LEARNED, other)):
        if name == "turns" and draft is network:
            continue  # twice its kinds of layer are slow to compile
        made = jax.jit(
            lambda params, weights, draft=draft: speculate(
                transformer_decoder(network, CONTEXT, ahead=4),
                transformer_decoder(draft, CONTEXT, ahead=4),
                (params, weights), key, PROMPTS, LENGTHS, temperature(0.0), length=8, ahead=3,
            )
        )(params, weights)  # fmt: skip
        np.testing.assert_array_equal(made.tokens, plain)
        if draft is network:
            # The first token comes with the prompt, then four a pass.
            np.testing.assert_array_equal(made.calls, 2)
        else:
            assert np.all(made.calls <= 7)


def test_rows_end_where_the_policy_ends_them_and_penalties_count():
    params, key = parameters(ROTARY), jax.random.key(0)
    policy = combined(frequency(2.0), guided(until_token(VOCABULARY, [4])), temperature(0.0))
    decoder = transformer_decoder(ROTARY, CONTEXT, ahead=4)
    made = jax.jit(
        lambda params: speculate(
            decoder, decoder, (params, params), key, PROMPTS, LENGTHS, policy, length=9, ahead=3
        )
    )(params)
    tokens, lengths = jax.jit(
        lambda params: generate(decoder, params, key, PROMPTS, LENGTHS, sampled(policy), 9)
    )(params)
    np.testing.assert_array_equal(made.tokens, tokens)
    np.testing.assert_array_equal(made.lengths, lengths)
    assert lengths.min() < 9


@pytest.mark.parametrize(
    ("large", "small", "ahead", "sentence"),
    [
        (CONTEXT, CONTEXT, 0, "at least 1 token ahead"),
        (CONTEXT, 8, 3, "the draft model's context has 8"),
        (12, CONTEXT, 3, "the model's context has 12"),
    ],
)
def test_what_does_not_fit_is_refused(large, small, ahead, sentence):
    params = parameters(LEARNED)
    decoder, draft = (transformer_decoder(LEARNED, size, ahead=4) for size in (large, small))
    with pytest.raises(UserError, match=sentence):
        speculate(
            decoder, draft, (params, params), jax.random.key(0), PROMPTS, LENGTHS,
            temperature(1.0), length=6, ahead=ahead,
        )  # fmt: skip


def test_a_draft_of_another_vocabulary_or_with_too_little_room_ahead_is_refused():
    narrow = LEARNED.clone(vocabulary=7)
    decoder = transformer_decoder(LEARNED, CONTEXT, ahead=4)
    params = parameters(LEARNED), parameters(narrow)
    arguments = (jax.random.key(0), PROMPTS % 7, LENGTHS, temperature(1.0))
    with pytest.raises(UserError, match="scores 7 tokens and the model that it drafts for 11"):
        speculate(
            decoder, transformer_decoder(narrow, CONTEXT, ahead=4), params, *arguments, length=2,
            ahead=3,
        )  # fmt: skip
    with pytest.raises(UserError, match="make it with ahead=4"):
        speculate(
            transformer_decoder(LEARNED, CONTEXT), decoder, params, *arguments, length=2, ahead=3
        )
