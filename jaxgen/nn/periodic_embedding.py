"""A vector for each place of a period: of a bar, of a step's voices, of a row of pixels."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.embedding import looked_up
from jaxgen.parallel.sharding import gathered


class PeriodicEmbedding(nn.Module):
    """A learned vector for a position's remainder, so that any position has one.

    It tells where in the beat, or which voice, a token stands; beside rotary positions, which tell
    distances. (DeepBach is told the sixteenth of the beat in the same way, Hadjeres et al. 2017.)
    """

    period: int
    width: int
    initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, positions: Int[Array, "rows time"]) -> Float[Array, "rows time width"]:
        """The positions' vectors."""
        table: Any = self.param(
            "embedding",
            nn.with_logical_partitioning(self.initializer, (None, "embed")),
            (self.period, self.width),
            jnp.float32,
        )
        table = gathered(table.astype(self.dtype), (None, "embed"))
        return looked_up(table, positions % self.period)
