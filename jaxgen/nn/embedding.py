"""A vector for each token and each position: learned tables, and sinusoids."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.parallel.sharding import gathered


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

    def _table(self) -> Float[Array, "vocabulary width"]:
        return gathered(jnp.asarray(self.embedding, self.dtype), ("vocab", "embed"))

    def __call__(self, tokens: Int[Array, "*rows"]) -> Float[Array, "*rows width"]:
        """The tokens' vectors."""
        return looked_up(self._table(), tokens)

    def scores(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Products with every token's vector, in float32: tied weights (Press & Wolf 2017)."""
        # Flattened for the same reason as in `Linear`.
        scores = jnp.einsum(
            "nd,vd->nv",
            x.astype(self.dtype).reshape(-1, self.width),
            self._table(),
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
        return looked_up(gathered(table.astype(self.dtype), (None, "embed")), positions)


class SinusoidalPositions(nn.Module):
    """Sines and cosines of wavelengths from 2π to 10000·2π (Vaswani et al. 2017, section 3.5)."""

    width: int
    dtype: Any = jnp.float32

    def __call__(self, positions: Int[Array, "rows time"]) -> Float[Array, "rows time width"]:
        """The positions' vectors, a sine and its cosine side by side."""
        wavelengths = 10000.0 ** (jnp.arange(0, self.width, 2) / self.width)
        angles = positions[:, :, None].astype(jnp.float32) / wavelengths[None, None, :]
        pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return pairs.reshape(*positions.shape, -1)[..., : self.width].astype(self.dtype)


_FEW_ROWS = 4096


@jax.custom_vjp
def looked_up(
    table: Float[Array, "entries width"], indices: Int[Array, "*rows"]
) -> Float[Array, "*rows width"]:
    """The table's rows at `indices`.

    The gradient of a short table is a matrix product: adding up row by row, thousands of rows would
    wait for each other at the same few entries (four fifths of a character model's step on a GPU),
    and would add in another order each time. A long table is added up row by row. Forward mode
    (`jax.jvp`) has no derivative of it.
    """
    return jnp.take(table, indices, axis=0)


def _looked_up(table: Array, indices: Array) -> tuple[Array, tuple[Array, Array]]:
    return looked_up(table, indices), (table, indices)


def _spread(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    table, indices = kept
    entries, width = table.shape
    rows = gradient.reshape(-1, width)
    if entries > _FEW_ROWS:
        # In float32, whatever the table is in: in bfloat16, 256 and 1 are 256.
        summed = jnp.zeros(table.shape, jnp.float32)
        summed = summed.at[indices.ravel()].add(rows.astype(jnp.float32))
        return summed.astype(table.dtype), None
    chosen = jax.nn.one_hot(indices.ravel(), entries, dtype=gradient.dtype)
    # Exact: one factor is 0 or 1, and no row may lose digits to the other's format.
    exact = jax.lax.Precision.HIGHEST
    summed = jnp.dot(chosen.T, rows, precision=exact, preferred_element_type=jnp.float32)
    return summed.astype(table.dtype), None


looked_up.defvjp(_looked_up, _spread)
