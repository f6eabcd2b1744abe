"""Automata over tokens against looking for the strings in the texts themselves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.automata import FORBIDDEN, one_of, until_string, until_token
from jaxgen.families.autoregressive.decoding import sampled
from jaxgen.families.autoregressive.policies import combined, frequency, guided, repetition

# Tokens of several letters, one of half a character, and one that stands for nothing.
SPELLINGS = [b"a", b"b", b"ab", b"ba", b"bab", "é".encode()[:1], "é".encode()[1:], b""]


def state_after(automaton, tokens):
    state = 0
    for token in tokens:
        state = int(automaton.following[state, token])
        if state == FORBIDDEN:
            return FORBIDDEN
    return state


@pytest.mark.parametrize("stops", [["aba"], ["bb", "aab"], ["é"], ["ab", "abab"]])
def test_a_row_ends_with_the_token_that_completes_a_stop_string(stops):
    automaton = until_string(SPELLINGS, stops)
    ended = 0
    for tokens in itertools.product(range(len(SPELLINGS)), repeat=4):
        text = b"".join(SPELLINGS[token] for token in tokens)
        found = any(stop.encode() in text for stop in stops)
        assert bool(automaton.final[state_after(automaton, tokens)]) == found
        ended += found
    assert 0 < ended < len(SPELLINGS) ** 4


def test_choices_are_all_that_can_be_written():
    texts, end = ["ab", "aba", "éb"], 7
    automaton = one_of(SPELLINGS, texts, end)
    written = set()
    for size in range(1, 5):
        for tokens in itertools.product(range(len(SPELLINGS)), repeat=size):
            state = state_after(automaton, tokens)
            if state == FORBIDDEN or not automaton.final[state]:
                continue
            if state_after(automaton, tokens[:-1]) == state:
                continue  # was complete before
            written.add(tokens)
    spelled = {b"".join(SPELLINGS[token] for token in tokens).decode() for tokens in written}
    assert spelled == set(texts)
    # In every way that they can be cut, and what another text goes on from ends with a token.
    assert {(0, 1, end), (2, end)} == {t for t in written if t[-1] == end}
    assert {(0, 1, 0), (2, 0), (0, 3)} < written


def test_only_ways_that_lead_to_a_text_may_be_taken():
    """b"bab" begins with "ba", but nothing can follow "b" then "a" here."""
    automaton = one_of([b"b", b"a", b"bac"], ["bac"])
    assert automaton.following[0].tolist() == [FORBIDDEN, FORBIDDEN, 3]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: until_string(SPELLINGS, ["ab", ""]), "A stop string is empty"),
        (lambda: until_string(SPELLINGS, ["ab", "abc"]), "spells the stop string 'abc'"),
        (lambda: one_of(SPELLINGS, []), "at least one text"),
        (lambda: one_of(SPELLINGS, ["a", "ab"]), "'a' is the beginning of another text"),
        (lambda: one_of(SPELLINGS, ["a", "c"]), "No sequence of tokens spells 'c'"),
        (lambda: one_of(SPELLINGS[:5], ["a", "abx"], 4), "No sequence of tokens spells 'abx'"),
    ],
)
def test_what_cannot_be_written_is_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_guide_rules_out_and_ends_rows_under_jit():
    guide = guided(one_of(SPELLINGS, ["ab", "bab"]))
    choice = sampled(guide)

    @jax.jit
    def run(key):
        memory = choice.begin(jnp.zeros((4000, 1), jnp.int32), jnp.ones(4000, jnp.int32), 9)
        first = choice.pick(key, jnp.zeros((4000, 9)), memory)
        second = choice.pick(jax.random.fold_in(key, 1), jnp.zeros((4000, 9)), first.memory)
        return first.token, first.ended, second.token, second.ended

    first, early, second, late = map(np.asarray, run(jax.random.key(0)))
    # a·b, ab, b·ab, ba·b, bab: five ways to begin, each as likely.
    counts = np.bincount(first, minlength=9)
    assert np.all(counts[[0, 1, 2, 3, 4]] > 650) and counts[5:].sum() == 0
    np.testing.assert_array_equal(early, np.isin(first, [2, 4]))
    ways = set(zip(first[~early].tolist(), second[~early].tolist(), strict=True))
    assert ways == {(0, 1), (1, 0), (1, 2), (3, 1)}
    # b·a wants one more letter.
    np.testing.assert_array_equal(late, early | ~((first == 1) & (second == 0)))


def test_penalties_are_their_formulas():
    logits = jnp.asarray([[2.0, -1.0, 0.5, 3.0]])
    policy = combined(repetition(2.0), frequency(0.25, 0.125))
    memory = policy.begin(jnp.asarray([[1, 3, 0]]), jnp.asarray([2]), 4)  # the 0 is padding
    np.testing.assert_allclose(policy.scores(logits, memory), [[2.0, -2.0, 0.5, 1.5]])
    for token in (2, 2, 3):
        memory, ended = policy.advance(memory, jnp.asarray([token]))
        assert not ended.any()
    expected = [[2.0, -2.0, 0.25 - 0.625, 1.5 - 0.375]]
    np.testing.assert_allclose(policy.scores(logits, memory), expected)


def test_any_end_token_ends_a_row():
    policy = guided(until_token(5, [1, 4]))
    memory = policy.begin(jnp.zeros((3, 1), jnp.int32), jnp.ones(3, jnp.int32), 5)
    _, ended = policy.advance(memory, jnp.asarray([0, 1, 4]))
    np.testing.assert_array_equal(ended, [False, True, True])
