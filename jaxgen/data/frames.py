"""Piano rolls as items: pieces of different lengths, padded to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxgen.errors import UserError


class FramePieces:
    """A piece an item: "frames" (length, keys) float32 of 0 and 1, and "mask" (length - 1,) bool.

    mask[t] says whether frame t + 1 is there to be predicted by those before it: the first frame of
    a piece is not (Bai et al. 2018's convention).

    pieces: at least one, each of at least two frames; else `UserError`.
    length: room for the longest; None is the longest's own. Of longer ones the beginning is taken.
    """

    def __init__(
        self, pieces: Sequence[Bool[np.ndarray, "_ keys"]], length: int | None = None
    ) -> None:
        if not pieces or min(map(len, pieces)) < 2:
            raise UserError("frames to predict need at least one piece, and two frames in each")
        length = max(map(len, pieces)) if length is None else length
        self._frames = np.zeros((len(pieces), length, pieces[0].shape[1]), np.float32)
        self._mask = np.zeros((len(pieces), length - 1), bool)
        for row, piece in enumerate(pieces):
            there = piece[:length]
            self._frames[row, : len(there)] = there
            self._mask[row, : len(there) - 1] = True

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        return {"frames": self._frames[indices], "mask": self._mask[indices]}


def transposed(
    item: dict[str, np.ndarray], generator: np.random.Generator, furthest: int = 6
) -> dict[str, np.ndarray]:
    """The same piece in another key, moved by at most `furthest` semitones where it fits.

    An `Augment` of `Shuffled`, which draws each move alike among those that lose no note.
    """
    keys = np.flatnonzero(item["frames"].any(0))
    if not len(keys):
        return item
    low, high = keys[0], keys[-1]
    moves = [
        move
        for move in range(-furthest, furthest + 1)
        if low + move >= 0 and high + move < item["frames"].shape[1]
    ]
    return {**item, "frames": np.roll(item["frames"], generator.choice(moves), axis=1)}
