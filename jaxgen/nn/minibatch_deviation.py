"""What a discriminator may see of the other pictures beside one: how much they differ.

Karras et al. 2018, "Progressive Growing of GANs" (arXiv 1710.10196), section 3, in the groups of
StyleGAN (Karras et al. 2019).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.convolution import Picture


def group_size(rows: int, most: int) -> int:
    """The largest number up to `most` that divides the rows: 1 where they are a larger prime."""
    return max(size for size in range(1, min(rows, most) + 1) if rows % size == 0)


def with_minibatch_deviation(
    picture: Picture, group: int = 4
) -> Float[Array, "batch height width channels+1"]:
    """Adds a channel, the same all over: the standard deviation within a group of pictures.

    That of each number over the group, and its mean over all numbers of a picture. Neighbouring
    rows are a group. All groups are of the same size, the largest up to `group` that divides the
    batch; a picture alone in its group gets 0.
    """
    rows, height, width, _ = picture.shape
    size = group_size(rows, group)
    values = picture.astype(jnp.float32).reshape(rows // size, size, -1)
    variance = jnp.square(values - values.mean(1, keepdims=True)).mean(1)
    # The root's own slope is infinite at 0, where equal pictures are.
    deviation = (jnp.sqrt(variance + 1e-8) - 1e-4).mean(1)
    channel = jnp.broadcast_to(
        jnp.repeat(deviation, size)[:, None, None, None], (rows, height, width, 1)
    )
    return jnp.concatenate([picture, channel.astype(picture.dtype)], -1)
