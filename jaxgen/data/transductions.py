"""Pairs of a source and a target as rows of tokens, for encoder–decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Int32

from jaxgen.errors import UserError

Rows = Sequence[Int[np.ndarray, "_"]]


@dataclass(frozen=True)
class Transductions:
    """Item i is the i-th source and its target, each padded to one length.

    "source" (source_length,) and "tokens" (target_length + 2,) int32: `begin`, the target, `end`;
    "source_segments" and "mask" (target_length + 1,) tell padding, which is 0, from what counts.

    sources, targets: as many of each, without `begin` and `end`.
    source_length, target_length: room for the longest of each.

    Raises:
        UserError: for unequal numbers of them, none, or one that is empty or too long.
    """

    sources: Rows
    targets: Rows
    source_length: int
    target_length: int
    begin: int
    end: int
    _arrays: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.targets) or not len(self.sources):
            raise UserError(
                f"{len(self.sources)} sources and {len(self.targets)} targets make no pairs: give "
                "as many of each, and one at least."
            )
        source, source_there = padded(self.sources, self.source_length, "source")
        target, target_there = padded(self.targets, self.target_length, "target")
        sizes = target_there.sum(1)
        tokens = np.pad(target, ((0, 0), (1, 1)))
        tokens[:, 0] = self.begin
        tokens[np.arange(len(tokens)), sizes + 1] = self.end
        mask = np.arange(self.target_length + 1)[None, :] <= sizes[:, None]
        arrays = {
            "source": source, "source_segments": source_there, "tokens": tokens, "mask": mask,
        }  # fmt: skip
        object.__setattr__(self, "_arrays", arrays)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self._arrays.items()}


def padded(
    rows: Rows, length: int, called: str
) -> tuple[Int32[np.ndarray, "rows length"], Int32[np.ndarray, "rows length"]]:
    """Rows of one length, filled up with 0, and 1 where they are real.

    called: what a row is, for the `UserError` about one that is empty or too long.
    """
    tokens, there = (np.zeros((len(rows), length), np.int32) for _ in range(2))
    for number, row in enumerate(rows):
        if not 1 <= len(row) <= length:
            raise UserError(
                f"The {called} number {number} has {len(row)} tokens, and there is room for 1 to "
                f"{length}: shorten it, leave it out, or make more room."
            )
        tokens[number, : len(row)] = row
        there[number, : len(row)] = 1
    return tokens, there
