"""Coordinates as waves, which lets small networks see narrow things."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def fourier_features(
    inputs: int, waves: int, deviation: float, seed: int = 0
) -> Callable[[Float[Array, "batch {inputs}"]], Float[Array, "batch 2*{waves}"]]:
    """A fixed map of points to sin(Bx) and cos(Bx), B drawn once from N(0, deviation²).

    Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low
    Dimensional Domains", section 6. Their 2π is part of the deviation here.

    inputs: numbers of a point; waves: how many B has rows.
    deviation: in radians per unit of the points; its inverse is about what can be told apart.
    """
    drawn = np.random.default_rng(seed).normal(0, deviation, (inputs, waves)).astype(np.float32)

    def seen(points: Float[Array, "batch inputs"]) -> Float[Array, "batch features"]:
        phases = points @ drawn
        return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)

    return seen
