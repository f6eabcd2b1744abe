"""Pictures at other resolutions: (batch, height, width, channels), no parameters."""

from __future__ import annotations

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
