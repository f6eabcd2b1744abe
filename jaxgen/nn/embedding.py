"""Tables of learned vectors: one a token, one a position."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenEmbedding(nn.Module):
    """A vector for each token of the vocabulary; the same table may score the next token."""

    vocabulary: int
    width: int
    initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """One table (vocabulary, width)."""
        self.embedding: Any = self.param(
            "embedding",
            nn.with_logical_partitioning(self.initializer, ("vocab", "embed")),
            (self.vocabulary, self.width),
            jnp.float32,
        )

    def __call__(self, tokens: Int[Array, "*rows"]) -> Float[Array, "*rows width"]:
        """The tokens' vectors."""
        return jnp.take(self.embedding.astype(self.dtype), tokens, axis=0)

    def scores(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Products with every token's vector, in float32: tied weights (Press & Wolf 2017)."""
        # Flattened for the same reason as in `Linear`.
        scores = jnp.einsum(
            "nd,vd->nv",
            x.astype(self.dtype).reshape(-1, self.width),
            self.embedding.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return scores.reshape(*x.shape[:-1], self.vocabulary)


class PositionEmbedding(nn.Module):
    """A vector for each position up to `length`, as GPT-2 learns them."""

    length: int
    width: int
    initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, positions: Int[Array, "rows time"]) -> Float[Array, "rows time width"]:
        """The positions' vectors."""
        table: Any = self.param(
            "embedding",
            nn.with_logical_partitioning(self.initializer, (None, "embed")),
            (self.length, self.width),
            jnp.float32,
        )
        return jnp.take(table.astype(self.dtype), positions, axis=0)
