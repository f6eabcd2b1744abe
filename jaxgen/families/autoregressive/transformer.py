"""The decoder-only transformer: GPT (Radford et al. 2018, 2019), put together from its layers.

What a block is made of is given as functions that make its layers, for example

    Transformer(
        vocabulary=65,
        width=384,
        layers=6,
        attention=partial(SelfAttention, heads=6),
        mlp=partial(MLP, hidden=4 * 384),
        norm=LayerNorm,
        positions=partial(PositionEmbedding, 256),
    )

`architectures.py` has those of GPT-2, GPT-3, Llama, Qwen and Mixtral.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers

from jaxgen.experiment import Path
from jaxgen.nn.embedding import TokenEmbedding
from jaxgen.nn.key_value_cache import CacheRoom
from jaxgen.nn.linear import Linear
from jaxgen.nn.places import Places
from jaxgen.nn.saved_tensors import Policy
from jaxgen.nn.transformer_blocks import Order, pre_norm, stacked

Tokens = Int[Array, "batch time"]
Hidden = Float[Array, "batch time width"]
Cache = Any  # KeyValueCache stacked over the layers, or a tuple of those where layers differ


@dataclass(frozen=True)
class Scales:
    """What a transformer multiplies by at its two ends.

    embedding: the tokens' vectors (√width in Vaswani et al. 2017 and Gemma).
    logits: the scores (base width / width in µP, width^-1/2 in T5).
    soft_cap: bounds the scores to ±soft_cap by tanh (Gemma 2), or None.
    """

    embedding: float = 1.0
    logits: float = 1.0
    soft_cap: float | None = None


class Transformer(nn.Module):
    """Logits of the next token at each position.

    vocabulary, width, layers: sizes.
    attention: makes a block's attention, with the arguments and results of `SelfAttention`; called
        with `initializer`, `output_initializer`, `dtype` and `name`. A tuple gives each layer in
        turn its own (GPT-3: dense, banded).
    mlp: makes a block's position-wise network, called with the same; a tuple likewise.
    norm: makes a normalization, called with `name`.
    positions: makes what is added to the tokens' vectors, called with `width`, `dtype` and `name`;
        None adds nothing, and leaves positions to the attention.
    order: `pre_norm`, which ends with one more norm, or `post_norm`.
    tied: scores tokens by their embedding instead of a head of its own.
    dropout: on the embedding and on what each layer adds.
    unroll, remat, scanned: of the scan over the layers, see `stacked`.
    scales: what the two ends are multiplied by.
    initializer, output_initializer: of the blocks' kernels, and of those that add to the residual
        stream; None is GPT-2's: normal with deviation 0.02, divided by √(2·layers) for the latter.
    dtype: of the computation; parameters are float32.
    """

    vocabulary: int
    width: int
    layers: int
    attention: Any
    mlp: Any
    norm: Callable[..., nn.Module]
    positions: Callable[..., nn.Module] | None = None
    order: Order = pre_norm
    tied: bool = True
    dropout: float = 0.0
    unroll: int = 1
    remat: bool | Policy = False
    scanned: bool = True
    scales: Scales = Scales()
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = None
    embedding_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    def __call__(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch time vocabulary"]:
        """Float32 logits at every position; the arguments are those of `hidden`."""
        return self.scores(self.hidden(tokens, positions, segments, deterministic))

    def hidden(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> Hidden:
        """The last layer's vectors, normalized: what `scores` makes logits of.

        Args:
            positions: where each token stands in its own text; None counts from 0.
            segments: tokens of unequal segments don't see each other (packed texts).
            deterministic: switches dropout off; otherwise `rngs={"dropout": key}` is needed.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None, :]
        return self._run(tokens, Places(positions, segments), None, deterministic)[0]

    def prefill(
        self, tokens: Tokens, lengths: Int[Array, "batch"], room: CacheRoom
    ) -> tuple[Float[Array, "batch vocabulary"], Cache]:
        """Reads prompts: the logits after each, and a cache.

        The first lengths[row] tokens of a row are its prompt (at least one); the rest is padding.
        """
        places = Places(jnp.arange(tokens.shape[1])[None, :], lengths=lengths, room=room)
        x, cache = self._run(tokens, places, None, True)
        # The prompt's other positions predict what is known already.
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
        return self.scores(last)[:, 0], cache

    def extend(
        self, tokens: Tokens, cache: Cache, offset: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch time vocabulary"], Cache]:
        """Reads more tokens, a row's first at place offset[row]: the logits after each."""
        positions = offset[:, None] + jnp.arange(tokens.shape[1])[None, :]
        x, cache = self._run(tokens, Places(positions, offset=offset), cache, True)
        return self.scores(x), cache

    def setup(self) -> None:
        """The parts, under the names that their parameters have."""
        self._embedding = TokenEmbedding(
            self.vocabulary, self.width, self.embedding_initializer, self.dtype, name="tokens"
        )
        if self.positions is not None:
            self._positions = self.positions(width=self.width, dtype=self.dtype, name="positions")
        if self.order is pre_norm:
            self._norm = self.norm(name="norm")
        if not self.tied:
            names = ("embed", "vocab")
            self._head = Linear(
                (self.vocabulary,), names, 1, False, self.initializer, self.dtype, name="head"
            )
        self._drop = nn.Dropout(self.dropout)

    def scores(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Float32 logits of vectors that `hidden` made."""
        if self.tied:
            logits = self._embedding.scores(hidden)
        else:
            logits = self._head(hidden).astype(jnp.float32)
        if self.scales.logits != 1:
            logits = logits * self.scales.logits
        if self.scales.soft_cap is not None:
            logits = self.scales.soft_cap * jnp.tanh(logits / self.scales.soft_cap)
        return logits

    @nn.compact
    def _run(
        self, tokens: Tokens, places: Places, cache: Cache | None, deterministic: bool
    ) -> tuple[Hidden, Cache | None]:
        x = self._embedding(tokens)
        if self.scales.embedding != 1:
            x = x * jnp.asarray(self.scales.embedding, x.dtype)
        if self.positions is not None:
            x = x + jnp.broadcast_to(self._positions(places.positions), x.shape)
        x = self._drop(x, deterministic=deterministic)
        x, cache = self._blocks(deterministic)(x, cache, places)
        return self._norm(x) if self.order is pre_norm else x, cache

    def _blocks(self, deterministic: bool) -> nn.Module:
        output_initializer = self.output_initializer
        if output_initializer is None:
            output_initializer = nn.initializers.normal(0.02 / (2 * self.layers) ** 0.5)
        return stacked(
            self.layers,
            self.attention,
            self.mlp,
            self.norm,
            initializer=self.initializer,
            output_initializer=output_initializer,
            dtype=self.dtype,
            order=self.order,
            dropout=self.dropout,
            deterministic=deterministic,
            unroll=self.unroll,
            remat=self.remat,
            scanned=self.scanned,
        )


def muon_matrices(path: Path) -> MuonDimensionNumbers | None:
    """Which axes of a parameter are a matrix for Muon: those of the blocks' kernels, (in, out).

    The first axis stacks the layers, a second one experts; heads and their depth count as one axis.
    What routes among experts is no matrix for it.
    """
    if path[0] != "blocks" or path[-1] != "kernel" or path[-2] == "router":
        return None
    if path[-3] == "mlp":
        return MuonDimensionNumbers(-2, -1)
    if path[-2] == "out":
        return MuonDimensionNumbers((1, 2), 3)
    return MuonDimensionNumbers(1, (2, 3))
