"""Stacked digits: a thousand classes that can be counted, to see how many a model forgets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from jaxgen.data.shuffle import shuffled
from jaxgen.data.sources import Item
from jaxgen.errors import UserError

if TYPE_CHECKING:  # the contracts live beside jax, which no worker should pay for
    from jaxgen.experiment import Items

_CHANNELS = 3
_PLACES = np.array([100, 10, 1])


@dataclass(frozen=True)
class Stacked:
    """Three grey digits as the three channels of one picture, framed in black.

    Metz et al. 2017 ("Unrolled Generative Adversarial Networks"); a mode is a label of the 1,000.
    "image" (height + 2·padding, width + 2·padding, 3) as the digits' numbers, "label" int32: 100
    times the first channel's digit, 10 times the second's, and the third's.

    Item i is decided by the seed and i alone: its digits are 3·i to 3·i + 2 of an endless sequence
    of permutations of all digits, so that each is used as often as any other.

    digits: items with an "image" (height, width, 1) and a "label" 0 .. 9; keep them in memory.
    size: how many stacks there are, at least 1; 128,000 are those of PacGAN (Lin et al. 2018).
    padding: pixels of -1 on each side; 2 makes MNIST's 28×28 what four halvings need, 32×32.
    """

    digits: Items
    size: int = 128_000
    seed: int = 0
    padding: int = 2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"there must be at least one stack of digits, not {self.size}")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        chosen = self._chosen[indices]
        taken = self.digits[chosen.reshape(-1)]
        layers = taken["image"].reshape(len(indices), _CHANNELS, *taken["image"].shape[1:3])
        frame = (self.padding, self.padding)
        pictures = np.pad(layers, ((0, 0), (0, 0), frame, frame), constant_values=-1)
        digits = taken["label"].reshape(len(indices), _CHANNELS)
        return {
            "image": np.ascontiguousarray(np.moveaxis(pictures, 1, -1)),
            "label": (digits @ _PLACES).astype(np.int32),
        }

    def labels(self, rows: int = 1024) -> Int[np.ndarray, "size"]:
        """The labels of all stacks; each digit in them is read once, `rows` of them at a time."""
        used, where = np.unique(self._chosen, return_inverse=True)
        pieces = (used[start : start + rows] for start in range(0, len(used), rows))
        known = np.concatenate([self.digits[piece]["label"] for piece in pieces])
        return known[where.reshape(self._chosen.shape)] @ _PLACES

    def __reduce__(self) -> tuple[type[Stacked], tuple[Items, int, int, int]]:
        return Stacked, (self.digits, self.size, self.seed, self.padding)

    @cached_property
    def _chosen(self) -> Int[np.ndarray, "size 3"]:
        places = shuffled(self.seed, len(self.digits), 0, _CHANNELS * self.size)
        return places.reshape(self.size, _CHANNELS)
