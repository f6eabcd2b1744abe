"""Subword vocabularies learned from texts, by Hugging Face's `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxgen.data.special_tokens import BERT_SPECIAL, GPT2_SPECIAL, SpecialTokens
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError

_CONTINUES = "##"  # BERT's prefix of a piece that goes on with a word


def train_byte_pairs(
    texts: Iterable[str], vocabulary_size: int, special: SpecialTokens = GPT2_SPECIAL
) -> SubwordTokenizer:
    """Byte-level byte-pair encoding (Radford et al. 2019, GPT-2), up to `vocabulary_size` tokens.

    It decodes to exactly what it encoded, whatever the text. Special tokens come first and are
    never cut. With `cls` and `sep` the template is BERT's, else there is none.
    Raises `UserError` where the vocabulary can't hold the bytes and the special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(special.texts())
    if vocabulary_size < smallest:
        raise UserError(
            f"vocabulary_size must be at least {smallest}, the bytes and special tokens, "
            f"not {vocabulary_size}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special.texts(),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer, special)


def train_word_pieces(
    texts: Iterable[str],
    vocabulary_size: int,
    special: SpecialTokens = BERT_SPECIAL,
    lowercase: bool = True,
) -> SubwordTokenizer:
    """BERT's word pieces (Wu et al. 2016; Devlin et al. 2019), up to `vocabulary_size` tokens.

    A word with a character that the texts lack becomes `unk`. What is decoded has BERT's spaces.
    lowercase: takes capitals and accents away, as the uncased BERT does.
    Raises `UserError` without an `unk` among the special tokens, and where the vocabulary can't
    hold the texts' characters.
    """
    if special.unk is None:
        raise UserError("word pieces need an unk token for what they can't spell: name one")
    texts = list(texts)
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    first = [*special.texts(), *_pieces_of_one_character(texts, normalizer)]
    if vocabulary_size < len(first):
        raise UserError(
            f"vocabulary_size must be at least {len(first)}, the texts' characters and special "
            f"tokens, not {vocabulary_size}"
        )
    learner = tokenizers.Tokenizer(models.BPE(continuing_subword_prefix=_CONTINUES))
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The library's own trainer of word pieces numbers characters in an order that chance decides,
    # and breaks ties by it; numbered by us beforehand, the same texts give the same vocabulary.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=first,
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(
            learner.get_vocab(), unk_token=special.unk, continuing_subword_prefix=_CONTINUES
        )
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
    tokenizer.add_special_tokens(special.texts())
    return _finished(tokenizer, special)


def _pieces_of_one_character(texts: list[str], normalizer: normalizers.Normalizer) -> list[str]:
    """Every character of the texts, and once more as what goes on with a word if it can."""
    characters: set[str] = set()
    for text in texts:
        characters.update(normalizer.normalize_str(text))
    begin = sorted(character for character in characters if not character.isspace())
    words = pre_tokenizers.BertPreTokenizer()
    # A sign or a Chinese character, written twice, is two words.
    inside = [
        character
        for character in begin
        if len(words.pre_tokenize_str(normalizer.normalize_str(character * 2))) == 1
    ]
    return [*begin, *(_CONTINUES + character for character in inside)]


def _finished(tokenizer: tokenizers.Tokenizer, special: SpecialTokens) -> SubwordTokenizer:
    inputs = ["input_ids", "attention_mask"]
    if special.cls and special.sep:
        first, last = special.cls, special.sep
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(text, tokenizer.token_to_id(text)) for text in (first, last)],
        )
        inputs.insert(1, "token_type_ids")
    return SubwordTokenizer(
        tokenizer,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special.to_configuration(),
            "model_input_names": inputs,  # else transformers hands types to every model
            "clean_up_tokenization_spaces": False,
        },
    )
