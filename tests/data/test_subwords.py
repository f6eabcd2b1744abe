"""Hugging Face's vocabularies: their special tokens, their words, and no other's checkpoint."""

import json
import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.special_tokens import BERT_SPECIAL, GPT2_SPECIAL, SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs, train_word_pieces
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError

CORPUS = ["the cat sat on the mat, the rat on the hat.\n"] * 20
PAIRS = train_byte_pairs(CORPUS, 300, SpecialTokens(eos="<|end|>", others=("<|im|>",)))
PIECES = train_word_pieces([*CORPUS, "unsettled"], 60)

texts = st.text(st.characters(exclude_categories=("Cs",)))  # all that UTF-8 can hold


@settings(max_examples=100, deadline=None)
@given(text=texts.filter(lambda text: "<|end|>" not in text))
def test_byte_pairs_round_trip(text):
    tokens = PAIRS.encode(text)
    assert tokens.dtype == np.int32 and tokens.ndim == 1
    assert ((tokens >= 0) & (tokens < PAIRS.vocabulary_size)).all()
    assert PAIRS.decode(tokens) == text


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.sampled_from(["<|end|>", "<|im|>", "<", "|", "a cat", "\n"])))
def test_a_special_token_spelled_in_ordinary_text_is_none(parts):
    text = "".join(parts)
    for tokenizer in (PAIRS, pickle.loads(pickle.dumps(PAIRS))):
        tokens, other = tokenizer.encode_ordinary([text, "the"])
        assert not np.isin(tokens, tokenizer.special_tokens).any()
        assert tokenizer.decode(tokens) == text and tokenizer.decode(other) == "the"
    spelled = np.isin(PAIRS.encode(text), PAIRS.special_tokens).sum()
    assert spelled == parts.count("<|end|>") + parts.count("<|im|>")


def test_byte_pairs_compress_and_keep_special_tokens():
    assert PAIRS.vocabulary_size <= 300
    assert len(PAIRS.encode(CORPUS[0])) < len(CORPUS[0]) / 2
    assert (PAIRS.special_token("eos"), PAIRS.token("<|im|>")) == (0, 1)
    assert PAIRS.special_tokens == (0, 1)
    ended = PAIRS.encode("the cat<|end|>the")
    assert (ended == 0).sum() == 1
    assert PAIRS.decode(ended) == "the cat<|end|>the"
    assert PAIRS.decode(ended, special=False) == "the catthe"
    assert PAIRS.encode("the", special=True).tolist() == PAIRS.encode("the").tolist()
    assert PAIRS.encode("").shape == (0,)


def test_word_pieces_have_berts_template_and_words():
    assert [PIECES.special_token(role) for role in ("pad", "unk", "cls", "sep", "mask")] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert PIECES.special_tokens == (0, 1, 2, 3, 4)
    framed = PIECES.encode("The RAT sat", special=True)
    assert (framed[0], framed[-1]) == (2, 3)
    assert PIECES.encode("The RAT sat").tolist() == framed[1:-1].tolist()
    assert PIECES.decode(framed) == "[CLS] the rat sat [SEP]"
    assert PIECES.encode("the ☃").tolist()[-1] == PIECES.special_token("unk")
    cased = train_word_pieces(["The cat"], 40, lowercase=False)
    assert cased.decode(cased.encode("The")) == "The"


def test_the_same_texts_give_the_same_vocabulary():
    """The library's own trainer of word pieces numbers them differently at each call."""
    texts = ["many different words, 24 letters: fjord quiz blocks a sphinx; wavy gym 漢字", *CORPUS]
    for train, size in ((train_byte_pairs, 300), (train_word_pieces, 100)):
        known = train(texts, size).files()
        assert all(train(texts, size).files() == known for _ in range(3))
    pieces = train_word_pieces(texts, 100).tokenizer.get_vocab()
    assert {"f", "##j", "2", "##4", ",", "漢"} <= pieces.keys()
    assert not {"##,", "##漢", " "} & pieces.keys()


