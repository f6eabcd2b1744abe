"""The encoder–decoder: the first transformer (Vaswani et al. 2017), and T5 (Raffel et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers

from jaxgen.families.autoregressive.transformer import Cache, Scales, muon_matrices
from jaxgen.nn.embedding import TokenEmbedding
from jaxgen.nn.key_value_cache import CacheRoom
from jaxgen.nn.linear import Linear
from jaxgen.nn.places import Places
from jaxgen.nn.saved_tensors import Policy
from jaxgen.nn.self_attention import indices
from jaxgen.nn.transformer_blocks import Order, pre_norm, stacked

Source = Int[Array, "batch sources"]
Tokens = Int[Array, "batch time"]
Hidden = Float[Array, "batch time width"]
Memory = Float[Array, "batch sources width"]


def tower_matrices(path: tuple[str, ...]) -> MuonDimensionNumbers | None:
    """Which axes of a parameter are a matrix for Muon: in both stacks, those of `muon_matrices`."""
    return muon_matrices(path[1:]) if path[0] in ("encoder", "decoder") else None


class Tower(nn.Module):
    """One of the two stacks.

    attention, mlp, norm, order, dropout, unroll, remat, scanned, initializer,
    output_initializer, dtype: as in `Transformer`, but that the last but one has no default.
    cross_attention: makes the decoder's look at the encoder's vectors; None for the encoder.
    distances: makes what is added to the scores of self-attention in all layers, as
        `RelativePositionBias`; called with `name`. None: nothing.
    """

    layers: int
    attention: Any
    mlp: Any
    norm: Callable[..., nn.Module]
    cross_attention: Callable[..., nn.Module] | None = None
    distances: Callable[..., nn.Module] | None = None
    order: Order = pre_norm
    dropout: float = 0.0
    unroll: int = 1
    remat: bool | Policy = False
    scanned: bool = True
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Hidden, places: Places, cache: Cache | None, deterministic: bool
    ) -> tuple[Hidden, Cache | None]:
        """The last layer's vectors, normalized where each block begins with a norm."""
        if self.distances is not None:
            # All layers' caches are as long; of keys without a cache there are as many as queries.
            first = cache if self.scanned or cache is None else cache[0]
            keys = x.shape[1] if first is None else first.own.slots
            bias = self.distances(name="distances")(*indices(places, x.shape[1], keys))
            places = dataclasses.replace(places, bias=bias)
        blocks = stacked(
            self.layers,
            self.attention,
            self.mlp,
            self.norm,
            initializer=self.initializer,
            output_initializer=self.output_initializer,
            dtype=self.dtype,
            order=self.order,
            cross_attention=self.cross_attention,
            dropout=self.dropout,
            deterministic=deterministic,
            unroll=self.unroll,
            remat=self.remat,
            scanned=self.scanned,
        )
        x, cache = blocks(x, cache, places)
        if self.order is pre_norm:
            x = self.norm(name="norm")(x)
            x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
        return x, cache


