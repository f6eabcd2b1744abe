"""Projection: the latent whose picture comes nearest to a given one, by going down the slope.

Zhu et al. 2016, "Generative Visual Manipulation on the Natural Image Manifold", section 4.1, by
optimization; Karras et al. 2020 (StyleGAN2), appendix D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.families.gan.parts import Latent, Things

Distances = Float[Array, "batch"]
Distance = Callable[[Things, Things], Distances]  # of each pair of rows, 0 for equal ones


def squared_error(one: Things, other: Things) -> Distances:
    """The mean over pixels and channels of the squared difference."""
    return jnp.mean(jnp.square(one - other), axis=tuple(range(1, one.ndim)))


def with_features(
    features: Callable[[Things], Float[Array, "batch *features"]], weight: float = 1.0
) -> Distance:
    """`squared_error` of the pixels, and `weight` times that of the features a network sees."""

    def distance(one: Things, other: Things) -> Distances:
        return squared_error(one, other) + weight * squared_error(features(one), features(other))

    return distance


def project(
    make: Callable[[Latent], Things],
    pictures: Things,
    starts: Float[Array, "starts batch *latent"],
    *,
    steps: int,
    rate: Any,
    distance: Distance = squared_error,
) -> tuple[Latent, Distances]:
    """For each picture, the best latent found from any of its starts, and its distance.

    Adam, its rate falling to 0 by half a cosine. Rows don't touch each other, so that a picture's
    latent doesn't depend on the others beside it.

    make: (rows of latents) -> rows of pictures; row s · batch + i begins at `starts[s, i]`.
    rate: the highest; a number, or a scalar array.
    """
    count = len(starts)
    adam = optax.adam(lambda step: rate * 0.5 * (1 + jnp.cos(jnp.pi * step / steps)))

    def distances(latent: Latent) -> Distances:
        wanted = jnp.tile(pictures, (len(latent) // len(pictures),) + (1,) * (pictures.ndim - 1))
        return distance(make(latent), wanted)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        latent, state = carry
        slope = jax.grad(lambda latent: jnp.sum(distances(latent)))(latent)
        moves, state = adam.update(slope, state, latent)
        return (optax.apply_updates(latent, moves), state), None

    begun = starts.reshape(-1, *starts.shape[2:])
    (ended, _), _ = jax.lax.scan(step, (begun, adam.init(begun)), None, steps)
    # The starts count as well: one may have been nearer than where Adam went astray from it.
    found = jnp.concatenate([begun, ended])
    apart = distances(found).reshape(2 * count, -1)
    best = jnp.argmin(jnp.nan_to_num(apart, nan=jnp.inf), axis=0)
    rows = jnp.arange(len(pictures))
    return found.reshape(2 * count, -1, *starts.shape[2:])[best, rows], apart[best, rows]
