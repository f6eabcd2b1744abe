"""What is encoded comes back, and tokens stay within the vocabulary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.tokenizers import BytePairTokenizer, ByteTokenizer, CharacterTokenizer, Tokenizer
from jaxgen.errors import UserError

CORPUS = ["the cat sat on the mat, the rat on the hat.\n"] * 20
PAIRS = BytePairTokenizer.train(CORPUS, 300, special_tokens=("<|end|>",))

# Every character that UTF-8 can hold.
texts = st.text(st.characters(exclude_categories=("Cs",)))


def check(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.ndim == 1
    assert ((tokens >= 0) & (tokens < tokenizer.vocabulary_size)).all()
    assert tokenizer.decode(tokens) == text


@settings(max_examples=100, deadline=None)
@given(text=texts.filter(len), other=st.integers(0, 2**32))
def test_characters_round_trip(text, other):
    tokenizer = CharacterTokenizer.from_text(text)
    assert tokenizer.vocabulary_size == len(set(text))
    check(tokenizer, text)
    assert CharacterTokenizer.from_bytes(tokenizer.to_bytes()) == tokenizer
    shuffled = np.random.default_rng(other).permutation(list(text))
    check(tokenizer, "".join(shuffled.tolist()))


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_bytes_round_trip(text):
    check(ByteTokenizer(), text)


@settings(max_examples=100, deadline=None)
@given(text=texts.filter(lambda text: "<|end|>" not in text))
def test_byte_pairs_round_trip(text):
    check(PAIRS, text)


def test_characters_are_numbered_as_in_nanogpt():
    tokenizer = CharacterTokenizer.from_text("hello\n")
    assert tokenizer.characters == "\nehlo"
    assert tokenizer.encode("hole").tolist() == [2, 4, 3, 1]


def test_byte_pairs_compress_and_keep_special_tokens(tmp_path):
    assert PAIRS.vocabulary_size <= 300
    assert len(PAIRS.encode(CORPUS[0])) < len(CORPUS[0]) / 2
    ended = PAIRS.encode("the cat<|end|>the")
    assert (ended == 0).sum() == 1
    assert PAIRS.decode(ended) == "the cat<|end|>the"
    path = tmp_path / "tokenizer.json"
    PAIRS.save(path)
    again = BytePairTokenizer.from_file(path)
    np.testing.assert_array_equal(again.encode(CORPUS[0]), PAIRS.encode(CORPUS[0]))
    assert again.vocabulary_size == PAIRS.vocabulary_size


def test_what_a_run_keeps_restores_the_tokenizer():
    again = BytePairTokenizer.from_bytes(PAIRS.to_bytes())
    assert again.encode(CORPUS[0]).tolist() == PAIRS.encode(CORPUS[0]).tolist()
    # Kept as one string, two lone surrogates would come back as the one character that they encode.
    surrogates = CharacterTokenizer("a\ud83d\ude00")
    assert CharacterTokenizer.from_bytes(surrogates.to_bytes()) == surrogates


def test_cut_utf8_decodes_to_the_replacement_character():
    assert ByteTokenizer().decode(ByteTokenizer().encode("é")[:1]) == "\ufffd"


def test_no_text_is_no_tokens():
    for tokenizer in (ByteTokenizer(), PAIRS, CharacterTokenizer("a")):
        assert tokenizer.encode("").shape == (0,)
        assert tokenizer.decode(np.zeros(0, np.int32)) == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharacterTokenizer.from_text(""), "at least one character"),
        (lambda: CharacterTokenizer("ba"), "ascending"),
        (lambda: CharacterTokenizer("ab").encode("abça"), r"'ç' \(U\+00E7\)"),
        (lambda: CharacterTokenizer("ab").encode("aé"), r"'é' \(U\+00E9\)"),
        (lambda: CharacterTokenizer("ab").decode(np.array([0, 2])), r"0 \.\. 1"),
        (lambda: CharacterTokenizer("ab").decode(np.array([-1])), r"0 \.\. 1"),
        (lambda: CharacterTokenizer.from_bytes(b"{half"), "list of single characters"),
        (lambda: CharacterTokenizer.from_bytes(b'["ab"]'), "list of single characters"),
        (lambda: CharacterTokenizer.from_bytes(b'["b", "a"]'), "ascending"),
        (lambda: BytePairTokenizer.from_bytes(b"{half"), r"no tokenizer\.json"),
        (lambda: ByteTokenizer().decode(np.array([256])), r"0 \.\. 255"),
        (lambda: ByteTokenizer().encode("a\ud800"), "surrogate"),
        (lambda: PAIRS.encode("a\ud800"), "surrogate"),
        (lambda: PAIRS.decode(np.array([300])), "0 .. "),
        (lambda: BytePairTokenizer.train(CORPUS, 255), "at least 256"),
        (lambda: BytePairTokenizer.from_file("nowhere.json"), "doesn't exist"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"is no tokenizer\.json"):
        BytePairTokenizer.from_file(path)
