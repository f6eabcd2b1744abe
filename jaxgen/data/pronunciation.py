"""A pronouncing dictionary as tokens: letters, phonemes, and what stands around an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32

from jaxgen.data.pairs import Pronounced
from jaxgen.data.shuffle import shuffled
from jaxgen.data.transductions import PackedTransductions, Transductions
from jaxgen.errors import UserError

PADDING, BEGIN, END = range(3)  # the first tokens; letters and then phonemes follow


@dataclass(frozen=True)
class PronunciationTokens:
    """The tokens of words and of their pronunciations, in one vocabulary.

    letters, phonemes: each once, in the order of their tokens.
    """

    letters: tuple[str, ...]
    phonemes: tuple[str, ...]

    @classmethod
    def from_entries(cls, entries: Sequence[Pronounced]) -> PronunciationTokens:
        """Whatever occurs in some entries."""
        letters = {letter for entry in entries for letter in entry.word}
        phonemes = {one for entry in entries for way in entry.pronunciations for one in way}
        return cls(tuple(sorted(letters)), tuple(sorted(phonemes)))

    @classmethod
    def from_bytes(cls, content: bytes) -> PronunciationTokens:
        """What `to_bytes` wrote."""
        letters, phonemes = json.loads(content)
        return cls(tuple(letters), tuple(phonemes))

    def to_bytes(self) -> bytes:
        """Letters and phonemes as two JSON lists."""
        return json.dumps([self.letters, self.phonemes]).encode()

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return 3 + len(self.letters) + len(self.phonemes)

    def word(self, text: str) -> Int32[np.ndarray, "letters"]:
        """A word's letters, whatever their case; `UserError` names one that isn't known."""
        return self._numbers(text.upper(), self._of_letters, f"the word {text!r}")

    def pronunciation(self, phonemes: Sequence[str]) -> Int32[np.ndarray, "phonemes"]:
        """A pronunciation's phonemes; `UserError` names one that isn't known."""
        return self._numbers(phonemes, self._of_phonemes, " ".join(phonemes))

    def text(self, tokens: Sequence[int]) -> str:
        """An answer's phonemes, with a blank between them."""
        symbols = ["_", "<", ">", *self.letters, *self.phonemes]
        return " ".join(symbols[token] for token in tokens)

    def right(self, entries: Sequence[Pronounced]) -> list[list[list[int]]]:
        """All right answers to each word, as tokens."""
        return [
            [self.pronunciation(way).tolist() for way in entry.pronunciations] for entry in entries
        ]

    def packed(self, entries: Sequence[Pronounced], room: int) -> PackedTransductions:
        """Every pronunciation of every word, shuffled, `room` letters and phonemes to a row."""
        pairs = [(entry.word, way) for entry in entries for way in entry.pronunciations]
        pairs = [pairs[place] for place in shuffled(0, len(pairs), 0, len(pairs))]
        words, ways = zip(*pairs, strict=True)
        sources, targets = [self.word(w) for w in words], [self.pronunciation(w) for w in ways]
        return PackedTransductions(sources, targets, room, room, BEGIN, END)

    def every(self, entries: Sequence[Pronounced], letters: int, phonemes: int) -> Transductions:
        """Every pronunciation of every word, one to a row."""
        pairs = [(entry.word, way) for entry in entries for way in entry.pronunciations]
        return self._rows(pairs, letters, phonemes)

    def asked(self, entries: Sequence[Pronounced], letters: int, phonemes: int) -> Transductions:
        """Every word, with its first pronunciation, one to a row."""
        pairs = [(entry.word, entry.pronunciations[0]) for entry in entries]
        return self._rows(pairs, letters, phonemes)

    def _rows(
        self, pairs: Sequence[tuple[str, Sequence[str]]], letters: int, phonemes: int
    ) -> Transductions:
        words, ways = zip(*pairs, strict=True)
        sources, targets = [self.word(w) for w in words], [self.pronunciation(w) for w in ways]
        return Transductions(sources, targets, letters, phonemes, BEGIN, END)

    @cached_property
    def _of_letters(self) -> dict[str, int]:
        return {letter: 3 + place for place, letter in enumerate(self.letters)}

    @cached_property
    def _of_phonemes(self) -> dict[str, int]:
        first = 3 + len(self.letters)
        return {phoneme: first + place for place, phoneme in enumerate(self.phonemes)}

    def _numbers(
        self, symbols: Sequence[str], known: dict[str, int], told: str
    ) -> Int32[np.ndarray, "symbols"]:
        for symbol in symbols:
            if symbol not in known:
                raise UserError(
                    f"{symbol!r} in {told} is none of the {len(known)} that the dictionary has: "
                    "spell it otherwise."
                )
        return np.array([known[symbol] for symbol in symbols], np.int32)
