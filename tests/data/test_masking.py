"""Masking: BERT's shares, no special token touched, and nothing that another generator decides."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.framing import Framed
from jaxgen.data.masking import Masked, Masking
from jaxgen.data.sources import Arrays, Shuffled
from jaxgen.data.subword_training import train_word_pieces
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError

PAD, CLS, SEP, MASK, SIZE = 0, 2, 3, 4, 1000
MASKING = Masking(MASK, SIZE, (PAD, CLS, SEP))


def item_of(tokens):
    tokens = np.asarray(tokens, np.int32)
    return {"tokens": tokens, "segments": (tokens != PAD).astype(np.int32)}


def test_the_rates_are_berts():
    tokens = np.random.default_rng(0).integers(5, SIZE, 100_000)
    item = MASKING(item_of(tokens), np.random.default_rng(1))
    chosen, seen, targets = item["chosen"], item["tokens"], item["targets"]
    assert chosen.sum() == 15_000
    np.testing.assert_array_equal(targets, tokens)
    np.testing.assert_array_equal(seen[~chosen], tokens[~chosen])
    hidden = (seen == MASK) & chosen
    other = chosen & ~hidden & (seen != tokens)
    # Standard deviations are 0.0033 and 0.0024; a thousandth of the drawn ones are the old ones.
    assert abs(hidden.sum() / 15_000 - 0.8) < 0.013
    assert abs(other.sum() / 15_000 - 0.1 * (1 - 1 / 995)) < 0.01
    assert seen[other].min() < 60 and seen[other].max() > 940
    # Chosen alike wherever they stand: halves of 7,500 with a deviation of 56.
    assert abs(int(chosen[:50_000].sum()) - 7_500) < 250


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
    whole=st.booleans(),
)
def test_nothing_special_is_touched_or_drawn(tokens, seed, whole):
    """Not even where the padding's token lies inside of a text, or a text's inside the padding."""
    special = (0, 1, 2, 3)
    continues = (np.arange(31) % 3 == 0) & (np.arange(31) > 4)
    masking = Masking(4, 31, special, rate=0.5, masked=0.4, randomized=0.5,
                      continues=continues if whole else None)  # fmt: skip
    tokens = np.array(tokens, np.int32)
    segments = np.random.default_rng(seed).integers(0, 3, len(tokens)).astype(np.int32)
    types = np.arange(len(tokens))
    item = masking(
        {"tokens": tokens, "segments": segments, "types": types}, np.random.default_rng(seed)
    )
    chosen, seen = item["chosen"], item["tokens"]
    ordinary = (segments != 0) & (tokens > 4)
    assert not (chosen & ~ordinary).any()
    np.testing.assert_array_equal(seen[~chosen], tokens[~chosen])
    assert (seen[chosen] >= 4).all()
    if ordinary.any():
        assert 1 <= chosen.sum() <= max(1, round(0.5 * ordinary.sum())) or whole
    else:
        assert not chosen.any()
    assert item["types"] is types and item["segments"] is segments
    assert (seen.dtype, item["targets"].dtype, chosen.dtype) == (np.int32, np.int32, bool)


def test_without_segments_the_whole_row_is_text():
    item = MASKING({"tokens": np.full(20, 7, np.int32)}, np.random.default_rng(0))
    assert item["chosen"].sum() == 3 and "segments" not in item


def test_whole_words_are_chosen_whole():
    """Words of 1 to 4 tokens, 10 begins one and 11 goes on."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 5, 4000)
    tokens = np.concatenate([[10] + [11] * (size - 1) for size in sizes])
    word = np.repeat(np.arange(len(sizes)), sizes)
    continues = np.arange(SIZE) == 11
    masking = Masking(MASK, SIZE, (PAD, CLS, SEP), continues=continues)
    chosen = masking(item_of(tokens), generator)["chosen"]
    counts = np.bincount(word[chosen], minlength=len(sizes))
    assert set(np.unique(counts / sizes)) == {0.0, 1.0}
    assert chosen.sum() == round(0.15 * len(tokens))
    # Words of every size alike: each share has a deviation of about 0.012.
    shares = [(counts[sizes == size] > 0).mean() for size in (1, 2, 3, 4)]
    assert max(shares) - min(shares) < 0.07


