"""Pictures as models see them, float32 in [-1, 1], and what may be done to them while training."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from jaxgen.data.sources import Augment, Item


def pixels(encoded: bytes) -> UInt8[np.ndarray, "height width channels"]:
    """Decodes a PNG, JPEG or other picture of 8 bits a channel; grey ones get one channel."""
    with Image.open(io.BytesIO(encoded)) as picture:
        levels = np.asarray(picture, np.uint8)
    return levels if levels.ndim == 3 else levels[..., None]


def to_signed(levels: Shaped[np.ndarray, "*shape"], highest: int = 255) -> np.ndarray:
    """Levels 0 .. `highest` to float32 in [-1, 1]."""
    return levels.astype(np.float32) / np.float32(highest / 2) - np.float32(1)


def to_unit(signed: Float32[np.ndarray, "*shape"]) -> np.ndarray:
    """[-1, 1] to [0, 1], clipped: what `jaxgen.artifacts.Images` shows."""
    return np.clip((signed + np.float32(1)) / np.float32(2), 0, 1)


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors an item's "image" left to right, with probability a half."""

    def __call__(self, item: Item, generator: np.random.Generator) -> Item:
        """Takes and returns "image" (height, width, channels); other leaves stay."""
        if generator.random() < 0.5:
            return item
        return {**item, "image": item["image"][:, ::-1]}


@dataclass(frozen=True)
class RandomShift:
    """Shifts an item's "image" by up to `pixels` each way: a crop of the padded picture.

    fill: what comes in at the border; -1 is black in [-1, 1].
    """

    pixels: int
    fill: float = -1.0

    def __call__(self, item: Item, generator: np.random.Generator) -> Item:
        """Takes and returns "image" (height, width, channels); other leaves stay."""
        image, reach = item["image"], self.pixels
        height, width, _ = image.shape
        top, left = generator.integers(0, 2 * reach + 1, 2)
        # np.pad does the same in four times the time.
        padded = np.full(
            (height + 2 * reach, width + 2 * reach, image.shape[2]), self.fill, image.dtype
        )
        padded[reach : reach + height, reach : reach + width] = image
        return {**item, "image": padded[top : top + height, left : left + width]}


@dataclass(frozen=True)
class InTurn:
    """Several augmentations as one, each drawing from the item's generator in turn."""

    augments: tuple[Augment, ...]

    def __call__(self, item: Item, generator: np.random.Generator) -> Item:
        """Takes and returns an item."""
        for augment in self.augments:
            item = augment(item, generator)
        return item
