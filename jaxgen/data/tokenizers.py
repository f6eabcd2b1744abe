"""Text to token arrays and back: characters, bytes, byte-level byte-pair encoding."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int32, Integer

from jaxgen.errors import UserError


@runtime_checkable
class Tokenizer(Protocol):
    """What an experiment on text asks of its tokenizer."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1."""
        ...

    def encode(self, text: str) -> Int32[np.ndarray, "size"]:
        """The tokens of a text."""
        ...

    def decode(self, tokens: Integer[np.ndarray, "size"]) -> str:
        """The text of some tokens."""
        ...


@dataclass(frozen=True)
class CharacterTokenizer:
    """One token a character, numbered in the order of their code points.

    characters: the vocabulary, ascending and each once; `from_text` collects it.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise UserError("a character tokenizer needs at least one character")
        if list(self.characters) != sorted(set(self.characters)):
            raise UserError(
                "a character tokenizer's vocabulary must be ascending, each character once"
            )

    @classmethod
    def from_text(cls, text: str) -> CharacterTokenizer:
        """The vocabulary of every character that occurs in `text`."""
        return cls("".join(sorted(set(text))))

    @classmethod
    def from_bytes(cls, content: bytes) -> CharacterTokenizer:
        """What `to_bytes` wrote; UserError where it is something else."""
        try:
            characters = json.loads(content)
        except ValueError:
            characters = None
        if not isinstance(characters, list) or not all(
            isinstance(character, str) and len(character) == 1 for character in characters
        ):
            raise UserError("a character tokenizer's JSON must be a list of single characters")
        return cls("".join(characters))

    def to_bytes(self) -> bytes:
        """The vocabulary as a JSON list, token after token."""
        return json.dumps(list(self.characters)).encode()

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1."""
        return len(self.characters)

    def encode(self, text: str) -> Int32[np.ndarray, "size"]:
        """The tokens of a text; UserError names a character that the vocabulary lacks."""
        known, points = _code_points(self.characters), _code_points(text)
        tokens = np.searchsorted(known, points)
        wrong = known[np.minimum(tokens, len(known) - 1)] != points
        if wrong.any():
            character = text[int(wrong.argmax())]
            raise UserError(
                f"the character {character!r} (U+{ord(character):04X}) is not among the "
                f"{len(self.characters)} that the tokenizer knows: leave it out"
            )
        return tokens.astype(np.int32)

    def decode(self, tokens: Integer[np.ndarray, "size"]) -> str:
        """The text of some tokens."""
        _check_range(tokens, self.vocabulary_size)
        points = _code_points(self.characters)[np.asarray(tokens, np.int64)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(frozen=True)
class ByteTokenizer:
    """One token a byte of UTF-8: nothing to learn, and nothing that it doesn't know."""

    @property
    def vocabulary_size(self) -> int:
        """256."""
        return 256

    def encode(self, text: str) -> Int32[np.ndarray, "size"]:
        """The bytes of a text."""
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int32)

    def decode(self, tokens: Integer[np.ndarray, "size"]) -> str:
        """The text of some bytes; what is no UTF-8, as a cut character, becomes U+FFFD."""
        _check_range(tokens, 256)
        return np.asarray(tokens).astype(np.uint8).tobytes().decode("utf-8", "replace")


@dataclass(frozen=True)
class BytePairTokenizer:
    """Byte-level byte-pair encoding (Radford et al., 2019, GPT-2), by Hugging Face `tokenizers`.

    tokenizer: any `tokenizers.Tokenizer`; one that `train` made decodes to exactly what it
        encoded, whatever the text.
    """

    tokenizer: tokenizers.Tokenizer

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int, special_tokens: tuple[str, ...] = ()
    ) -> BytePairTokenizer:
        """Learns merges from `texts`, up to `vocabulary_size` tokens in all.

        special_tokens: such as "<|endoftext|>", never split; they come first in the vocabulary.
        """
        smallest = 256 + len(special_tokens)
        if vocabulary_size < smallest:
            raise UserError(
                f"vocabulary_size must be at least {smallest}, the bytes and special tokens, "
                f"not {vocabulary_size}"
            )
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=list(special_tokens),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def from_file(cls, path: epath.PathLike) -> BytePairTokenizer:
        """Reads a `tokenizer.json` of Hugging Face's format."""
        file = epath.Path(path)
        if not file.exists():
            raise UserError(f"the tokenizer {path} doesn't exist: give a tokenizer.json")
        try:
            return cls.from_bytes(file.read_bytes())
        except UserError as error:
            raise UserError(f"{path} can't be used: {error}") from error

    @classmethod
    def from_bytes(cls, content: bytes) -> BytePairTokenizer:
        """The content of a `tokenizer.json`; UserError where it is something else."""
        try:
            return cls(tokenizers.Tokenizer.from_buffer(content))
        except Exception as error:  # the Rust side raises Exception itself
            raise UserError(f"this is no tokenizer.json of Hugging Face's: {error}") from error

    def to_bytes(self) -> bytes:
        """The content of a `tokenizer.json`, which Hugging Face's libraries read too."""
        return self.tokenizer.to_str().encode()

    def save(self, path: epath.PathLike) -> None:
        """Writes a `tokenizer.json` that `from_file`, and Hugging Face's libraries, read."""
        epath.Path(path).write_bytes(self.to_bytes())

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1, special ones included."""
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> Int32[np.ndarray, "size"]:
        """The tokens of a text, with no start or end added."""
        _utf8(text)
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Integer[np.ndarray, "size"]) -> str:
        """The text of some tokens, special ones written out."""
        _check_range(tokens, self.vocabulary_size)
        return self.tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has half a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 can't hold: read the text with its right encoding"
        ) from error


def _check_range(tokens: np.ndarray, vocabulary_size: int) -> None:
    tokens = np.asarray(tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary_size:
        raise UserError(
            f"tokens must lie in 0 .. {vocabulary_size - 1}, these reach from {tokens.min()} "
            f"to {tokens.max()}"
        )
