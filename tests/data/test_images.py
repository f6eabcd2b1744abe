"""Pictures decode exactly, and augmentations do what their names say."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import images

PICTURE = np.arange(24, dtype=np.float32).reshape(4, 6, 1) / 12 - 1


@pytest.mark.parametrize(("shape", "channels"), [((5, 7), 1), ((5, 7, 3), 3)])
def test_png_round_trips(shape, channels):
    levels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(levels).save(encoded, "PNG")
    np.testing.assert_array_equal(images.pixels(encoded.getvalue()), levels.reshape(5, 7, channels))


@pytest.mark.parametrize("highest", [16, 255])
def test_levels_go_to_minus_one_to_one_and_back(highest):
    levels = np.arange(highest + 1).astype(np.uint8)
    signed = images.to_signed(levels, highest)
    assert signed.dtype == np.float32
    assert (signed[0], signed[-1]) == (-1, 1)
    np.testing.assert_array_equal(np.rint(images.to_unit(signed) * highest), levels)


def test_flip_mirrors_half_of_them():
    flipped = 0
    for seed in range(400):
        item = {"image": PICTURE, "label": np.int32(3)}
        changed = images.RandomFlip()(item, np.random.default_rng(seed))
        assert changed["label"] == 3
        if (changed["image"] == PICTURE[:, ::-1]).all():
            flipped += 1
        else:
            np.testing.assert_array_equal(changed["image"], PICTURE)
    assert 150 < flipped < 250  # five standard deviations


def test_shift_reaches_every_offset_and_fills_with_black():
    seen = set()
    for seed in range(200):
        shift = images.RandomShift(1)
        moved = shift({"image": PICTURE}, np.random.default_rng(seed))["image"]
        assert moved.shape == PICTURE.shape
        matches = []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                wanted = np.full_like(PICTURE, -1)
                wanted[max(down, 0) : 4 + min(down, 0), max(right, 0) : 6 + min(right, 0)] = (
                    PICTURE[max(-down, 0) : 4 - max(down, 0), max(-right, 0) : 6 - max(right, 0)]
                )
                if (wanted == moved).all():
                    matches.append((down, right))
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 9


def test_in_turn_draws_from_one_generator():
    both = images.InTurn((images.RandomFlip(), images.RandomShift(1)))
    generator = np.random.default_rng(5)
    item = images.RandomFlip()({"image": PICTURE}, generator)
    by_hand = images.RandomShift(1)(item, generator)
    at_once = both({"image": PICTURE}, np.random.default_rng(5))
    np.testing.assert_array_equal(at_once["image"], by_hand["image"])
