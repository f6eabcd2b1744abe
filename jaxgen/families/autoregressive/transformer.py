"""The decoder-only transformer: GPT (Radford et al. 2018, 2019), put together from its layers.

What a block is made of is given as functions that make its layers, for example

    Transformer(
        vocabulary=65,
        width=384,
        layers=6,
        attention=partial(SelfAttention, heads=6),
        mlp=partial(MLP, hidden=4 * 384),
        norm=LayerNorm,
        learned_positions=256,
    )
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers

from jaxgen.experiment import Path
from jaxgen.nn.embedding import PositionEmbedding, TokenEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.self_attention import KeyValueCache, Places

Tokens = Int[Array, "batch time"]
Hidden = Float[Array, "batch time width"]


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + mlp(norm(x))."""

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout: float
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: Hidden, cache: KeyValueCache | None, places: Places
    ) -> tuple[Hidden, KeyValueCache | None]:
        """The next hidden vectors, and the cache with those of `x` written in."""
        attend = self.attention(name="attention")
        out, cache = attend(self.norm(name="attention_norm")(x), places, cache, self.deterministic)
        drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
        x = x + drop(out)
        out = self.mlp(name="mlp")(self.norm(name="mlp_norm")(x))
        return x + drop(out), cache


class Transformer(nn.Module):
    """Logits of the next token at each position.

    vocabulary, width, layers: sizes.
    attention: makes a block's attention, with the arguments and results of `SelfAttention`; called
        with `initializer`, `output_initializer`, `dtype` and `name`.
    mlp: makes a block's position-wise network, called with the same.
    norm: makes a normalization, called with `name`.
    learned_positions: how many positions have a learned vector, added to the token's; None adds
        nothing, and leaves positions to the attention.
    tied: scores tokens by their embedding instead of a head of its own.
    dropout: on the embedding and on what each layer adds.
    unroll: layers per iteration of the scan; the parameters are the same, stacked along a first
        axis. All of them compile to the fastest program, fewer compile faster.
    remat: recomputes each block in the backward pass instead of keeping its activations.
    dtype: of the computation; parameters are float32.

    Initialization is GPT-2's: normal with deviation 0.02, for what a layer adds to the residual
    stream divided by √(2·layers).
    """

    vocabulary: int
    width: int
    layers: int
    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    learned_positions: int | None = None
    tied: bool = True
    dropout: float = 0.0
    unroll: int = 1
    remat: bool = False
    dtype: Any = jnp.float32

    def __call__(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch time vocabulary"]:
        """Float32 logits at every position.

        Args:
            positions: where each token stands in its own text; None counts from 0.
            segments: tokens of unequal segments don't see each other (packed texts).
            deterministic: switches dropout off; otherwise `rngs={"dropout": key}` is needed.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None, :]
        logits, _ = self._run(tokens, Places(positions, segments), None, None, deterministic)
        return logits

    def prefill(
        self, tokens: Tokens, lengths: Int[Array, "batch"], capacity: int
    ) -> tuple[Float[Array, "batch vocabulary"], KeyValueCache]:
        """Reads prompts: the logits after each, and a cache with `capacity` places.

        The first lengths[row] tokens of a row are its prompt (at least one); the rest is padding.
        """
        places = Places(jnp.arange(tokens.shape[1])[None, :], capacity=capacity)
        logits, cache = self._run(tokens, places, None, lengths - 1, True)
        return logits[:, 0], cache

    def step(
        self, tokens: Int[Array, "batch"], cache: KeyValueCache, offset: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch vocabulary"], KeyValueCache]:
        """Reads one token a row, the one at place offset[row]: the logits after it."""
        places = Places(offset[:, None], offset=offset)
        logits, cache = self._run(tokens[:, None], places, cache, None, True)
        return logits[:, 0], cache

    @nn.compact
    def _run(
        self,
        tokens: Tokens,
        places: Places,
        cache: KeyValueCache | None,
        only: Int[Array, "batch"] | None,
        deterministic: bool,
    ) -> tuple[Array, Any]:
        initializer = nn.initializers.normal(0.02)
        embedding = TokenEmbedding(
            self.vocabulary, self.width, initializer, self.dtype, name="tokens"
        )
        x = embedding(tokens)
        if self.learned_positions is not None:
            table = PositionEmbedding(
                self.learned_positions, self.width, initializer, self.dtype, name="positions"
            )
            x = x + jnp.broadcast_to(table(places.positions), x.shape)
        x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
        x, cache = self._blocks(initializer, deterministic)(x, cache, places)
        if only is not None:
            # The prompt's other positions predict what is known already.
            x = jnp.take_along_axis(x, only[:, None, None], axis=1)
        x = self.norm(name="norm")(x)
        if self.tied:
            return embedding.scores(x), cache
        head = Linear(
            (self.vocabulary,), ("embed", "vocab"), 1, False, initializer, self.dtype, name="head"
        )
        return head(x).astype(jnp.float32), cache

    def _blocks(self, initializer: Any, deterministic: bool) -> nn.Module:
        shared = {
            "initializer": initializer,
            "output_initializer": nn.initializers.normal(0.02 / (2 * self.layers) ** 0.5),
            "dtype": self.dtype,
        }
        # prevent_cse guards against what cannot happen inside a scan, and costs speed there.
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            out_axes=0,
            length=self.layers,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(
            attention=partial(self.attention, **shared),
            mlp=partial(self.mlp, **shared),
            norm=self.norm,
            dropout=self.dropout,
            deterministic=deterministic,
            name="blocks",
        )


def muon_matrices(path: Path) -> MuonDimensionNumbers | None:
    """Which axes of a parameter are a matrix for Muon: those of the blocks' kernels, (in, out).

    The first axis stacks the layers; heads and their depth count as one axis.
    """
    if path[0] != "blocks" or path[-1] != "kernel":
        return None
    if path[-3] == "mlp":
        return MuonDimensionNumbers(1, 2)
    return MuonDimensionNumbers((1, 2), 3) if path[-2] == "out" else MuonDimensionNumbers(1, (2, 3))
