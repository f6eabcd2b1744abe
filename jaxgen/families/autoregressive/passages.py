"""Between texts and arrays: prompts as rows of tokens, and what was written as text again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Integer, UInt8

from jaxgen.artifacts import Text
from jaxgen.errors import UserError


@runtime_checkable
class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1; a model may have more, which are never drawn."""
        ...

    @property
    def spellings(self) -> Sequence[bytes]:
        """The bytes that each token stands for in a text; none for a special one."""
        ...

    @property
    def ends(self) -> Sequence[int]:
        """The tokens with which a text is complete."""
        ...

    def encode(self, text: str) -> Any:
        """The tokens of a text, (size,) integers."""
        ...

    def decode(self, tokens: Any) -> str:
        """The text of some tokens."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and the tokens that end a text, which are never shown."""

    tokenizer: Tokenizer
    ends: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self.tokenizer.vocabulary_size

    def agrees(self, other: Vocabulary) -> bool:
        """Whether the other one's tokens mean the same."""
        return (self.size, self.tokenizer.spellings) == (other.size, other.tokenizer.spellings)


def as_bytes(texts: Sequence[str]) -> UInt8[np.ndarray, "size"]:
    """Texts as one array, for `rendered`."""
    return np.frombuffer("\0".join(texts).encode(), np.uint8)


def prompts(
    said: Sequence[Integer[np.ndarray, "_"]], context: int | None
) -> tuple[Int[np.ndarray, "prompts width"], Int[np.ndarray, "prompts"]]:
    """Rows of tokens, and how many of each row are its prompt.

    The width is a power of two, 64 at least, where there is room, so that prompts of similar
    lengths share a compiled program.

    Raises:
        UserError: for an empty prompt, and for one that fills the context.
    """
    rows = [np.asarray(tokens, np.int32) for tokens in said]
    for number, row in enumerate(rows):
        which = "The prompt" if len(rows) == 1 else f"Prompt {number + 1} of {len(rows)}"
        if not len(row):
            raise UserError(f"{which} is empty: give at least one character to go on from.")
        if context is not None and len(row) > context:
            raise UserError(
                f"{which} has {len(row)} tokens and the model's context is {context}: shorten it."
            )
    longest = max(map(len, rows))
    width = max(64, 1 << (longest - 1).bit_length())
    width = width if context is None else min(width, context)
    padded = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    return padded, np.array([len(row) for row in rows], np.int32)


def rendered(vocabulary: Vocabulary, drawn: Any) -> Text:
    """The passages of {"tokens", "begins", "lengths", "stops", "shown"}, without what ended them.

    They begin with their prompts, or with what is shown in place of each prompt.
    """
    stops, shown = (_texts(drawn[name]) for name in ("stops", "shown"))
    tokenizer, passages, told, sizes = vocabulary.tokenizer, [], [], []
    rows = [np.asarray(drawn[name]) for name in ("tokens", "begins", "lengths")]
    for number, (row, begin, end) in enumerate(zip(*rows, strict=True)):
        sizes.append(int(end - begin))
        if end > begin and row[end - 1] in vocabulary.ends:
            end -= 1
        if shown:
            # Of each prompt there are as many rows.
            prompt = shown[number * len(shown) // len(rows[0])]
            text = prompt + tokenizer.decode(row[begin:end])
        else:
            prompt, text = tokenizer.decode(row[:begin]), tokenizer.decode(row[:end])
        # The first of the stop strings; the beginning doesn't count.
        places = [place for stop in stops if (place := text.find(stop, len(prompt))) >= 0]
        told.append(prompt)
        passages.append(text[: min(places, default=len(text))])
    return Text(tuple(passages), tuple(told), tuple(sizes))


def _texts(joined: Any) -> list[str]:
    return [text for text in bytes(np.asarray(joined)).decode().split("\0") if text]
