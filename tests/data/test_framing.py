"""Rows for an encoder hold every token once, between a first one and a last one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.framing import Framed, framed_texts
from jaxgen.data.subword_training import train_byte_pairs, train_word_pieces
from jaxgen.errors import UserError

PIECES = train_word_pieces(["the cat sat on the mat"] * 5, 40)


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(10, 50), max_size=40), min_size=1, max_size=9),
    length=st.integers(3, 20),
)
def test_framed_rows_hold_every_token_once_in_order(documents, length):
    arrays = [np.array(document, np.int64) for document in documents]
    if not sum(map(len, documents)):
        with pytest.raises(UserError, match="nothing to frame"):
            Framed(arrays, length, 1, 2, 0)
        return
    framed = Framed(arrays, length, first=1, last=2, padding=0)
    rows = framed[np.arange(len(framed))]
    tokens, segments = rows["tokens"], rows["segments"]
    assert tokens.shape == segments.shape == (len(framed), length)
    assert tokens.dtype == segments.dtype == np.int32
    assert (tokens[:, 0] == 1).all()
    ends = segments.sum(1) - 1
    assert (tokens[np.arange(len(tokens)), ends] == 2).all()
    np.testing.assert_array_equal(segments, np.arange(length) <= ends[:, None])
    assert (tokens[segments == 0] == 0).all()
    inside = tokens[(segments == 1) & (tokens != 1) & (tokens != 2)]
    assert inside.tolist() == [token for document in documents for token in document]
    # No row has two documents' tokens.
    assert len(framed) == sum(-(-len(document) // (length - 2)) for document in documents)


def test_texts_are_framed_by_the_tokenizers_template():
    rows = framed_texts(PIECES, ["The cat", "the mat " * 9, ""], 8)
    assert {leaf.shape for leaf in rows.values()} == {(3, 8)}
    cat = PIECES.encode("the cat", special=True)
    assert rows["tokens"][0].tolist() == [*cat, *[0] * (8 - len(cat))]
    assert rows["segments"].sum(1).tolist() == [len(cat), 8, 2]
    assert rows["tokens"][1, -1] == PIECES.special_token("sep")
    assert not rows["types"].any()


def test_pairs_have_types():
    rows = framed_texts(PIECES, [("the cat", "the mat")], 12)
    first, second = (PIECES.encode(text).tolist() for text in ("the cat", "the mat"))
    wanted = [2, *first, 3, *second, 3]
    assert rows["tokens"][0].tolist() == [*wanted, *[0] * (12 - len(wanted))]
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert rows["types"][0].tolist() == [*types, *[0] * (12 - len(types))]


def test_a_tokenizer_without_padding_fills_up_with_0():
    rows = framed_texts(train_byte_pairs(["a"], 257), ["abc"], 5)
    assert rows["segments"].tolist() == [[1, 1, 1, 0, 0]]
    assert rows["tokens"][0, 3:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Framed([np.arange(3)], 2, 1, 2, 0), "at least 3"),
        (lambda: framed_texts(PIECES, ["a"], 2), "at least 3"),
        (lambda: framed_texts(PIECES, [("a", "b")], 3), "at least 4"),
        (lambda: framed_texts(PIECES, [], 8), "no texts"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
