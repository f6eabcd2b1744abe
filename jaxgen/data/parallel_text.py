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
    """

    tokenizer: SubwordTokenizer
    room: int

    @property
    def end(self) -> int:
        """The token that stands before a target and after it."""
        return self.tokenizer.special_token("eos")

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer."""
        return self.tokenizer.decode(np.array(tokens, np.int32))

    def packed(self, pairs: Sequence[TextPair]) -> PackedTransductions:
        """All pairs, shuffled, as many to a row as there is room for: to train on."""
        _, sources, targets = self._short(
            [pairs[place] for place in shuffled(0, len(pairs), 0, len(pairs))]
        )
        return PackedTransductions(sources, targets, self.room, self.room, self.end, self.end)

    def asked(self, pairs: Sequence[TextPair]) -> tuple[Transductions, list[TextPair]]:
        """The pairs that fit, in order, one to a row; and which those are."""
        kept, sources, targets = self._short(pairs)
        rows = Transductions(sources, targets, self.room, self.room, self.end, self.end)
        return rows, kept

    def _short(
        self, pairs: Sequence[TextPair]
    ) -> tuple[list[TextPair], list[Int32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]:
        sides = zip(*pairs, strict=True)
        rows = zip(pairs, *(self.tokenizer.encode_ordinary(side) for side in sides), strict=True)
        # In a packed row the target's end and beginning need one place beyond the room.
        short = [row for row in rows if all(1 <= len(side) < self.room for side in row[1:])]
        return [row[0] for row in short], [row[1] for row in short], [row[2] for row in short]
