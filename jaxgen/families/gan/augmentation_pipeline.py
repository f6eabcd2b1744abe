"""The pipeline of adaptive augmentation: what happens to each picture with a probability.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Key
from jaxgen.families.gan.parts import Scalar

Pictures = Float[Array, "batch height width channels"]
Picture = Float[Array, "height width channels"]

# The low-pass filter of the symlet with 6 vanishing moments (Daubechies 1992, table 6.3).
SYMLET = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
REACH = len(SYMLET) // 2 - 1  # doubled pixels that a pixel's own filter begins before it
# Where the filter's weight lies, from there: the place of pixel 0 on the doubled picture.
PHASE = sum(k * weight for k, weight in enumerate(SYMLET)) / sum(SYMLET) - REACH


@dataclass(frozen=True)
class Pipeline:
    """Each change happens with the probability, by itself and to each picture by itself.

    Pictures are square where they turn. What comes in from outside is the picture's reflection.
    Image-space filtering isn't here: the paper's own choice leaves it out.

    blits: flips left to right, turns by 90°, shifts by whole pixels up to an eighth of the side.
    geometry: scaling, turning, stretching and shifting between pixels, on twice the resolution.
    colour: brightness, contrast, luma flip, hue and saturation; grey pictures have no last two.
    noise: standard deviation of a half-normal one for that of the noise; 0: none (the paper: 0.1).
    cutout: side of a square that is blanked, as a share of the picture's; 0: none (the paper: 0.5).
    """

    blits: bool = True
    geometry: bool = True
    colour: bool = True
    noise: float = 0.0
    cutout: float = 0.0

    def __call__(self, key: Key, pictures: Pictures, probability: Scalar) -> Pictures:
        """Changed pictures; `UserError` where they aren't square, or neither grey nor RGB."""
        _, height, width, channels = pictures.shape
        if (self.blits or self.geometry) and height != width:
            raise UserError(
                f"Pictures of {height}×{width} can't be turned: augment square ones, or leave out "
                "blits and geometry."
            )
        if self.colour and channels not in (1, 3):
            raise UserError(
                f"The colours of {channels} channels can't be augmented: take 1 or 3, or leave "
                "colour out."
            )
        change = functools.partial(self._one, jax.lax.stop_gradient(probability))
        return jax.vmap(change)(jax.random.split(key, len(pictures)), pictures)

    def _one(self, p: Scalar, key: Key, picture: Picture) -> Picture:
        blits, geometry, colour, noise, hole = jax.random.split(key, 5)
        if self.blits:
            picture = _blitted(blits, picture, p)
        if self.geometry:
            picture = _moved(geometry, picture, p)
        if self.colour:
            picture = _coloured(colour, picture, p)
        if self.noise:
            chosen, spread, grain = jax.random.split(noise, 3)
            sigma = self.noise * jnp.abs(jax.random.normal(spread))
            grains = sigma * jax.random.normal(grain, picture.shape)
            picture = picture + jnp.where(_chosen(chosen, p), grains, 0.0)
        if self.cutout:
            chosen, place = jax.random.split(hole)
            picture = jnp.where(_chosen(chosen, p), masked(place, picture, self.cutout), picture)
        return picture


def flipped_and_turned(picture: Picture, flip: Any, turns: Any) -> Picture:
    """Left to right where `flip`, then `turns` quarters counter-clockwise (0 .. 3)."""
    picture = jnp.where(flip, picture[:, ::-1], picture)
    return jax.lax.select_n(turns, *(jnp.rot90(picture, quarters) for quarters in range(4)))


def reflected_shift(picture: Picture, down: Any, right: Any) -> Picture:
    """Shifted by whole pixels; the border is a mirror that isn't repeated."""
    height, width, _ = picture.shape
    rows = _folded(jnp.arange(height) - down, height - 1)
    columns = _folded(jnp.arange(width) - right, width - 1)
    return picture[rows][:, columns]


