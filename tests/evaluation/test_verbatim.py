"""Verbatim overlaps against every substring tried in turn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.evaluation import verbatim
from jaxgen.evaluation.verbatim import verbatim_overlap


def by_trying(training, sample):
    pieces = (
        stop - start
        for start in range(len(sample))
        for stop in range(start + 1, len(sample) + 1)
        if sample[start:stop] in training
    )
    return max(pieces, default=0)


texts = st.one_of(
    st.text(st.sampled_from("ab"), max_size=40),
    st.text(st.sampled_from("abcdé\n🦜\ud800"), max_size=40),
)


@settings(max_examples=300, deadline=None)
@given(training=texts, samples=st.lists(texts, min_size=1, max_size=4), chunk=st.integers(1, 50))
def test_it_is_the_longest_piece_that_trying_finds(training, samples, chunk):
    found = verbatim_overlap(training, samples, chunk)
    wanted = [by_trying(training, sample) for sample in samples]
    assert found.each.tolist() == wanted
    assert (found.mean, found.longest) == (np.mean(wanted), max(wanted))


@settings(max_examples=100, deadline=None)
@given(training=texts, sample=texts)
def test_hashes_that_collide_change_nothing(training, sample):
    with pytest.MonkeyPatch.context() as patch:
        whole = verbatim._hashes
        patch.setattr(verbatim, "_hashes", lambda *text: whole(*text) % np.uint64(2))
        assert verbatim_overlap(training, [sample]).longest == by_trying(training, sample)


def test_a_copied_passage_is_found_at_its_length():
    generator = np.random.default_rng(0)
    training = "".join(generator.choice([*"abcdefgh "], 50_000))
    copied = "#" + training[30_000:30_777] + "#"
    sample = "".join(generator.choice([*"abcdefgh "], 600)) + copied
    found = verbatim_overlap(training, [sample, "#", training[-100:], training], chunk=4096)
    assert found.each.tolist() == [777, 0, 100, 50_000]
    assert found.longest == 50_000 and found.mean == np.mean([777, 0, 100, 50_000])


def test_nothing_is_shared_with_nothing():
    assert verbatim_overlap("", ["abc", ""]).each.tolist() == [0, 0]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least 1 samples, and there are 0"):
        verbatim_overlap("abc", [])
    with pytest.raises(UserError, match="chunk has to be at least 1, not 0"):
        verbatim_overlap("abc", ["a"], chunk=0)
