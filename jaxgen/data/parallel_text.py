"""Texts and what they become, cut by one tokenizer: translation, summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from jaxgen.data.shuffle import shuffled
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.transductions import PackedTransductions, Transductions

TextPair = tuple[str, str]  # a source and its target


@dataclass(frozen=True)
class ParallelText:
    """How pairs of texts become rows of tokens; pairs that don't fit are left out.

    room: tokens of a row's sources, and of its targets.
    target_room: of the targets, where it is another.
    cut: takes the beginning of a source that doesn't fit.
    """

    tokenizer: SubwordTokenizer
    room: int
    target_room: int | None = None
    cut: bool = False

    @property
    def end(self) -> int:
        """The token that stands before a target and after it."""
        return self.tokenizer.special_token("eos")

    @property
    def rooms(self) -> tuple[int, int]:
        """Tokens of a row's sources, and of its targets."""
        return self.room, self.room if self.target_room is None else self.target_room

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer."""
        return self.tokenizer.decode(np.array(tokens, np.int32))

    def source(self, text: str) -> Int32[np.ndarray, "size"]:
        """The tokens of a source."""
        return self._read([text])[0]

    def packed(self, pairs: Sequence[TextPair]) -> PackedTransductions:
        """All pairs, shuffled, as many to a row as there is room for: to train on."""
        _, sources, targets = self._short(
            [pairs[place] for place in shuffled(0, len(pairs), 0, len(pairs))]
        )
        return PackedTransductions(sources, targets, *self.rooms, self.end, self.end)

    def asked(self, pairs: Sequence[TextPair]) -> tuple[Transductions, list[TextPair]]:
        """The pairs that fit, in order, one to a row; and which those are."""
        kept, sources, targets = self._short(pairs)
        return Transductions(sources, targets, *self.rooms, self.end, self.end), kept

    def _read(self, sources: Sequence[str]) -> list[Int32[np.ndarray, "_"]]:
        tokens = self.tokenizer.encode_ordinary(sources)
        return [each[: self.room - 1] for each in tokens] if self.cut else tokens

    def _short(
        self, pairs: Sequence[TextPair]
    ) -> tuple[list[TextPair], list[Int32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]:
        sources, targets = zip(*pairs, strict=True)
        tokens = self._read(sources), self.tokenizer.encode_ordinary(targets)
        # In a packed row the target's end and beginning need one place beyond the room.
        short = [
            row
            for row in zip(pairs, *tokens, strict=True)
            if all(1 <= len(side) < room for side, room in zip(row[1:], self.rooms, strict=True))
        ]
        return [row[0] for row in short], [row[1] for row in short], [row[2] for row in short]
