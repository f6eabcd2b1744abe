"""Text to token arrays and back: characters, bytes; `subwords.py` has larger units."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Integer

from jaxgen.errors import UserError

_AT_ONCE = 1 << 22  # tokens


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
    def spellings(self) -> tuple[bytes, ...]:
        """Each character's bytes of UTF-8."""
        return tuple(one.encode("utf-8", "surrogatepass") for one in self.characters)

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1."""
        return len(self.characters)

    @property
    def ends(self) -> tuple[int, ...]:
        """No character ends a text."""
        return ()

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
        check_range(tokens, self.vocabulary_size)
        points = _code_points(self.characters)[np.asarray(tokens, np.int64)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(frozen=True)
class ByteTokenizer:
    """One token a byte of UTF-8: nothing to learn, and nothing that it doesn't know."""

    @property
    def vocabulary_size(self) -> int:
        """256."""
        return 256

    @property
    def spellings(self) -> tuple[bytes, ...]:
        """Each byte."""
        return tuple(bytes([byte]) for byte in range(256))

    @property
    def ends(self) -> tuple[int, ...]:
        """No byte ends a text."""
        return ()

    def encode(self, text: str) -> Int32[np.ndarray, "size"]:
        """The bytes of a text."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def decode(self, tokens: Integer[np.ndarray, "size"]) -> str:
        """The text of some bytes; what is no UTF-8, as a cut character, becomes U+FFFD."""
        check_range(tokens, 256)
        return np.asarray(tokens).astype(np.uint8).tobytes().decode("utf-8", "replace")


def checked(
    tokens: Integer[np.ndarray, "*shape"], vocabulary_size: int, source: str
) -> Integer[np.ndarray, "*shape"]:
    """The same tokens; `UserError` names the first that the vocabulary lacks, and its place.

    tokens: any integer type, a memory map included, of which little is held at once.
    source: what they come from, such as a file's name.
    """
    flat = tokens.reshape(-1)
    if np.iinfo(flat.dtype).min == 0 and np.iinfo(flat.dtype).max < vocabulary_size:
        return tokens  # no such token can be written
    for start in range(0, flat.size, _AT_ONCE):
        part = np.asarray(flat[start : start + _AT_ONCE])
        wrong = (part < 0) | (part >= vocabulary_size)
        if wrong.any():
            place = int(wrong.argmax())
            raise UserError(
                f"{source} has the token {part[place]} at place {start + place}, but the "
                f"vocabulary's tokens are 0 .. {vocabulary_size - 1}: tokenize it with the "
                f"model's own tokenizer"
            )
    return tokens


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def utf8(text: str) -> bytes:
    """A text's bytes; `UserError` where it can't have any."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has half a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 can't hold: read the text with its right encoding"
        ) from error


def check_range(tokens: np.ndarray, vocabulary_size: int) -> None:
    """Raises `UserError` for tokens that no vocabulary of that size has."""
    tokens = np.asarray(tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary_size:
        raise UserError(
            f"tokens must lie in 0 .. {vocabulary_size - 1}, these reach from {tokens.min()} "
            f"to {tokens.max()}"
        )
