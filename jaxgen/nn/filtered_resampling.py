"""Doubling and halving pictures through the filter [1, 3, 3, 1], which keeps aliases out.

The resampling of StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of
StyleGAN", arXiv 1912.04958, section 3.1), after Zhang 2019, "Making Convolutional Networks
Shift-Invariant Again". Beyond its border a picture is zero. The filter is worked out along one axis
after the other as a sum of four shifted pictures, which becomes one loop, where a convolution of
each channel by itself is slow on CPUs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.convolution import Picture

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def filtered(
    picture: Picture, padding: int, stride: int = 1
) -> Float[Array, "batch rows columns channels"]:
    """Each pixel becomes a weighted mean of 4×4 pixels.

    padding: zeros on all four sides; an axis of n pixels has n + 2·padding - 3 places.
    stride: of these places, every so many are kept.
    """
    for axis in (1, 2):
        widths = [(padding, padding) if each == axis else (0, 0) for each in range(picture.ndim)]
        padded = jnp.pad(picture, widths)
        places = padded.shape[axis] - len(TAPS) + 1
        shifted = (
            tap * jax.lax.slice_in_dim(padded, first, first + places, stride, axis)
            for first, tap in enumerate(TAPS)
        )
        picture = sum(shifted, start=jnp.zeros((), picture.dtype))
    return picture


def filtered_half(
    picture: Picture,
) -> Float[Array, "batch height//2 width//2 channels"]:
    """Filters, and keeps every second pixel of every second row.

    Raises `UserError` for an odd height or width.
    """
    refuse_odd(picture)
    return filtered(picture, 1, 2)


def filtered_double(picture: Picture) -> Float[Array, "batch 2*height 2*width channels"]:
    """Puts zeros between pixels and filters with four times the weight, so that means stay.

    Each new pixel is then made of 2×2 old ones, weighted 3 to 1 along each axis by nearness.
    """
    for axis in (1, 2):
        size = picture.shape[axis]
        padded = jnp.pad(picture, [(int(each == axis),) * 2 for each in range(picture.ndim)])
        before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        pair = jnp.stack([0.25 * before + 0.75 * picture, 0.75 * picture + 0.25 * after], axis + 1)
        shape = list(picture.shape)
        shape[axis] = 2 * size
        picture = pair.reshape(shape)
    return picture


def refuse_odd(picture: Picture) -> None:
    """Raises `UserError` for a picture whose height or width can't be halved."""
    _, height, width, _ = picture.shape
    if height % 2 or width % 2:
        raise UserError(
            f"A picture of {height}×{width} pixels can't be halved: take fewer halvings, or "
            "pictures whose sides are multiples of more twos."
        )
