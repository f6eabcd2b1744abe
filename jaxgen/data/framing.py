"""Rows for an encoder: text between a first token and a last one, filled up with padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int, Integer

from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError


class Framed:
    """Documents cut into pieces side by side, each a row of its own: [CLS] piece [SEP] padding.

    Every token lies in exactly one row. Items, each leaf (length,) int32: "tokens"; "segments", 1
    where the row has text, its frame included, and 0 where it is padded.

    documents: token arrays, without special tokens; empty ones are left out.
    length: of a row; a piece has up to length - 2 tokens.
    first, last, padding: the tokens around a piece, such as [CLS] and [SEP], and behind it.
    """

    def __init__(
        self,
        documents: Sequence[Integer[np.ndarray, "_"]],
        length: int,
        first: int,
        last: int,
        padding: int,
    ) -> None:
        if length < 3:
            raise UserError(f"length must be at least 3, a token and its frame, not {length}")
        sizes = [len(document) for document in documents]
        if not sum(sizes):
            raise UserError("no document has any tokens, so there is nothing to frame")
        self.length = length
        self._around = first, last, padding
        self._tokens = np.concatenate([np.asarray(doc) for doc in documents]).astype(np.int32)
        starts, stops, end = [], [], 0
        for size in sizes:
            begin, end = end, end + size
            here = np.arange(begin, end, length - 2)
            starts.append(here)
            stops.append(np.minimum(here + length - 2, end))
        self._starts, self._stops = np.concatenate(starts), np.concatenate(stops)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        first, last, padding = self._around
        tokens = np.full((len(indices), self.length), padding, np.int32)
        segments = np.zeros_like(tokens)
        for row, index in enumerate(indices):
            piece = self._tokens[self._starts[index] : self._stops[index]]
            tokens[row, : len(piece) + 2] = [first, *piece, last]
            segments[row, : len(piece) + 2] = 1
        return {"tokens": tokens, "segments": segments}


def framed_texts(
    tokenizer: SubwordTokenizer, texts: Sequence[str | tuple[str, str]], length: int
) -> dict[str, np.ndarray]:
    """Texts, or pairs of them, in the tokenizer's own template: one a row, for an encoder.

    Each leaf (texts, length) int32: "tokens"; "segments", 1 for text and frame, 0 for padding;
    "types", 1 for a pair's second text. Longer ones are cut to `length`, a pair's longer text
    first. Padding is the tokenizer's `pad`, or 0 where it has none.
    Raises `UserError` where `length` doesn't hold the template, or there are no texts.
    """
    pairs = any(isinstance(text, tuple) for text in texts)
    smallest = 1 + tokenizer.tokenizer.num_special_tokens_to_add(pairs)
    if length < smallest:
        raise UserError(f"length must be at least {smallest}, the template's, not {length}")
    if not texts:
        raise UserError("there are no texts to frame")
    copy = tokenizers.Tokenizer.from_str(tokenizer.tokenizer.to_str())
    copy.enable_truncation(length)
    padding = tokenizer.special_token("pad") if tokenizer.special.pad else 0
    shape = (len(texts), length)
    tokens = np.full(shape, padding, np.int32)
    segments, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, encoding in enumerate(copy.encode_batch(list(texts))):
        here = slice(len(encoding.ids))
        tokens[row, here], segments[row, here] = encoding.ids, 1
        types[row, here] = encoding.type_ids
    return {"tokens": tokens, "segments": segments, "types": types}