def test_a_word_ends_at_special_tokens_and_texts():
    continues = np.arange(SIZE) == 11
    masking = Masking(MASK, SIZE, (PAD, CLS, SEP), rate=0.01, continues=continues)
    tokens = np.array([CLS, 11, 11, SEP, 11, 11, 11], np.int32)
    segments = np.array([1, 1, 1, 1, 1, 1, 2], np.int32)
    found = {
        tuple(np.flatnonzero(masking({"tokens": tokens, "segments": segments},
                                     np.random.default_rng(seed))["chosen"]))
        for seed in range(60)
    }  # fmt: skip
    # A lone place is the only word that fits into one; without any, one word is taken whole.
    assert found == {(6,)}
    lone = masking({"tokens": tokens[:6], "segments": segments[:6]}, np.random.default_rng(0))
    assert np.flatnonzero(lone["chosen"]).tolist() in ([1, 2], [4, 5])


def test_while_training_each_look_is_masked_anew_and_resumes():
    framed = Framed([np.arange(5, 500)], 18, CLS, SEP, PAD)
    source = pickle.loads(pickle.dumps(Shuffled(framed, 8, 0, MASKING)))
    batches = [source.batch(step, slice(0, 8)) for step in range(8)]
    first = batches[0]
    assert {name: leaf.shape for name, leaf in first.items()} == dict.fromkeys(
        ("tokens", "segments", "targets", "chosen"), (8, 18)
    )
    again = Shuffled(framed, 8, 0, MASKING).batch(7, slice(2, 5))
    for name, leaf in again.items():
        np.testing.assert_array_equal(leaf, batches[7][name][2:5])
    # The same 31 rows in the next epoch, hidden elsewhere.
    rows = {}
    for batch in batches:
        for target, chosen in zip(batch["targets"], batch["chosen"], strict=True):
            rows.setdefault(target.tobytes(), set()).add(chosen.tobytes())
    assert len(rows) == len(framed) == 31
    assert sum(map(len, rows.values())) > 60


def test_what_is_scored_is_masked_the_same_whenever_and_in_whatever_company():
    items = Arrays({"tokens": np.random.default_rng(0).integers(5, SIZE, (30, 40)),
                    "index": np.arange(30)})  # fmt: skip
    masked = Masked(items, MASKING, seed=3)
    assert len(masked) == 30
    whole = masked[np.arange(30)]
    part = masked[np.array([29, 4, 4])]
    for name, leaf in part.items():
        np.testing.assert_array_equal(leaf, whole[name][[29, 4, 4]])
    assert len({chosen.tobytes() for chosen in whole["chosen"]}) == 30
    other = Masked(items, MASKING, seed=4)[np.arange(30)]
    assert (other["chosen"] != whole["chosen"]).any(1).all()


def test_a_tokenizer_says_what_is_special_and_what_a_word_is():
    tokenizer = train_word_pieces(["the cat sat on the unsettled mat"] * 5, 45)
    masking = Masking.of(tokenizer, rate=0.3, whole_words=True)
    assert (masking.mask, masking.special) == (4, (0, 1, 2, 3, 4))
    row = tokenizer.encode("the stale cat", special=True)
    for seed in range(20):
        chosen = masking(item_of(row), np.random.default_rng(seed))["chosen"]
        assert not chosen[[0, -1]].any() and chosen.any()
    assert Masking.of(tokenizer).continues is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masking(4, SIZE, (), rate=0.0), "rate must lie above 0"),
        (lambda: Masking(4, SIZE, (), masked=0.8, randomized=0.3), "at most 1, not 0.8 and 0.3"),
        (lambda: Masking(4, 4, ()), "a vocabulary of 4 tokens must hold the mask"),
        (lambda: Masking(1, 2, (0, 1)), "and ordinary ones"),
        (
            lambda: Masking.of(SubwordTokenizer(train_word_pieces(["a"], 20).tokenizer, {})),
            "names no mask token",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
