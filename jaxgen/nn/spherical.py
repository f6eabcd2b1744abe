"""The way from one latent to another along the sphere that N(0, 1) latents lie on."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def spherical(
    start: Float[Array, "*latent"], end: Float[Array, "*latent"], places: Float[Array, "steps"]
) -> Float[Array, "steps *latent"]:
    """From `start` (place 0) to `end` (place 1) along a great circle (Shoemake 1985; White 2016).

    Lengths between the two ends' follow too, so that both ends are met exactly.
    """
    one, other = start.ravel(), end.ravel()
    cosine = one @ other / jnp.maximum(jnp.linalg.norm(one) * jnp.linalg.norm(other), 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    # Nearly parallel vectors have no great circle to speak of: there the straight way is the same.
    straight = jnp.sin(angle) < 1e-4
    sine = jnp.where(straight, 1.0, jnp.sin(angle))
    left = jnp.where(straight, 1 - places, jnp.sin((1 - places) * angle) / sine)
    right = jnp.where(straight, places, jnp.sin(places * angle) / sine)
    way = left[:, None] * one[None] + right[:, None] * other[None]
    return way.reshape(-1, *start.shape)
