"""Pictures at other resolutions: (batch, height, width, channels), no parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError

Picture = Float[Array, "batch height width channels"]


def enlarged(
    picture: Picture, factor: int = 2
) -> Float[Array, "batch {factor}*height {factor}*width channels"]:
    """Each pixel becomes a `factor`×`factor` square (nearest neighbour)."""
    batch, height, width, channels = picture.shape
    shape = (batch, height, factor, width, factor, channels)
    spread = jnp.broadcast_to(picture[:, :, None, :, None, :], shape)
    return spread.reshape(batch, factor * height, factor * width, channels)


def averaged(
    picture: Picture, factor: int = 2
) -> Float[Array, "batch height//{factor} width//{factor} channels"]:
    """Each `factor`×`factor` square becomes one pixel, its mean; undoes `enlarged`."""
    return _squares(picture, factor).mean((2, 4))


def interpolated(picture: Picture) -> Float[Array, "batch 2*height 2*width channels"]:
    """Twice the height and width, bilinearly; beyond the border lie zeros.

    Each new pixel is 3/4 of the old one that it lies in and 1/4 of that one's neighbour, which is
    `enlarged` and then filtered by [1, 2, 1] / 4 each way.
    """
    return _doubled(_doubled(picture, 1), 2)


def smoothed(picture: Picture) -> Float[Array, "batch height//2 width//2 channels"]:
    """Half the height and width, through the filter [1, 3, 3, 1] / 8 each way.

    A quarter of `interpolated`'s transpose: zeros beyond the border. Raises `UserError` for an odd
    height or width.
    """
    return _halved(_halved(picture, 1), 2)


def folded(
    picture: Picture, factor: int = 2
) -> Float[Array, "batch height//{factor} width//{factor} {factor}*{factor}*channels"]:
    """Each `factor`×`factor` square becomes one pixel with all of its numbers, row by row."""
    squares = _squares(picture, factor).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(*squares.shape[:3], -1)


def unfolded(
    picture: Picture, factor: int = 2
) -> Float[Array, "batch {factor}*height {factor}*width channels//{factor}**2"]:
    """Each pixel becomes a square of `factor`² pixels, made of its own channels; undoes `folded`.

    The sub-pixel layer of Shi et al. 2016 (arXiv 1609.05158): behind a convolution, each place of
    the square has weights of its own. Raises `UserError` unless `factor`² divides the channels.
    """
    batch, height, width, channels = picture.shape
    if channels % factor**2:
        raise UserError(
            f"{channels} channels don't fill squares of {factor}×{factor} pixels: take a multiple "
            f"of {factor**2}."
        )
    squares = picture.reshape(batch, height, width, factor, factor, channels // factor**2)
    spread = squares.transpose(0, 1, 3, 2, 4, 5)
    return spread.reshape(batch, factor * height, factor * width, -1)


def _doubled(picture: Picture, axis: int) -> Float[Array, "batch _ _ channels"]:
    before, after = _neighbours(picture, axis)
    pair = jnp.stack([before + 3 * picture, 3 * picture + after], axis + 1) / 4
    shape = list(picture.shape)
    shape[axis] *= 2
    return pair.reshape(shape)


def _halved(picture: Picture, axis: int) -> Float[Array, "batch _ _ channels"]:
    size = picture.shape[axis]
    if size % 2:
        raise UserError(
            f"{size} pixels can't be halved: take pictures whose height and width are even."
        )
    shape = [*picture.shape[:axis], size // 2, 2, *picture.shape[axis + 1 :]]
    even, odd = jnp.moveaxis(picture.reshape(shape), axis + 1, 0)
    before, after = _neighbours(odd, axis)[0], _neighbours(even, axis)[1]
    return (before + 3 * even + 3 * odd + after) / 8


def _neighbours(picture: Picture, axis: int) -> tuple[Picture, Picture]:
    """(the pixel before, the pixel after) along an axis, zeros beyond the border."""
    size = picture.shape[axis]
    padding = [(0, 0)] * picture.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(picture, padding)
    return (
        jax.lax.slice_in_dim(padded, 0, size, axis=axis),
        jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis),
    )


def _squares(
    picture: Picture, factor: int
) -> Float[Array, "batch rows {factor} columns {factor} channels"]:
    batch, height, width, channels = picture.shape
    if height % factor or width % factor:
        raise UserError(
            f"Squares of {factor}×{factor} pixels don't fit pictures of {height}×{width}: take one "
            "that divides both."
        )
    return picture.reshape(batch, height // factor, factor, width // factor, factor, channels)
