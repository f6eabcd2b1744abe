"""Pairs as rows: what is packed can be read back, and says the same as each pair alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data.pairs import Pronounced
from jaxgen.data.pronunciation import BEGIN, END, PronunciationTokens
from jaxgen.data.transductions import PackedTransductions, Transductions
from jaxgen.errors import UserError

ENTRIES = (
    Pronounced("AB", (("AE", "B"), ("EY", "B", "IY"))),
    Pronounced("B'A", (("B", "AE"),)),
)
WORDS = st.lists(st.integers(3, 9), min_size=1, max_size=6)


def test_a_pair_is_framed_and_padded():
    pairs = Transductions([[5, 6], [7]], [[8], [9, 8, 9]], 3, 3, 1, 2)
    batch = pairs[np.array([1, 0])]
    np.testing.assert_array_equal(batch["source"], [[7, 0, 0], [5, 6, 0]])
    np.testing.assert_array_equal(batch["source_segments"], [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(batch["tokens"], [[1, 9, 8, 9, 2], [1, 8, 2, 0, 0]])
    # What predicts the end counts, what predicts padding doesn't.
    np.testing.assert_array_equal(batch["mask"], [[1, 1, 1, 1], [1, 1, 0, 0]])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=30))
def test_packed_pairs_are_all_there_in_order_each_a_segment_of_its_own(pairs):
    packed = PackedTransductions(
        [source for source, _ in pairs], [target for _, target in pairs], 10, 12, 1, 2
    )
    found = []
    for row in (packed[np.array([place])] for place in range(len(packed))):
        for segment in range(1, row["segments"].max() + 1):
            source = row["source"][row["source_segments"] == segment].tolist()
            framed = row["tokens"][row["segments"] == segment].tolist()
            assert framed[0] == 1 and framed[-1] == 2
            found.append((source, framed[1:-1]))
        for name, segments in (("source", "source_segments"), ("tokens", "segments")):
            assert not row[name][row[segments] == 0].any()
    assert found == [(list(source), list(target)) for source, target in pairs]


@pytest.mark.parametrize("kind", [Transductions, PackedTransductions])
@pytest.mark.parametrize(
    ("sources", "targets", "sentence"),
    [
        ([], [], "0 sources and 0 targets"),
        ([[3]], [[3], [4]], "1 sources and 2 targets"),
        ([[3], []], [[3], [4]], "The source number 1 has 0 tokens"),
        ([[3]], [[3] * 9], "The target number 0 has 9 tokens"),
    ],
)
def test_pairs_that_cannot_be_are_named(kind, sources, targets, sentence):
    with pytest.raises(UserError, match=sentence):
        kind(sources, targets, 8, 8, 1, 2)


def test_words_and_pronunciations_share_a_vocabulary():
    tokens = PronunciationTokens.from_bytes(PronunciationTokens.from_entries(ENTRIES).to_bytes())
    assert tokens.letters == ("'", "A", "B") and tokens.phonemes == ("AE", "B", "EY", "IY")
    assert tokens.vocabulary_size == 10
    assert tokens.word("b'a").tolist() == [5, 3, 4]
    assert tokens.text(tokens.pronunciation(("EY", "B", "IY")).tolist()) == "EY B IY"
    assert tokens.right(ENTRIES) == [[[6, 7], [8, 7, 9]], [[7, 6]]]
    with pytest.raises(UserError, match="'X' in the word 'axe' is none of the 3"):
        tokens.word("axe")
    packed = tokens.packed(ENTRIES, 8)
    batch = packed[np.arange(len(packed))]
    assert (batch["tokens"] == BEGIN).sum() == (batch["tokens"] == END).sum() == 3
    assert len(tokens.asked(ENTRIES, 4, 4)) == 2