class EncoderDecoder(nn.Module):
    """Logits of the next target token at each position, given a source.

    Source and target share one vocabulary and its vectors. Padding of the source is a segment of
    its own: `source_segments` 1 where there is text and 0 elsewhere.

    vocabulary, width: sizes.
    encoder, decoder: make the two `Tower`s, called with `dtype` and `name`; the encoder's attention
        must not be causal.
    positions: makes what is added to the tokens' vectors on both sides, or None.
    tied: scores tokens by their vectors instead of a head of its own.
    dropout: on the embeddings.
    scales: what the two ends are multiplied by.
    """

    vocabulary: int
    width: int
    encoder: Callable[..., Tower]
    decoder: Callable[..., Tower]
    positions: Callable[..., nn.Module] | None = None
    tied: bool = True
    dropout: float = 0.0
    scales: Scales = Scales()
    initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    def __call__(
        self,
        source: Source,
        tokens: Tokens,
        source_segments: Source | None = None,
        segments: Tokens | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch time vocabulary"]:
        """Float32 logits at every target position; the arguments are those of `hidden`."""
        hidden = self.hidden(source, tokens, source_segments, segments, deterministic)
        return self.scores(hidden)

    def hidden(
        self,
        source: Source,
        tokens: Tokens,
        source_segments: Source | None = None,
        segments: Tokens | None = None,
        deterministic: bool = True,
    ) -> Hidden:
        """The decoder's last vectors: what `scores` makes logits of.

        Args:
            source: what is read from both sides.
            tokens: what is written, each seeing those before it and the whole source.
            source_segments: tokens of unequal segments don't see each other (padding, packing).
            segments: the targets' own; a target sees the source of its number, by default 1.
            deterministic: switches dropout off; otherwise `rngs={"dropout": key}` is needed.
        """
        memory = self.encode(source, source_segments, deterministic)
        places = self._places(tokens, segments, memory, source_segments)
        x = self._embedded(tokens, places.positions, deterministic)
        return self._decoder(x, places, None, deterministic)[0]

    def encode(
        self, source: Source, source_segments: Source | None = None, deterministic: bool = True
    ) -> Memory:
        """The encoder's vectors, which the decoder looks at."""
        places = Places(jnp.arange(source.shape[1])[None, :], source_segments)
        x = self._embedded(source, places.positions, deterministic)
        return self._encoder(x, places, None, deterministic)[0]

    def prefill(
        self,
        memory: Memory,
        tokens: Tokens,
        lengths: Int[Array, "batch"],
        room: CacheRoom,
        source_segments: Source | None = None,
    ) -> tuple[Float[Array, "batch vocabulary"], Cache]:
        """Reads the beginnings of targets: the logits after each, and a cache.

        The first lengths[row] tokens of a row are its beginning (at least one, T5's is the padding
        token); the rest is padding. The cache holds the memory's keys and values too.
        """
        places = self._places(tokens, None, memory, source_segments)
        places = dataclasses.replace(places, lengths=lengths, room=room)
        x = self._embedded(tokens, places.positions, True)
        x, cache = self._decoder(x, places, None, True)
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
        return self.scores(last)[:, 0], cache

    def extend(
        self,
        tokens: Tokens,
        cache: Cache,
        offset: Int[Array, "batch"],
        source_segments: Source | None = None,
    ) -> tuple[Float[Array, "batch time vocabulary"], Cache]:
        """Reads more tokens, a row's first at place offset[row]: the logits after each."""
        places = self._places(tokens, None, None, source_segments)
        positions = offset[:, None] + jnp.arange(tokens.shape[1])[None, :]
        places = dataclasses.replace(places, positions=positions, offset=offset)
        x = self._embedded(tokens, positions, True)
        x, cache = self._decoder(x, places, cache, True)
        return self.scores(x), cache

    def setup(self) -> None:
        """The parts, under the names that their parameters have."""
        self._embedding = TokenEmbedding(
            self.vocabulary, self.width, self.initializer, self.dtype, name="tokens"
        )
        if self.positions is not None:
            self._positions = self.positions(width=self.width, dtype=self.dtype, name="positions")
        self._encoder = self.encoder(dtype=self.dtype, name="encoder")
        self._decoder = self.decoder(dtype=self.dtype, name="decoder")
        if not self.tied:
            names = ("embed", "vocab")
            self._head = Linear(
                (self.vocabulary,), names, 1, False, self.initializer, self.dtype, name="head"
            )
        self._drop = nn.Dropout(self.dropout)

    def scores(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Float32 logits of vectors that `hidden` made."""
        if self.tied:
            return self._embedding.scores(hidden) * self.scales.logits
        return self._head(hidden).astype(jnp.float32) * self.scales.logits

    def _embedded(self, tokens: Array, positions: Array, deterministic: bool) -> Array:
        x = self._embedding(tokens)
        if self.scales.embedding != 1:
            x = x * jnp.asarray(self.scales.embedding, x.dtype)
        if self.positions is not None:
            x = x + jnp.broadcast_to(self._positions(positions), x.shape)
        return self._drop(x, deterministic=deterministic)

    def _places(
        self,
        tokens: Tokens,
        segments: Tokens | None,
        memory: Memory | None,
        source_segments: Source | None,
    ) -> Places:
        pair = None
        if source_segments is not None:
            pair = (jnp.ones_like(tokens) if segments is None else segments, source_segments)
        positions = jnp.arange(tokens.shape[1])[None, :]
        return Places(positions, segments, memory=memory, memory_segments=pair)
