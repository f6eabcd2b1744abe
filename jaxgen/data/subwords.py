"""Subword vocabularies as Hugging Face's directories hold them: byte pairs, word pieces, unigrams.

`subword_training.py` learns new ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Bool, Int32, Integer

from jaxgen.data.special_tokens import Role, SpecialTokens
from jaxgen.data.tokenizers import check_range, utf8
from jaxgen.errors import UserError

TOKENIZER = "tokenizer.json"
CONFIGURATION = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"  # of older directories, beside the configuration

# Merges, accents, digits, spaces and signs: two tokenizers that cut this alike, with one
# vocabulary, are taken for the same.
_PROBE = (
    "The quick brown FOX doesn't jump over 1,234,567.89 lazy dogs\n\n\tin Übergrößenträger; naïve "
    "café — “quoted” 東京 🙂   def f(x): return x**2 # unbelievably internationalization's"
)


@dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """Any tokenizer of Hugging Face's `tokenizers`, with its special tokens by name.

    tokenizer: neither cuts nor pads what it encodes.
    configuration: what `tokenizer_config.json` says, kept as it is.
    """

    tokenizer: tokenizers.Tokenizer
    configuration: Mapping[str, Any]

    @classmethod
    def from_directory(cls, directory: epath.PathLike) -> SubwordTokenizer:
        """Reads `tokenizer.json`, and what `tokenizer_config.json` says where it is there.

        Raises `UserError` where the former is missing, or one of them is damaged.
        """
        names = (TOKENIZER, CONFIGURATION, _SPECIAL_TOKENS)
        paths = [epath.Path(directory) / name for name in names]
        if not paths[0].exists():
            raise UserError(f"there is no {TOKENIZER} in {directory}: give a directory with one")
        files = {path.name: path.read_bytes() for path in paths if path.exists()}
        try:
            return cls.from_files(files)
        except UserError as error:
            raise UserError(f"the tokenizer in {directory} can't be used: {error}") from error

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> SubwordTokenizer:
        """The files' contents by name, as `files` gives and a run keeps them; others don't matter.

        Raises `UserError` where they are something else.
        """
        if TOKENIZER not in files:
            raise UserError(f"there is no {TOKENIZER} among {', '.join(files) or 'no files'}")
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(files[TOKENIZER])
        except Exception as error:  # the Rust side raises Exception itself
            raise UserError(f"this is no {TOKENIZER} of Hugging Face's: {error}") from error
        # Some directories ask for rows of one length, which would cut a corpus silently.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        older = _json(files, _SPECIAL_TOKENS)
        return cls(tokenizer, {**older, **_json(files, CONFIGURATION)})

    def files(self) -> dict[str, bytes]:
        """The contents of `tokenizer.json` and `tokenizer_config.json`."""
        configuration = json.dumps(self.configuration, indent=2, ensure_ascii=False)
        return {TOKENIZER: self.tokenizer.to_str().encode(), CONFIGURATION: configuration.encode()}

    def save(self, directory: epath.PathLike) -> None:
        """Writes `files` into a directory, which transformers' AutoTokenizer opens."""
        epath.Path(directory).mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (epath.Path(directory) / name).write_bytes(content)

    def __reduce__(self) -> tuple[Callable[..., SubwordTokenizer], tuple[dict[str, bytes]]]:
        return SubwordTokenizer.from_files, (self.files(),)

    @cached_property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1, special ones included."""
        return 1 + max(self.tokenizer.get_vocab().values())

    @cached_property
    def special(self) -> SpecialTokens:
        """The special tokens that the configuration names."""
        return SpecialTokens.from_configuration(self.configuration)

    @cached_property
    def special_tokens(self) -> tuple[int, ...]:
        """Every special token's number, ascending, whether it has a role or not."""
        added = self.tokenizer.get_added_tokens_decoder()
        numbers = {number for number, token in added.items() if token.special}
        named = (self.tokenizer.token_to_id(text) for text in self.special.texts())
        return tuple(sorted(numbers | {number for number in named if number is not None}))

    def special_token(self, role: Role) -> int:
        """The number of the token that plays a role; `UserError` where there is none."""
        text = self.special.roles().get(role)
        if text is None:
            known = ", ".join(self.special.roles()) or "none"
            raise UserError(
                f"the tokenizer names no {role} token ({known} is all that it has): say it in "
                f"{CONFIGURATION} as {role}_token"
            )
        return self.token(text)

    @property
    def ends(self) -> tuple[int, ...]:
        """The token that ends a text, where the configuration names one."""
        text = self.special.roles().get("eos")
        return () if text is None else (self.token(text),)

    def token(self, text: str) -> int:
        """The number of the token with just this text; `UserError` where there is none."""
        number = self.tokenizer.token_to_id(text)
        if number is None:
            raise UserError(f"the tokenizer has no token {text}: use or train one that has it")
        return number

    def encode(self, text: str, special: bool = False) -> Int32[np.ndarray, "size"]:
        """The tokens of a text, in which special tokens may be written out.

        special: adds what the tokenizer's template has around a text, such as [CLS] and [SEP].
        """
        utf8(text)
        return np.array(self.tokenizer.encode(text, add_special_tokens=special).ids, np.int32)

    def encode_ordinary(self, texts: Sequence[str]) -> list[Int32[np.ndarray, "_"]]:
        """The tokens of each text, none special: one that is spelled there is cut like any word."""
        for text in texts:
            utf8(text)
        encoded = self._ordinary.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encoded]

    def decode(self, tokens: Integer[np.ndarray, "size"], special: bool = True) -> str:
        """The text of some tokens, with the special ones written out or left out."""
        check_range(tokens, self.vocabulary_size)
        return self.tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=not special)

    @cached_property
    def continues_word(self) -> Bool[np.ndarray, "vocabulary"]:
        """Which tokens go on with the word before them; a word is them with what they go on with.

        Word pieces say it by their prefix ##. Others mark what begins a word: there all tokens
        that begin with a letter, a digit or part of a character go on, as a sign doesn't.
        """
        model = self.tokenizer.model
        continues = np.zeros(self.vocabulary_size, bool)
        for text, number in self.tokenizer.get_vocab().items():
            if isinstance(model, tokenizers.models.WordPiece):
                continues[number] = text.startswith(model.continuing_subword_prefix)
            else:
                # Ġ, Ċ, ĉ and č are the space and the line breaks of byte-level vocabularies.
                begins = text[:1] in "▁ĠĊĉč"
                continues[number] = not begins and (text[0].isalnum() or not text[0].isascii())
        continues[list(self.special_tokens)] = False
        return continues

    @cached_property
    def token_bytes(self) -> Int32[np.ndarray, "vocabulary"]:
        """How many bytes of UTF-8 each token of a byte-level vocabulary stands for; special ones 0.

        Raises `UserError` for another vocabulary, whose tokens don't say.
        """
        return np.array([len(spelling) for spelling in self.spellings], np.int32)

    @cached_property
    def spellings(self) -> tuple[bytes, ...]:
        """The bytes that each token of a byte-level vocabulary stands for; none for special ones.

        Raises `UserError` for another vocabulary, whose tokens don't say.
        """
        if not isinstance(self.tokenizer.decoder, tokenizers.decoders.ByteLevel):
            raise UserError(
                "only a byte-level vocabulary says which bytes a token stands for: train one by "
                "train_byte_pairs"
            )
        found = [b""] * self.vocabulary_size
        letters = _byte_letters()
        for text, number in self.tokenizer.get_vocab().items():
            if number not in self.special_tokens:
                # An added token is written as it is.
                spelt = all(letter in letters for letter in text)
                found[number] = (
                    bytes(letters[letter] for letter in text) if spelt else text.encode()
                )
        return tuple(found)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 of the numbered vocabulary and of how a fixed text is cut, in hexadecimal.

        Of what the tokenizer does, not of its file: libraries write the same one differently.
        """
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        known = json.dumps([vocabulary, self.tokenizer.encode(_PROBE).ids])
        return hashlib.sha256(known.encode()).hexdigest()

    def unchanged(self, known: str, checkpoint: str) -> SubwordTokenizer:
        """The same tokenizer; `UserError` unless it has the fingerprint kept by `checkpoint`."""
        if self.fingerprint != known:
            raise UserError(
                f"this tokenizer isn't the one of {checkpoint} (fingerprint "
                f"{self.fingerprint[:12]}…, the checkpoint's {known[:12]}…): use the "
                f"{TOKENIZER} that lies with the checkpoint"
            )
        return self

    def within(self, vocabulary_size: int, checkpoint: str) -> SubwordTokenizer:
        """The same tokenizer; `UserError` where it has tokens that `checkpoint`'s model lacks."""
        if self.vocabulary_size > vocabulary_size:
            raise UserError(
                f"this tokenizer has {self.vocabulary_size} tokens and isn't the one of "
                f"{checkpoint}, whose vocabulary has {vocabulary_size}: use the {TOKENIZER} that "
                f"lies with the checkpoint"
            )
        return self

    @cached_property
    def _ordinary(self) -> tokenizers.Tokenizer:
        copy = tokenizers.Tokenizer.from_str(self.tokenizer.to_str())
        copy.encode_special_tokens = True  # is said of the object, no file and no pickle keeps it
        return copy


def _byte_letters() -> dict[str, int]:
    """The letter that a byte-level vocabulary writes for each byte (GPT-2's table).

    Printable bytes stand for themselves, the others for the letters from 256 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    pairs = {chr(byte): byte for byte in printable}
    return pairs | {chr(256 + place): byte for place, byte in enumerate(others)}


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        content = json.loads(files.get(name, b"{}"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"its {name} is no JSON object: restore the file, or leave it out")
    return content
