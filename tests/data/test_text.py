"""Each way of cutting a text predicts exactly the tokens it should."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.sources import whole_split
from jaxgen.data.text import Blocks, Packed, Windows, read_corpus
from jaxgen.errors import UserError


def all_of(items):
    return items[np.arange(len(items))]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_windows_are_every_window(dtype):
    text = np.arange(100, 111).astype(dtype)
    windows = all_of(Windows(text, 4))["tokens"]
    assert windows.dtype == np.int32
    np.testing.assert_array_equal(windows, np.lib.stride_tricks.sliding_window_view(text, 5))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 90), length=st.integers(1, 30))
def test_blocks_predict_each_token_but_the_first_once(size, length):
    text = np.arange(1, size + 1)
    blocks = all_of(Blocks(text, length))
    assert blocks["tokens"].shape == (len(blocks["mask"]), length + 1)
    predicted = blocks["tokens"][:, 1:][blocks["mask"]]
    np.testing.assert_array_equal(predicted, text[1:])
    np.testing.assert_array_equal(blocks["tokens"][:, :-1][blocks["mask"]], text[:-1])
    assert (blocks["tokens"][:, 1:][~blocks["mask"]] == 0).all()


def test_blocks_go_through_a_whole_split():
    text = np.arange(1, 24)
    count = 0
    for batch, valid in whole_split(Blocks(text, 5), 3):
        count += (batch["mask"] & valid[:, None]).sum()
    assert count == 22


documents = st.lists(st.lists(st.integers(1, 50), max_size=40), min_size=1, max_size=15)


@settings(max_examples=100, deadline=None)
@given(documents=documents, length=st.integers(1, 16))
def test_packed_rows_hold_every_prediction_once(documents, length):
    wanted = sorted(pair for document in documents for pair in itertools.pairwise(document))
    arrays = [np.array(document, np.int64) for document in documents]
    if not wanted:
        with pytest.raises(UserError, match="nothing to predict"):
            Packed(arrays, length)
        return
    packed = pickle.loads(pickle.dumps(Packed(arrays, length, padding=99)))
    rows = all_of(packed)
    tokens, segments, positions = rows["tokens"], rows["segments"], rows["positions"]
    assert tokens.shape == segments.shape == positions.shape == (len(packed), length + 1)
    predicts = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    found = zip(tokens[:, :-1][predicts].tolist(), tokens[:, 1:][predicts].tolist(), strict=True)
    assert sorted(found) == wanted
    np.testing.assert_array_equal(tokens == 99, segments == 0)
    # Within a segment positions count on, where one begins they are 0.
    np.testing.assert_array_equal(positions[:, 1:][predicts], positions[:, :-1][predicts] + 1)
    begins = np.concatenate([np.ones((len(packed), 1), bool), ~predicts], 1)
    assert (positions[begins] == 0).all()


@settings(max_examples=60, deadline=None)
@given(documents=documents, length=st.integers(1, 16), seed=st.integers(0, 99))
def test_packed_rows_learn_what_the_masks_say_once(documents, length, seed):
    """Tokens are numbered, so that each can be told from any other."""
    generator = np.random.default_rng(seed)
    numbers = np.split(np.arange(sum(map(len, documents))), np.cumsum([*map(len, documents)])[:-1])
    masks = [generator.random(len(document)) < 0.5 for document in numbers]
    if max(map(len, documents)) < 2:
        return
    rows = all_of(Packed(numbers, length, masks=masks))
    assert rows["mask"].shape == (len(rows["tokens"]), length) and rows["mask"].dtype == bool
    inside = rows["segments"][:, 1:] == rows["segments"][:, :-1]
    assert (inside & (rows["segments"][:, 1:] > 0))[rows["mask"]].all()
    learned = rows["tokens"][:, 1:][rows["mask"]]
    wanted = [n[1:][m[1:]] for n, m in zip(numbers, masks, strict=True)]
    assert sorted(learned.tolist()) == np.concatenate(wanted).tolist()


def test_packing_wastes_little():
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 90, 500)
    packed = Packed([np.ones(size, np.int32) for size in sizes], 128)
    assert len(packed) <= 1.02 * -(-sizes.sum() // 129)


def test_packing_fits_best():
    """6, 5, 4, 3, 2 and 2 in rows of 11: best fit fills both rows, in order of size."""
    packed = Packed([np.full(n, n) for n in (2, 3, 4, 5, 6, 2)], 10)
    rows = all_of(packed)["tokens"].tolist()
    assert rows == [[6] * 6 + [5] * 5, [4] * 4 + [3] * 3 + [2] * 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Windows(np.arange(5), 5), "longer text"),
        (lambda: Windows(np.arange(5), 0), "length"),
        (lambda: Blocks(np.arange(1), 5), "nothing to predict"),
        (lambda: Packed([np.arange(3)], 0), "length"),
        (lambda: Packed([np.arange(1)], 3), "nothing to predict"),
        (lambda: Packed([np.arange(3)], 3, masks=[np.ones(2, bool)]), "masks must say of every"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_corpus_is_read_as_it_is(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("á\r\nβ".encode())
    assert read_corpus(path) == "á\r\nβ"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_corpus(path) == "abc"


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b" \n\n", "is empty"), (b"ab\xff", "at byte 2")]
)
def test_a_corpus_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_corpus(path)


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt doesn't exist"):
        read_corpus(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="directory"):
        read_corpus(tmp_path)