def test_byte_pairs_can_have_berts_template():
    tokenizer = train_byte_pairs(CORPUS, 270, BERT_SPECIAL)
    assert tokenizer.encode("a", special=True).tolist() == [2, *tokenizer.encode("a"), 3]


def test_words_are_told_by_what_begins_them():
    def words(tokenizer, text):
        tokens = tokenizer.encode(text)
        return np.flatnonzero(~tokenizer.continues_word[tokens]).tolist(), len(tokens)

    starts, size = words(PIECES, "the stale rat, the")
    pieces = [PIECES.tokenizer.id_to_token(token) for token in PIECES.encode("the stale")]
    assert len(starts) == 5 < size and sum(not piece.startswith("##") for piece in pieces) == 2
    # Byte level: "the", " unsettled", ",", " café", "\n", of which only letters go on.
    starts, _ = words(PAIRS, " the unsettled, café\n")
    tokens = PAIRS.encode(" the unsettled, café\n")
    cut = [PAIRS.decode(part) for part in np.split(tokens, starts) if len(part)]
    assert cut == [" the", " unsettled", ",", " café", "\n"]
    assert not PAIRS.continues_word[list(PAIRS.special_tokens)].any()


@pytest.mark.parametrize("tokenizer", [PAIRS, PIECES])
def test_files_and_directories_restore_a_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new")
    kept = {**tokenizer.files(), "corpus.sha256": b"other things of a run"}
    for again in (
        SubwordTokenizer.from_directory(tmp_path / "new"),
        SubwordTokenizer.from_files(kept),
    ):
        assert again.encode(CORPUS[0], True).tolist() == tokenizer.encode(CORPUS[0], True).tolist()
        assert again.special == tokenizer.special
        assert again.configuration == tokenizer.configuration
        assert again.unchanged(tokenizer.fingerprint, "itself") is again


def directory_of(tmp_path, tokenizer, **files):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return SubwordTokenizer.from_directory(tmp_path)


def unigrams():
    """As T5 has them: SentencePiece's unigrams, </s> after a text."""
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    names = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        CORPUS,
        tokenizers.trainers.UnigramTrainer(
            vocab_size=40, special_tokens=names, unk_token="<unk>", show_progress=False
        ),
    )
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return made


def test_a_unigram_directory_is_read_with_its_special_tokens(tmp_path):
    made = unigrams()
    made.enable_truncation(2)  # some directories cut and pad, which no corpus should suffer
    made.enable_padding(length=2)
    tokenizer = directory_of(
        tmp_path,
        made,
        tokenizer_config={"eos_token": "</s>", "pad_token": {"content": "<pad>", "lstrip": False}},
        special_tokens_map={"unk_token": "<unk>", "eos_token": "<pad>"},
    )
    roles = {"eos": "</s>", "pad": "<pad>", "unk": "<unk>"}  # the configuration's word counts
    assert tokenizer.special.roles() == roles
    tokens = tokenizer.encode("the cat sat on", special=True)
    assert len(tokens) > 4 and tokens[-1] == tokenizer.special_token("eos") == 1
    assert tokenizer.decode(tokens, special=False) == "the cat sat on"
    begins = ~tokenizer.continues_word[tokenizer.encode("the cat sat on")]
    assert begins.sum() == 4
    with pytest.raises(UserError, match=r"names no mask token \(pad, unk, eos is all"):
        tokenizer.special_token("mask")


