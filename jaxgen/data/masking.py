"""Masked-language items: some tokens are hidden, and a network guesses what they were.

Devlin et al. 2019, "BERT", appendix A.1; drawn anew at each look, as in Liu et al. 2019
("RoBERTa").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from jaxgen.data.sources import Item
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError

if TYPE_CHECKING:  # the contracts live beside jax, which no worker should pay for
    from jaxgen.experiment import Items


@dataclass(frozen=True, eq=False)
class Masking:
    """An augmentation for `Shuffled`: chooses tokens to be guessed, and hides most of them.

    Of an item's ordinary tokens, `rate` of them, rounded and at least one, are chosen. Each is
    replaced by `mask` (`masked` of the time) or by any ordinary token (`randomized` of the time),
    or stays what it is. Special tokens and padding are never chosen, nor drawn as replacement.

    mask: the token that hides.
    vocabulary_size: tokens are 0 .. vocabulary_size - 1.
    special: tokens to leave alone, `mask` among them or not.
    continues: (vocabulary,), which tokens go on with the word before; then whole words are chosen,
        as many as fit into `rate`, at least one. None: tokens, each by itself.
    """

    mask: int
    vocabulary_size: int
    special: tuple[int, ...]
    rate: float = 0.15
    masked: float = 0.8
    randomized: float = 0.1
    continues: Bool[np.ndarray, "vocabulary"] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"rate must lie above 0 and be at most 1, not {self.rate}")
        if min(self.masked, self.randomized) < 0 or self.masked + self.randomized > 1:
            raise UserError(
                f"masked and randomized must be shares of the chosen tokens that add up to at most "
                f"1, not {self.masked} and {self.randomized}"
            )
        known = range(self.vocabulary_size)
        wrong = [token for token in (self.mask, *self.special) if token not in known]
        if wrong or not len(self._ordinary):
            raise UserError(
                f"a vocabulary of {self.vocabulary_size} tokens must hold the mask and all special "
                f"tokens, {wrong or self.special} here, and ordinary ones"
            )

    @classmethod
    def of(
        cls, tokenizer: SubwordTokenizer, rate: float = 0.15, whole_words: bool = False
    ) -> Masking:
        """BERT's 80, 10 and 10 % by a tokenizer's special tokens; `UserError` without a mask."""
        return cls(
            tokenizer.special_token("mask"),
            tokenizer.vocabulary_size,
            tokenizer.special_tokens,
            rate,
            continues=tokenizer.continues_word if whole_words else None,
        )

    def __call__(self, item: Item, generator: np.random.Generator) -> Item:
        """Takes "tokens" (length,) and optionally "segments" (length,), 0 where there is padding.

        Gives "tokens" as the network sees them, "targets" (length,) as they were, "chosen"
        (length,) bool where they are to be guessed; other leaves stay.
        """
        tokens = item["tokens"]
        segments = item.get("segments", np.ones_like(tokens))
        candidates = (segments != 0) & self._is_ordinary[tokens]
        places = np.flatnonzero(candidates)
        count = max(1, round(self.rate * len(places)))
        if self.continues is None:
            places = generator.permutation(places)[:count]
        elif len(places):
            begins = ~self.continues[tokens[places]]
            # A word ends, too, where something special or another text comes between.
            begins[1:] |= np.diff(places) > 1
            begins[1:] |= np.diff(segments[places]) != 0
            places = _words(places, begins, count, generator)
        chosen = np.zeros(tokens.shape, bool)
        chosen[places] = True
        fate = generator.random(len(places))
        drawn = self._ordinary[generator.integers(len(self._ordinary), size=len(places))]
        seen = np.where(fate < self.masked + self.randomized, drawn, tokens[places])
        corrupted = tokens.copy()
        corrupted[places] = np.where(fate < self.masked, self.mask, seen)
        return {**item, "tokens": corrupted, "targets": tokens, "chosen": chosen}

    @cached_property
    def _is_ordinary(self) -> Bool[np.ndarray, "vocabulary"]:
        ordinary = np.ones(self.vocabulary_size, bool)
        inside = [t for t in (self.mask, *self.special) if 0 <= t < self.vocabulary_size]
        ordinary[inside] = False
        return ordinary

    @cached_property
    def _ordinary(self) -> Int[np.ndarray, "ordinary"]:
        return np.flatnonzero(self._is_ordinary).astype(np.int32)


@dataclass(frozen=True)
class Masked:
    """Items with one fixed masking each, decided by `seed` and the item's place: to score on.

    items: with "tokens" and, where rows are padded, "segments", as `Masking` takes them.
    seed: not negative.
    """

    items: Items
    masking: Masking
    seed: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        batch = self.items[indices]
        masked = []
        for row, index in enumerate(indices):
            generator = np.random.default_rng([self.seed, int(index)])
            item = {name: leaf[row] for name, leaf in batch.items()}
            masked.append(self.masking(item, generator))
        return {name: np.stack([item[name] for item in masked]) for name in masked[0]}


def _words(
    places: Int[np.ndarray, "candidates"],
    begins: Bool[np.ndarray, "candidates"],
    count: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "chosen"]:
    """The places of whole words, drawn until `count` are full; one that doesn't fit is left."""
    starts = np.flatnonzero(begins)
    if not len(starts) or starts[0] != 0:
        starts = np.concatenate([[0], starts])
    stops = np.append(starts[1:], len(places))
    order = generator.permutation(len(starts))
    taken, room = [], count
    for word in order:
        size = stops[word] - starts[word]
        if size <= room:
            taken.append(places[starts[word] : stops[word]])
            room -= size
            if not room:
                break
    if not taken:  # no word is that short
        taken = [places[starts[order[0]] : stops[order[0]]]]
    return np.concatenate(taken)
