"""What is encoded comes back, and tokens stay within the vocabulary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer, checked
from jaxgen.errors import UserError

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


def test_characters_are_numbered_as_in_nanogpt():
    tokenizer = CharacterTokenizer.from_text("hello\n")
    assert tokenizer.characters == "\nehlo"
    assert tokenizer.encode("hole").tolist() == [2, 4, 3, 1]


def test_what_a_run_keeps_restores_the_tokenizer():
    # Kept as one string, two lone surrogates would come back as the one character that they encode.
    surrogates = CharacterTokenizer("a\ud83d\ude00")
    assert CharacterTokenizer.from_bytes(surrogates.to_bytes()) == surrogates


def test_cut_utf8_decodes_to_the_replacement_character():
    assert ByteTokenizer().decode(ByteTokenizer().encode("é")[:1]) == "\ufffd"


def test_no_text_is_no_tokens():
    for tokenizer in (ByteTokenizer(), CharacterTokenizer("a")):
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
        (lambda: ByteTokenizer().decode(np.array([256])), r"0 \.\. 255"),
        (lambda: ByteTokenizer().encode("a\ud800"), "surrogate"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint32])
def test_the_first_token_outside_the_vocabulary_is_named_with_its_place(dtype, monkeypatch):
    monkeypatch.setattr("jaxgen.data.tokenizers._AT_ONCE", 4)
    tokens = np.array([[0, 9, 8, 7, 6], [5, 10, 3, 12, 1]]).astype(dtype)
    assert checked(tokens, 13, "train.bin") is tokens
    with pytest.raises(UserError, match=r"train\.bin has the token 10 at place 6.*0 \.\. 9: token"):
        checked(tokens, 10, "train.bin")


def test_a_negative_token_is_outside_every_vocabulary():
    with pytest.raises(UserError, match="the token -1 at place 2"):
        checked(np.array([0, 1, -1]), 5, "mine.npy")


def test_a_type_that_holds_no_other_tokens_is_not_searched():
    """A corpus's file may have more tokens than can be read at every start."""
    unreadable = np.broadcast_to(np.uint16(0), (1 << 50,))
    assert checked(unreadable, 1 << 16, "train.bin") is unreadable
