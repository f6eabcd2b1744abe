"""Positions as something added to the scores of attention: ALiBi, and T5's learned distances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Bias = Float[Array, "rows heads time positions"]
# (query positions (rows, time), key positions (1 or rows, positions), heads) -> what is added
PositionBias = Callable[[Array, Array, int], Bias]


def alibi(
    queries: Int[Array, "rows time"], keys: Int[Array, "places positions"], heads: int
) -> Float[Array, "rows heads time positions"]:
    """Minus each head's slope times the distance (ALiBi, Press et al. 2022, section 3)."""
    distance = jnp.abs(queries[:, None, :, None] - keys[:, None, None, :])
    return -jnp.asarray(alibi_slopes(heads))[None, :, None, None] * distance.astype(jnp.float32)


def alibi_slopes(heads: int) -> Float[np.ndarray, "heads"]:
    """2^(-8/n), 2^(-16/n), ... for n heads, n a power of 2; else as its authors' code fills up.

    For another number they take the slopes of the next lower power of 2, and every other one of
    the next higher.
    """
    lower = 2 ** int(math.log2(heads))
    slopes = 2.0 ** (-8 / lower * np.arange(1, lower + 1))
    between = 2.0 ** (-8 / (2 * lower) * np.arange(1, 2 * lower + 1, 2))
    return np.concatenate([slopes, between[: heads - lower]]).astype(np.float32)


class RelativePositionBias(nn.Module):
    """A learned number for each head and bucket of distances, shared by all layers (T5).

    Raffel et al. 2020, section 2.1: half of the buckets for single distances, the rest growing
    logarithmically up to `furthest`, beyond which all distances share one. Where attention looks
    both ways, each way has half of the buckets.
    """

    heads: int
    both_ways: bool
    buckets: int = 32
    furthest: int = 128
    initializer: Any = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self, queries: Int[Array, "rows time"], keys: Int[Array, "places positions"]
    ) -> Float[Array, "rows heads time positions"]:
        """What is added to the scores, in float32."""
        table: Any = self.param(
            "embedding",
            nn.with_logical_partitioning(self.initializer, (None, "heads")),
            (self.buckets, self.heads),
            jnp.float32,
        )
        bucket = self.bucket(keys[:, None, :] - queries[:, :, None])
        # One product with a small table, so that its gradient is one too.
        chosen = jax.nn.one_hot(bucket, self.buckets, dtype=jnp.float32)
        return jnp.einsum("rtsb,bh->rhts", chosen, table, precision=jax.lax.Precision.HIGHEST)

    def bucket(self, ahead: Int[Array, "rows time positions"]) -> Int[Array, "rows time positions"]:
        """The bucket of each distance; `ahead` counts from the query to the key."""
        buckets, first = self.buckets, jnp.zeros_like(ahead)
        if self.both_ways:
            buckets //= 2
            first = jnp.where(ahead > 0, buckets, 0)
            distance = jnp.abs(ahead)
        else:
            distance = jnp.maximum(-ahead, 0)
        exact = buckets // 2
        growth = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        steps = growth / math.log(self.furthest / exact) * (buckets - exact)
        far = jnp.minimum(exact + steps.astype(jnp.int32), buckets - 1)
        return first + jnp.where(distance < exact, distance, far)
