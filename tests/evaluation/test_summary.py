"""ROUGE counted by hand."""

import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.summary import rouge


def measure(shared, one, other):
    return 2 * shared / (one + other)  # the F1 of shared / one and shared / other


def test_one_pair_by_hand():
    # Lin 2004, section 3.1: the longest common subsequence tells these two apart.
    reference = "police killed the gunman"
    orderly = rouge([reference], ["Police kill the gunman."])
    assert orderly == pytest.approx(
        {"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 3 / 4, "rouge_l_sum": 3 / 4}
    )
    assert rouge([reference], ["the gunman kill police"]) == pytest.approx(
        {"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 2 / 4, "rouge_l_sum": 2 / 4}
    )


def test_lines_are_sentences_to_one_score_only():
    reference, summary = "a b c\nd e", "d e f\na b"
    found = rouge([reference], [summary])
    # Within lines "a b" and "d e" are found in any order of the lines, but one of them across.
    assert found["rouge_l_sum"] == pytest.approx(measure(4, 5, 5))
    assert found["rouge_l"] == pytest.approx(measure(2, 5, 5))


def test_lengths_may_differ_and_counts_are_clipped():
    found = rouge(["the the cat"], ["the the the the dog cat sat"])
    assert found["rouge_1"] == pytest.approx(measure(3, 3, 7))
    assert found["rouge_2"] == pytest.approx(measure(1, 2, 6))


def test_scores_are_means_over_pairs():
    pairs = [("one two", "one two"), ("one two", "three"), ("one two", "one four"), ("one", "")]
    alone = [rouge([reference], [summary]) for reference, summary in pairs]
    found = rouge(*map(list, zip(*pairs, strict=True)))
    for name, score in found.items():
        assert score == pytest.approx(sum(each[name] for each in alone) / 4)
    assert found["rouge_1"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)


def test_stems_join_what_endings_part():
    assert rouge(["killed running"], ["kills runs"])["rouge_1"] == 0
    assert rouge(["killed running"], ["kills runs"], stem=True)["rouge_1"] == 1


def test_mistakes_are_named():
    with pytest.raises(UserError, match="ROUGE was given no text"):
        rouge([], [])
    with pytest.raises(UserError, match="ROUGE was given 2 references for 1 texts"):
        rouge(["a", "b"], ["a"])
