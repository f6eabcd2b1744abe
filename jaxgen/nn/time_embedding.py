"""Embeddings of continuous time."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def sinusoidal_embedding(
    time: Float[Array, "batch"], width: int, longest: float = 10_000.0
) -> Float[Array, "batch width"]:
    """Cosines, then sines, of time at width/2 frequencies from 1 down to 1/longest.

    The positional encoding of Vaswani et al. 2017 (section 3.5), as DDPM uses it for time. The
    frequencies suit times in [0, 1000]: scale other times to about that range. `width` is even.
    """
    frequencies = jnp.exp(
        -jnp.log(longest) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
    )
    angles = time.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
