"""What decoding sees of an autoregressive model: four functions, whatever the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Params
from jaxgen.families.autoregressive.encoder_decoder import EncoderDecoder
from jaxgen.families.autoregressive.transformer import Transformer

Carry = Any  # whatever a network remembers of the tokens it has read


@dataclass(frozen=True)
class Decoder:
    """Reads tokens one by one and says what may come next; rows are independent.

    prefill: `(params, tokens (batch, time), lengths (batch,)) -> (carry, logits)`: reads the first
        lengths[row] ≥ 1 tokens of each row; logits (batch, vocabulary) of what follows them.
    step: `(params, carry, token (batch,)) -> (carry, logits)`: reads one more token a row.
    reorder: `(carry, beams (batch,)) -> carry`: row i becomes what row beams[i] was.
    rewind: `(carry, accepted (batch,)) -> carry`: forgets all but a row's first tokens.
    context: how many tokens a carry can hold, prompt included; None: any number.
    """

    prefill: Callable[[Params, Array, Array], tuple[Carry, Array]]
    step: Callable[[Params, Carry, Array], tuple[Carry, Array]]
    reorder: Callable[[Carry, Array], Carry]
    rewind: Callable[[Carry, Array], Carry]
    context: int | None = None


@flax.struct.dataclass
class CachedTokens:
    """A transformer's carry: its cache, stacked over layers, and how much of each row is filled."""

    cache: Any
    held: Any


@flax.struct.dataclass
class SourcedTokens:
    """An encoder–decoder's carry: the target's, and the segments of the sources."""

    target: CachedTokens
    segments: Any


def transformer_decoder(network: Transformer, context: int) -> Decoder:
    """Decodes by a key-value cache of `context` places, allocated whole by `prefill`."""

    def prefill(
        params: Params, tokens: Int[Array, "batch time"], lengths: Int[Array, "batch"]
    ) -> tuple[CachedTokens, Float[Array, "batch vocabulary"]]:
        logits, cache = network.apply(
            {"params": params}, tokens, lengths, context, method=Transformer.prefill
        )
        return CachedTokens(cache, lengths), logits

    def step(
        params: Params, carry: CachedTokens, token: Int[Array, "batch"]
    ) -> tuple[CachedTokens, Float[Array, "batch vocabulary"]]:
        logits, cache = network.apply(
            {"params": params}, token, carry.cache, carry.held, method=Transformer.step
        )
        return CachedTokens(cache, carry.held + 1), logits

    return Decoder(prefill, step, _reordered, _rewound, context)


def encoder_decoder_decoder(
    network: EncoderDecoder,
    context: int,
    source: Int[Array, "batch sources"],
    source_segments: Int[Array, "batch sources"] | None = None,
) -> Decoder:
    """Decodes targets of the given sources, row by row.

    `prefill` encodes the sources and reads the targets' beginnings; a carry holds the keys and
    values of both, `context` places for the target's. Made anew for each batch, inside `jit` too.
    """
    segments = jnp.ones_like(source) if source_segments is None else source_segments

    def prefill(
        params: Params, tokens: Int[Array, "batch time"], lengths: Int[Array, "batch"]
    ) -> tuple[SourcedTokens, Float[Array, "batch vocabulary"]]:
        memory = network.apply({"params": params}, source, segments, method=EncoderDecoder.encode)
        logits, cache = network.apply(
            {"params": params},
            memory,
            tokens,
            lengths,
            context,
            segments,
            method=EncoderDecoder.prefill,
        )
        return SourcedTokens(CachedTokens(cache, lengths), segments), logits

    def step(
        params: Params, carry: SourcedTokens, token: Int[Array, "batch"]
    ) -> tuple[SourcedTokens, Float[Array, "batch vocabulary"]]:
        target = carry.target
        logits, cache = network.apply(
            {"params": params},
            token,
            target.cache,
            target.held,
            carry.segments,
            method=EncoderDecoder.step,
        )
        return SourcedTokens(CachedTokens(cache, target.held + 1), carry.segments), logits

    def reorder(carry: SourcedTokens, beams: Int[Array, "batch"]) -> SourcedTokens:
        return SourcedTokens(
            _reordered(carry.target, beams), jnp.take(carry.segments, beams, axis=0)
        )

    def rewind(carry: SourcedTokens, accepted: Int[Array, "batch"]) -> SourcedTokens:
        return SourcedTokens(_rewound(carry.target, accepted), carry.segments)

    return Decoder(prefill, step, reorder, rewind, context)


def _reordered(carry: CachedTokens, beams: Int[Array, "batch"]) -> CachedTokens:
    cache = jax.tree.map(lambda leaf: jnp.take(leaf, beams, axis=1), carry.cache)
    return CachedTokens(cache, jnp.take(carry.held, beams))


def _rewound(carry: CachedTokens, accepted: Int[Array, "batch"]) -> CachedTokens:
    # What lies beyond is never seen, and overwritten by the next steps.
    return CachedTokens(carry.cache, accepted)
