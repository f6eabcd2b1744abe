"""Edit distances against the table that defines them, and rates counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.evaluation.error_rates import (
    edit_distance,
    pronunciation_errors,
    token_error_rate,
    word_error_rate,
)


def by_table(one, other):
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, start=1):
        above, row = row, [i]
        for j, theirs in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (mine != theirs)))
    return row[-1]


sequences = st.lists(st.sampled_from([-1, -2, 97, "a", "b", "AH0", (1,), None]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(one=sequences, other=sequences, third=sequences)
def test_the_distance_is_the_tables_and_a_metric(one, other, third):
    distance = edit_distance(one, other)
    assert distance == by_table(one, other) == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert distance <= edit_distance(one, third) + edit_distance(third, other)


def test_distances_of_texts_and_arrays():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance(np.array([3, 1, 4, 1]), [3, 4, 1, 5]) == 2
    assert edit_distance([-1, "a"], [-2, 97]) == 2  # whose hashes are the same to rapidfuzz


def test_word_errors_by_hand():
    references = ["the cat sat  on the mat", "yes"]
    # One substitution and one deletion, then two insertions, over seven words.
    assert word_error_rate(references, ["the cat sit on mat", "oh yes\n yes"]) == 4 / 7
    assert word_error_rate(references, references) == 0
    assert word_error_rate(["one"], ["no word is right"]) == 4
    assert word_error_rate(["", "one"], ["", "one"]) == 0


def test_token_errors_are_pooled_not_averaged():
    assert token_error_rate([[1, 2, 3, 4], [5]], [[1, 2, 3, 4], [6]]) == 1 / 5
    assert token_error_rate([np.array([1, 2])], [np.array([2])]) == 1 / 2


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(sequences.filter(len), sequences), min_size=1, max_size=5))
def test_with_one_answer_each_phoneme_errors_are_token_errors(pairs):
    references, said = map(list, zip(*pairs, strict=True))
    found = pronunciation_errors([[one] for one in references], said)
    assert found.phonemes == token_error_rate(references, said)
    assert found.words == np.mean([one != other for one, other in pairs])


def test_the_nearest_pronunciation_counts():
    references = [
        [["T", "AH", "M", "EY", "T", "OW"], ["T", "AH", "M", "AA", "T", "OW"]],
        [["DH", "AH"], ["DH", "IY"]],
        [["R", "EH", "D"], ["R", "IY", "D", "Z"]],
    ]
    said = [["T", "AH", "M", "AA", "T", "OW"], ["DH", "IY", "S"], ["R", "IY", "D"]]
    # The second word has one phoneme too many. Of the third, both answers are one edit away:
    # the longer counts, in whatever order they stand.
    found = pronunciation_errors(references, said)
    assert found == pytest.approx((2 / 3, 2 / (6 + 2 + 4)))
    assert pronunciation_errors([one[::-1] for one in references], said) == found


@pytest.mark.parametrize(
    ("score", "references", "texts", "message"),
    [
        (word_error_rate, [], [], "The word error rate was given no text"),
        (word_error_rate, ["a"], ["a", "b"], "was given 1 references for 2 texts"),
        (word_error_rate, [" "], ["a"], "needs a reference that isn't empty"),
        (token_error_rate, [], [], "The error rate was given no text"),
        (pronunciation_errors, [], [], "The pronunciation error rate was given no text"),
        (pronunciation_errors, [[["A"]]], [], "1 references for 0 texts"),
        (pronunciation_errors, [[["A"]], []], [["A"], ["B"]], "Word 1 has no right pronunciation"),
        (pronunciation_errors, [[[]]], [["A"]], "needs a reference that isn't empty"),
    ],
)
def test_mistakes_are_named(score, references, texts, message):
    with pytest.raises(UserError, match=message):
        score(references, texts)