def test_byte_fallback_and_added_tokens_are_read_as_llama_has_them(tmp_path):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {piece: place for place, piece in enumerate(pieces)}, [],
            unk_token="<unk>", byte_fallback=True,
        )
    )  # fmt: skip
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
        ]
    )
    made.add_special_tokens(["<s>", "</s>", "<|eot|>"])
    tokenizer = directory_of(
        tmp_path, made, tokenizer_config={"bos_token": "<s>", "extra_special_tokens": ["<|eot|>"]}
    )
    assert tokenizer.decode(tokenizer.encode("a é☃ a")) == "a é☃ a"
    assert tokenizer.special.others == ("<|eot|>",)
    assert tokenizer.special_tokens == (1, 2, tokenizer.token("<|eot|>"))
    assert tokenizer.vocabulary_size == len(pieces) + 1


def test_special_tokens_survive_their_configuration():
    for special in (GPT2_SPECIAL, BERT_SPECIAL, SpecialTokens(bos="<s>", others=("a", "b"))):
        assert SpecialTokens.from_configuration(special.to_configuration()) == special
    assert GPT2_SPECIAL.texts() == ["<|endoftext|>"]
    named = SpecialTokens.from_configuration({"extra_special_tokens": {"image_token": "<image>"}})
    assert named.others == ("<image>",)


def test_another_checkpoints_tokenizer_is_told_apart():
    """By its vocabulary, or, with the same one, by how it cuts."""
    pieces = {chr(97 + place): place for place in range(26)}
    vocabulary = {**pieces, "un": 26, "be": 27, "unk": 28}

    def made(merges, normalizer=None):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
        if normalizer:
            tokenizer.normalizer = normalizer
        return SubwordTokenizer(tokenizer, {})

    known = made([("u", "n"), ("b", "e")])
    for other in (
        PAIRS,
        made([("u", "n")]),
        made([("u", "n"), ("b", "e")], tokenizers.normalizers.Lowercase()),
    ):
        with pytest.raises(UserError, match=r"isn't the one of runs/gpt \(fingerprint"):
            other.unchanged(known.fingerprint, "runs/gpt")
    assert made([("u", "n"), ("b", "e")]).unchanged(known.fingerprint, "runs/gpt")
    with pytest.raises(UserError, match=r"has 29 tokens and isn't the one of gpt2\b.*has 28"):
        known.within(28, "gpt2")
    assert known.within(32, "gpt2") is known  # models pad their tables


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PAIRS.encode("a\ud800"), "surrogate"),
        (lambda: PAIRS.encode_ordinary(["a", "a\ud800"]), "surrogate"),
        (lambda: PAIRS.decode(np.array([300])), "0 .. "),
        (lambda: PAIRS.token("<|start|>"), r"no token <\|start\|>"),
        (lambda: SubwordTokenizer.from_files({}), "no tokenizer.json among no files"),
        (lambda: SubwordTokenizer.from_files({"tokenizer.json": b"{half"}), r"no tokenizer\.json"),
        (lambda: SubwordTokenizer.from_directory("nowhere"), "no tokenizer.json in nowhere"),
        (lambda: train_byte_pairs(CORPUS, 256), "at least 257"),
        (lambda: train_word_pieces(CORPUS, 10), "at least 2"),
        (lambda: train_word_pieces(CORPUS, 90, GPT2_SPECIAL), "need an unk"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_damaged_directory_is_named(tmp_path):
    PAIRS.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"the tokenizer in .* its tokenizer_config\.json is no"):
        SubwordTokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"the tokenizer in .* is no tokenizer\.json"):
        SubwordTokenizer.from_directory(tmp_path)


def test_token_bytes_add_up_to_the_texts():
    tokenizer = train_byte_pairs(["the quick brown fox, the lazy dog"] * 9, 300)
    for text in ("the quick fox", "Übergröße — 東京 🙂\n\tx", ""):
        tokens = tokenizer.encode_ordinary([text])[0]
        assert tokenizer.token_bytes[tokens].sum() == len(text.encode())
    assert tokenizer.token_bytes[tokenizer.special_token("eos")] == 0
    with pytest.raises(UserError, match="only a byte-level vocabulary"):
        _ = train_word_pieces(["a b c"], 60).token_bytes
