"""A long text scored with a context before every token: windows that overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer

from jaxgen.data.token_files import TokenFile
from jaxgen.errors import UserError, at_least_one


@dataclass(frozen=True)
class Strided:
    """The full pass over a text, each token but the first predicted once, by much of what precedes.

    Windows begin every `stride` tokens, and of each but the first only the last `stride`
    predictions count, those that the window before has not made: at least length - stride + 1
    tokens are seen before each (the "context window" of Baevski & Auli 2019 is length - stride).
    It takes length / stride times the pass over `Blocks`, which it is where both are the same.

    Item i has "tokens" (length + 1,) int32 from i·stride on, the last padded with 0, and "mask"
    (length,) bool: mask[t] says whether the prediction of tokens[t + 1] counts.

    tokens: (size,), any integer type, or a file of them; size of at least 2.
    length: tokens predicted in an item, the model's context.
    stride: from one window to the next, in 1 .. length.
    """

    tokens: Integer[np.ndarray, "size"] | TokenFile
    length: int
    stride: int

    def __post_init__(self) -> None:
        at_least_one(length=self.length, stride=self.stride)
        if self.stride > self.length:
            raise UserError(
                f"a stride of {self.stride} tokens would leave some out of windows of "
                f"{self.length}: take at most that"
            )
        if len(self.tokens) < 2:
            raise UserError(f"a text of {len(self.tokens)} tokens has nothing to predict")

    def __len__(self) -> int:
        after_the_first = max(0, len(self.tokens) - 1 - self.length)
        return 1 + -(-after_the_first // self.stride)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        rows = np.asarray(indices)[:, None]
        places = rows * self.stride + np.arange(self.length + 1)
        there = places < len(self.tokens)
        tokens = self.tokens[np.where(there, places, 0)].astype(np.int32)
        new = (rows == 0) | (np.arange(self.length) >= self.length - self.stride)
        return {"tokens": np.where(there, tokens, np.int32(0)), "mask": there[:, 1:] & new}