def shifted(picture: Picture, down: Any, right: Any) -> Picture:
    """Shifted by whole pixels; what comes in is grey (0)."""
    for axis, shift in enumerate((down, right)):
        size = picture.shape[axis]
        place = jnp.arange(size) - shift
        inside = ((place >= 0) & (place < size)).reshape((-1, 1) if axis == 0 else (1, -1))
        moved = jnp.take(picture, jnp.clip(place, 0, size - 1), axis)
        picture = jnp.where(inside[..., None], moved, 0.0)
    return picture


def masked(key: Key, picture: Picture, share: float) -> Picture:
    """A square of `share` of the sides, its middle anywhere in the picture, is grey (0)."""
    inside = []
    for axis, size in zip(jax.random.split(key), picture.shape[:2], strict=True):
        side = int(size * share + 0.5)
        # The middle of an even square lies between pixels, so that it has one more place.
        first = jax.random.randint(axis, (), 0, size + (1 - side % 2)) - side // 2
        place = jnp.arange(size)
        inside.append((place >= first) & (place < first + side))
    hole = inside[0][:, None] & inside[1][None]
    return jnp.where(hole[..., None], 0.0, picture)


def transformed(picture: Picture, inverse: Float[Array, "2 3"]) -> Picture:
    """A picture under a linear map and a shift, sampled at twice its resolution.

    inverse: (x, y, 1) of the answer to (x, y) of the picture, in pixels from its middle. Between
    the symlet and its transpose an unmoved picture stays the same, up to the border.
    """
    side = picture.shape[0]
    up, down = _doubling(side)
    fine = jnp.einsum("ai,bj,ijc->abc", up, up, picture)
    # The places that the way back looks at: beyond the doubled picture on both sides.
    middle = (side - 1) / 2
    place = (jnp.arange(2 * side + 2 * REACH) - REACH - PHASE) / 2 - middle
    x, y = jnp.meshgrid(place, place)
    # Beyond the border the picture is its own mirror, from the middles of the outermost pixels.
    across, along = (
        2 * _folded(row[0] * x + row[1] * y + row[2] + middle, side - 1.0) + PHASE
        for row in (inverse[0], inverse[1])
    )
    fine = _between(fine, along, across)
    return jnp.einsum("ia,jb,abc->ijc", down, down, fine)


def _blitted(key: Key, picture: Picture, p: Scalar) -> Picture:
    keys = jax.random.split(key, 6)
    flip = _chosen(keys[0], p) & jax.random.bernoulli(keys[1])
    turns = jnp.where(_chosen(keys[2], p), jax.random.randint(keys[3], (), 0, 4), 0)
    shift = jax.random.uniform(keys[5], (2,), minval=-0.125, maxval=0.125) * picture.shape[0]
    down, right = jnp.where(_chosen(keys[4], p), jnp.round(shift).astype(jnp.int32), 0)
    return reflected_shift(flipped_and_turned(picture, flip, turns), down, right)


def _moved(key: Key, picture: Picture, p: Scalar) -> Picture:
    choose, draw = jax.random.split(key)
    # Two turns, before and after the stretch, which together happen with probability p.
    turn = 1 - jnp.sqrt(jnp.clip(1 - p, 0.0, 1.0))
    chosen = jax.random.uniform(choose, (5,)) < jnp.stack([p, turn, p, turn, p])
    normal, angles, shift = jax.random.split(draw, 3)
    zoom, stretch = jnp.exp2(0.2 * jax.random.normal(normal, (2,)))
    before, after = jax.random.uniform(angles, (2,), minval=-jnp.pi, maxval=jnp.pi)
    shift = 0.125 * picture.shape[0] * jax.random.normal(shift, (2,))
    # From the answer back to the picture: the last step is undone first.
    zoom = jnp.where(chosen[0], zoom, 1.0)
    linear = _scaling(1 / zoom, 1 / zoom)
    linear = linear @ _turning(jnp.where(chosen[1], -before, 0.0))
    stretch = jnp.where(chosen[2], stretch, 1.0)
    linear = linear @ _scaling(1 / stretch, stretch)
    linear = linear @ _turning(jnp.where(chosen[3], -after, 0.0))
    moved = -(linear @ jnp.where(chosen[4], shift, 0.0))
    answer = transformed(picture, jnp.concatenate([linear, moved[:, None]], axis=1))
    return jnp.where(jnp.any(chosen), answer, picture)


