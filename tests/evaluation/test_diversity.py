"""Distinct n-grams by counting, self-BLEU against sacrebleu's own, sample by sample."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from jaxgen.errors import UserError
from jaxgen.evaluation.diversity import distinct, self_bleu


def test_distinct_by_hand():
    samples = ["a b a b", "b a  c"]
    assert distinct(samples, 1) == 3 / 7
    assert distinct(samples, 2) == 3 / 7  # a b, b a, a c
    assert distinct(samples, 3) == 3 / 7  # a b a, b a b, b a c
    assert distinct(samples, 5) == 0
    assert distinct([[1, 2, 3], np.array([4, 5])], 1) == 1
    assert distinct([np.array([7, 7]), [7, 7]], 2) == 1 / 4


words = st.lists(st.sampled_from("abc"), max_size=9)


@settings(max_examples=100, deadline=None)
@given(samples=st.lists(words, min_size=1, max_size=6).filter(any), order=st.integers(1, 4))
def test_distinct_is_what_counting_says(samples, order):
    seen = {
        "".join(one[start : start + order])
        for one in samples
        for start in range(len(one) - order + 1)
    }
    assert distinct(samples, order) == len(seen) / sum(map(len, samples))
    assert distinct(samples, order) == distinct([" ".join(one) for one in samples], order)
    assert distinct([*samples, samples[0]], order) <= distinct(samples, order)


@settings(max_examples=200, deadline=None)
@given(samples=st.lists(words, min_size=2, max_size=6), order=st.integers(1, 5))
def test_self_bleu_is_sacrebleus_with_the_others_as_references(samples, order):
    texts = [" ".join(one) for one in samples]
    metric = BLEU(tokenize="none", effective_order=True, max_ngram_order=order)
    each = [
        metric.sentence_score(text, texts[:place] + texts[place + 1 :]).score
        for place, text in enumerate(texts)
    ]
    found = self_bleu(samples, order)
    assert found == pytest.approx(np.mean(each))
    assert found == self_bleu(texts, order)


def test_self_bleu_by_hand():
    # Of "a b c", next to "a b d": 2/3 of the words, 1/2 of the pairs; the other way as well.
    assert self_bleu(["a b c", "a b d"], order=2) == pytest.approx(100 * math.sqrt(2 / 3 / 2))
    assert self_bleu(["a b c d"] * 3) == pytest.approx(100)
    assert self_bleu([[1, 2], [3, 4], [5]]) == 0
    assert self_bleu([np.array([1, 2, 3]), [1, 2, 3]]) == pytest.approx(100)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: distinct([], 1), "at least 1 samples, and there are 0"),
        (lambda: distinct(["", []], 1), "need a sample that isn't empty"),
        (lambda: distinct(["a"], 0), "order has to be at least 1, not 0"),
        (lambda: self_bleu(["a"]), "at least 2 samples, and there are 1"),
        (lambda: self_bleu(["a", "b"], 0), "order has to be at least 1, not 0"),
    ],
)
def test_mistakes_are_named(score, message):
    with pytest.raises(UserError, match=message):
        score()
