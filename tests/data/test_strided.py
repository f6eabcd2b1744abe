"""Overlapping windows predict exactly the tokens they should, each with enough before it."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.sources import whole_split
from jaxgen.data.strided import Strided
from jaxgen.data.text import Blocks
from jaxgen.data.token_files import TokenFile
from jaxgen.errors import UserError


def all_of(items):
    return items[np.arange(len(items))]


strides = st.integers(1, 20).flatmap(
    lambda length: st.tuples(st.just(length), st.integers(1, length))
)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(2, 90), shape=strides)
def test_each_token_but_the_first_counts_once_with_enough_before_it(size, shape):
    length, stride = shape
    text = np.arange(1, size + 1).astype(np.uint16)  # token t is number t - 1
    items = pickle.loads(pickle.dumps(Strided(text, length, stride)))
    rows = all_of(items)
    tokens, mask = rows["tokens"], rows["mask"]
    assert tokens.shape == (len(items), length + 1) and mask.shape == (len(items), length)
    assert tokens.dtype == np.int32 and mask.dtype == bool
    np.testing.assert_array_equal(tokens[:, 1:][mask], text[1:])
    np.testing.assert_array_equal(tokens[:, :-1][mask], text[:-1])
    assert mask.any(1).all()  # no window is for nothing
    seen = np.broadcast_to(np.arange(1, length + 1), mask.shape)[1:][mask[1:]]
    assert (seen >= length - stride + 1).all()
    np.testing.assert_array_equal(tokens[:, 0], 1 + stride * np.arange(len(items)))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 90), length=st.integers(1, 30))
def test_as_far_as_they_are_long_they_are_blocks(size, length):
    text = np.arange(1, size + 1)
    ours, blocks = Strided(text, length, length), Blocks(text, length)
    assert len(ours) == len(blocks)
    for name, leaf in all_of(blocks).items():
        np.testing.assert_array_equal(all_of(ours)[name], leaf, strict=True)


def test_by_hand():
    rows = all_of(Strided(np.array([5, 6, 7, 8, 9, 4, 3]), 4, 3))
    assert rows["tokens"].tolist() == [[5, 6, 7, 8, 9], [8, 9, 4, 3, 0]]
    assert rows["mask"].tolist() == [[True] * 4, [False, True, True, False]]


def test_they_go_through_a_whole_split_and_come_from_a_file(tmp_path):
    np.save(tmp_path / "text.npy", np.arange(1, 24, dtype=np.uint16))
    count = 0
    for batch, valid in whole_split(Strided(TokenFile(str(tmp_path / "text.npy")), 5, 2), 3):
        count += (batch["mask"] & valid[:, None]).sum()
    assert count == 22


@pytest.mark.parametrize(
    ("size", "length", "stride", "message"),
    [
        (9, 0, 1, "length has to be at least 1, not 0"),
        (9, 4, 0, "stride has to be at least 1, not 0"),
        (9, 4, 5, "a stride of 5 tokens would leave some out of windows of 4"),
        (1, 4, 2, "nothing to predict"),
    ],
)
def test_mistakes_are_named(size, length, stride, message):
    with pytest.raises(UserError, match=message):
        Strided(np.arange(size), length, stride)
