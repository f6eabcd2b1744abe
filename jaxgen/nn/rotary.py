"""Rotary position embedding (RoFormer, Su et al. 2021)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Angles = tuple[Float[Array, "rows time half"], Float[Array, "rows time half"]]


def rotary_angles(positions: Int[Array, "rows time"], depth: int, base: float = 10000.0) -> Angles:
    """Cosine and sine of each position's angles, in float32.

    Pair i of a head's `depth` numbers turns by base^(-2i/depth) radians a position.
    """
    frequencies = base ** (-jnp.arange(0, depth, 2, dtype=jnp.float32) / depth)
    angles = positions[:, :, None].astype(jnp.float32) * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "batch time heads depth"], angles: Angles
) -> Float[Array, "batch time heads depth"]:
    """Turns each head's pairs (x[i], x[i + depth/2]) by their angles, RoFormer eq. 34.

    The pairs are halves apart, as GPT-NeoX, Llama and Hugging Face's weights have them, not
    neighbours as in the paper; the two differ by a permutation of the depth.
    """
    cosine, sine = (angle[:, :, None, :].astype(x.dtype) for angle in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
