"""Where the vectors that a layer is given stand, and what stands beside them."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxgen.nn.key_value_cache import CacheRoom


@flax.struct.dataclass
class Places:
    """Where the vectors of one call stand, and what stands beside them; the same for all layers.

    positions: each vector's place in its own text, (1 or batch, time).
    segments: vectors of unequal segments don't see each other (packed texts), (batch, time); 0 is
        padding.
    lengths: how much of each row there is, (batch,), where the rest is padding that no segments
        tell of.
    offset: the place in the cache of each row's first vector, (batch,); the cache holds those
        before it. None: the call begins at place 0 and reads no cache.
    room: makes a new cache, of the vectors from place 0 on.
    bias: added to the scores of self-attention, (1 or batch, heads, time, positions).
    memory: what cross-attention looks at, (batch, sources, width); not needed where a cache holds
        its keys and values.
    memory_segments: which of it, as `segments` for both sides: (batch, time), (batch, sources).
    """

    positions: Any
    segments: Any = None
    lengths: Any = None
    offset: Any = None
    room: CacheRoom | None = flax.struct.field(pytree_node=False, default=None)
    bias: Any = None
    memory: Any = None
    memory_segments: Any = None

    @property
    def real(self) -> Bool[Array, "batch time"] | None:
        """False for padding; None where there is none."""
        if self.lengths is not None:
            return jnp.arange(self.positions.shape[1])[None, :] < self.lengths[:, None]
        return None if self.segments is None else self.segments != 0
