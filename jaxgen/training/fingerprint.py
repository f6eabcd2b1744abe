"""A checksum of arrays that is the same on every mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def fingerprint(tree: Any) -> list[int]:
    """One 32-bit number a leaf: the sum of its bits, each word weighted by its place.

    Integer sums modulo 2³² don't depend on their order, so shards may be summed wherever they
    lie; odd weights make every single changed word show.
    """
    return [int(number) for number in jax.device_get(_fingerprints(jax.tree.leaves(tree)))]


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> list[jax.Array]:
    # Optimizer states may lie in the host's memory, where nothing is computed.
    return [_weighted_sum(jax.device_put(leaf, jax.memory.Space.Device)) for leaf in leaves]


def _weighted_sum(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.bool_):
        words = leaf.astype(jnp.uint32)
    else:
        bits = 8 * leaf.dtype.itemsize
        if bits > 32:  # 64-bit: an extra axis of 32-bit words
            words = lax.bitcast_convert_type(leaf, jnp.uint32)
        else:
            words = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        # Knuth's multiplicative constant, another odd one for each axis.
        constant = np.uint32((2654435761 * (2 * axis + 1)) % 2**32)
        place = place + lax.broadcasted_iota(jnp.uint32, words.shape, axis) * constant
    return jnp.sum(words * (place * np.uint32(2) + np.uint32(1)), dtype=jnp.uint32)