def _coloured(key: Key, picture: Picture, p: Scalar) -> Picture:
    choose, draw = jax.random.split(key)
    chosen = jax.random.uniform(choose, (5,)) < p
    normal, coin, angle = jax.random.split(draw, 3)
    brightness, contrast, saturation = jax.random.normal(normal, (3,))
    add = jnp.where(chosen[0], 0.2 * brightness, 0.0)
    factor = jnp.where(chosen[1], jnp.exp2(0.5 * contrast), 1.0)
    flips = chosen[2] & jax.random.bernoulli(coin)
    turn = jnp.where(chosen[3], jax.random.uniform(angle, minval=-jnp.pi, maxval=jnp.pi), 0.0)
    vivid = jnp.where(chosen[4], jnp.exp2(saturation), 1.0)
    if picture.shape[-1] == 1:  # all on the grey axis, where hue and saturation do nothing
        return jnp.where(flips, -1.0, 1.0) * factor * (picture + add)
    answer = recoloured(picture, add, factor, flips, turn, vivid)
    return jnp.where(jnp.any(chosen), answer, picture)  # to the last bit


def recoloured(
    picture: Picture, add: Any, factor: Any, flips: Any, turn: Any, vivid: Any
) -> Picture:
    """Brightness, contrast, luma flip, then hue turned (radians) and saturation multiplied.

    The flip mirrors the grey part of each colour, and the last two change what is beside it.
    """
    brighter = factor * (picture + add)
    luma = jnp.mean(brighter, axis=-1, keepdims=True)
    beside = brighter - luma
    # Rodrigues' rotation about (1, 1, 1)/√3, of what is at a right angle to that axis.
    crossed = (jnp.roll(beside, -2, axis=-1) - jnp.roll(beside, -1, axis=-1)) / jnp.sqrt(3.0)
    beside = jnp.cos(turn) * beside + jnp.sin(turn) * crossed
    return jnp.where(flips, -luma, luma) + vivid * beside


def _chosen(key: Key, p: Scalar) -> Any:
    return jax.random.uniform(key) < p


def _scaling(x: Any, y: Any) -> Array:
    return jnp.diag(jnp.stack([x, y]))


def _turning(angle: Any) -> Array:
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])


def _folded(place: Any, last: Any) -> Any:
    """Any place on the line to one in 0 .. `last`, as between two mirrors."""
    round_trip = jnp.mod(place, 2 * last)
    return jnp.minimum(round_trip, 2 * last - round_trip)


def _between(picture: Picture, rows: Any, columns: Any) -> Float[Array, "rows columns channels"]:
    """Bilinear sampling at places (rows, columns), all within the picture."""
    last = picture.shape[0] - 2
    above = jnp.clip(jnp.floor(rows).astype(jnp.int32), 0, last)
    left = jnp.clip(jnp.floor(columns).astype(jnp.int32), 0, last)
    down, right = (rows - above)[..., None], (columns - left)[..., None]
    upper = picture[above, left] * (1 - right) + picture[above, left + 1] * right
    lower = picture[above + 1, left] * (1 - right) + picture[above + 1, left + 1] * right
    return upper * (1 - down) + lower * down


@functools.cache
def _doubling(side: int) -> tuple[np.ndarray, np.ndarray]:
    """(2 side, side), pixels to half pixels; and back from those and `REACH` more on either side.

    The symlet's even shifts are orthonormal, so that the second undoes the first.
    """
    up = np.zeros((2 * side, side), np.float32)
    down = np.zeros((side, 2 * side + 2 * REACH), np.float32)
    for i in range(-3, side + 3):
        pixel = abs(i) if i < side else 2 * (side - 1) - i
        for k, weight in enumerate(SYMLET):
            fine = 2 * i + k - REACH
            if 0 <= fine < 2 * side:
                up[fine, pixel] += weight
            if 0 <= i < side:
                down[i, fine + REACH] = weight
    return up, down
