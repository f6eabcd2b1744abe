"""The encoder: BERT (Devlin et al. 2019), which sees a text from both sides at once.

It isn't autoregressive; it lives here because it is the same stack of the same blocks, and its
scores are of tokens too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.embedding import TokenEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import Activation, gelu
from jaxgen.nn.places import Places
from jaxgen.nn.saved_tensors import Policy
from jaxgen.nn.transformer_blocks import Order, post_norm, pre_norm, stacked

Tokens = Int[Array, "batch time"]
Hidden = Float[Array, "batch time width"]


class Encoder(nn.Module):
    """Logits of the token that belongs at each position.

    Padding is a segment of its own: with `segments` 1 where there is text and 0 elsewhere, no text
    sees it.

    vocabulary, width, layers: sizes.
    attention, mlp, norm, positions, order, dropout, unroll, remat, dtype: as in `Transformer`; the
        attention must not be causal.
    types: how many kinds of segment have a vector of their own (BERT's first and second sentence),
        added to the token's; 0: none.
    embedding_norm: normalizes the sum of those vectors, before dropout.
    transforms: the scores pass one more layer, with `activation` and a norm, first.
    biased: the scores have a bias, one number a token.
    pools: a layer with tanh over the first position, trained by whatever uses it.
    """

    vocabulary: int
    width: int
    layers: int
    attention: Any
    mlp: Any
    norm: Callable[..., nn.Module]
    positions: Callable[..., nn.Module] | None = None
    types: int = 0
    order: Order = post_norm
    embedding_norm: bool = True
    transforms: bool = True
    biased: bool = True
    activation: Activation = gelu
    pools: bool = False
    dropout: float = 0.0
    unroll: int = 1
    remat: bool | Policy = False
    initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    def __call__(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        deterministic: bool = True,
        types: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time vocabulary"]:
        """Float32 logits at every position; the arguments are those of `hidden`."""
        hidden = self.hidden(tokens, positions, segments, deterministic, types)
        if self.pools and self.is_initializing():
            self.pooled(hidden)
        return self.scores(hidden)

    def hidden(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        deterministic: bool = True,
        types: Int[Array, "batch time"] | None = None,
    ) -> Hidden:
        """The last layer's vectors.

        Args:
            positions: where each token stands in its own text; None counts from 0.
            segments: tokens of unequal segments don't see each other (padding, packed texts).
            deterministic: switches dropout off; otherwise `rngs={"dropout": key}` is needed.
            types: the kind of each token's sentence; None is kind 0.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None, :]
        if types is None:
            types = jnp.zeros_like(tokens)
        return self._run(tokens, Places(positions, segments), types, deterministic)

    def setup(self) -> None:
        """The parts, under the names that their parameters have."""
        table = partial(TokenEmbedding, initializer=self.initializer, dtype=self.dtype)
        dense = partial(Linear, initializer=self.initializer, dtype=self.dtype)
        self._tokens = table(self.vocabulary, self.width, name="tokens")
        if self.positions is not None:
            self._positions = self.positions(width=self.width, dtype=self.dtype, name="positions")
        if self.types:
            self._types = table(self.types, self.width, name="types")
        if self.embedding_norm:
            self._embedding_norm = self.norm(name="embedding_norm")
        if self.order is pre_norm:
            self._norm = self.norm(name="norm")
        if self.transforms:
            self._transform = dense((self.width,), ("embed", None), name="transform")
            self._transform_norm = self.norm(name="transform_norm")
        if self.biased:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self._bias: Any = self.param("scores_bias", zeros, (self.vocabulary,), jnp.float32)
        if self.pools:
            self._pooler = dense((self.width,), ("embed", None), name="pooler")
        self._drop = nn.Dropout(self.dropout)

    def scores(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Float32 logits of vectors that `hidden` made, by the tokens' own vectors."""
        if self.transforms:
            hidden = self._transform_norm(self.activation(self._transform(hidden)))
        scores = self._tokens.scores(hidden)
        if self.biased:
            scores = scores + self._bias.reshape((1,) * (scores.ndim - 1) + (-1,))
        return scores

    def pooled(self, hidden: Hidden) -> Float[Array, "batch width"]:
        """tanh of a layer over the first position (BERT's [CLS])."""
        return jnp.tanh(self._pooler(hidden[:, 0]))

    @nn.compact
    def _run(self, tokens: Tokens, places: Places, types: Tokens, deterministic: bool) -> Hidden:
        x = self._tokens(tokens)
        if self.positions is not None:
            x = x + jnp.broadcast_to(self._positions(places.positions), x.shape)
        if self.types:
            x = x + self._types(types)
        if self.embedding_norm:
            x = self._embedding_norm(x)
        x = self._drop(x, deterministic=deterministic)
        blocks = stacked(
            self.layers,
            self.attention,
            self.mlp,
            self.norm,
            initializer=self.initializer,
            output_initializer=self.initializer,
            dtype=self.dtype,
            order=self.order,
            dropout=self.dropout,
            deterministic=deterministic,
            unroll=self.unroll,
            remat=self.remat,
        )
        x, _ = blocks(x, None, places)
        return self._norm(x) if self.order is pre_norm else x


def sentence_embedding(
    hidden: Hidden, segments: Int[Array, "batch time"] | None = None, normalized: bool = True
) -> Float[Array, "batch width"]:
    """The mean of a sentence's vectors, of length 1: compared by their products.

    Mean pooling as in Sentence-BERT (Reimers & Gurevych 2019, section 3).

    segments: 0 where a row is padded; None: nowhere.
    """
    there = jnp.ones(hidden.shape[:2]) if segments is None else (segments != 0)
    weights = there.astype(jnp.float32)[:, :, None]
    wide = hidden.astype(jnp.float32)
    mean = (wide * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
    if not normalized:
        return mean
    return mean * jax.lax.rsqrt(jnp.maximum(jnp.square(mean).sum(-1, keepdims=True), 1e-24))
