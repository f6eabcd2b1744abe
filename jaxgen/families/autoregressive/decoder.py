"""What decoding sees of an autoregressive model: a few functions, whatever the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Params
from jaxgen.families.autoregressive.encoder_decoder import EncoderDecoder
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.key_value_cache import CacheRoom
from jaxgen.nn.transformer_blocks import unstacked

Weights = Any  # parameters, laid out for decoding
Carry = Any  # whatever a network remembers of the tokens it has read


@dataclass(frozen=True)
class Decoder:
    """Reads tokens and says what may come next; rows are independent.

    ready: `(params) -> weights`: the parameters as `prefill` and `extend` take them, to be made
        once before many steps.
    prefill: `(weights, tokens (batch, time), lengths (batch,)) -> (carry, logits)`: reads the first
        lengths[row] ≥ 1 tokens of each row; logits (batch, vocabulary) of what follows them.
    extend: `(weights, carry, tokens (batch, time)) -> (carry, logits)`: reads more tokens, as many
        of every row; logits (batch, time, vocabulary) of what follows each.
    reorder: `(carry, beams (rows,)) -> carry`: row i becomes what row beams[i] was; there may be
        more rows or fewer.
    rewind: `(carry, held (batch,)) -> carry`: forgets all but a row's first `held` tokens, none of
        them from before the last `extend`.
    context: how many tokens a carry can hold, prompt included; None: any number.
    ahead: how many tokens one `extend` may read, and `rewind` forget; None: any number.
    reading: `(ahead) -> decoder`: the same, able to read so many at once.
    """

    prefill: Callable[[Params, Array, Array], tuple[Carry, Array]]
    extend: Callable[[Params, Carry, Array], tuple[Carry, Array]]
    reorder: Callable[[Carry, Array], Carry]
    rewind: Callable[[Carry, Array], Carry]
    context: int | None = None
    ahead: int | None = None
    reading: Callable[[int], Decoder] | None = None
    ready: Callable[[Params], Weights] = lambda params: params

    def step(
        self, weights: Weights, carry: Carry, token: Int[Array, "batch"]
    ) -> tuple[Carry, Float[Array, "batch vocabulary"]]:
        """Reads one more token a row: the logits of what follows."""
        carry, logits = self.extend(weights, carry, token[:, None])
        return carry, logits[:, 0]


@flax.struct.dataclass
class CachedTokens:
    """A transformer's carry: each layer's cache, and how much of each row is filled."""

    cache: Any
    held: Any


@flax.struct.dataclass
class SourcedTokens:
    """An encoder–decoder's carry: the target's, and the segments of the sources."""

    target: CachedTokens
    segments: Any


def transformer_decoder(
    network: Transformer, context: int, *, ahead: int = 1, cache_dtype: Any = None
) -> Decoder:
    """Decodes by a key-value cache that `prefill` allocates whole.

    context: places of the cache; layers with a window keep no more than that of it.
    ahead, cache_dtype: as `CacheRoom` has them.
    """
    room = CacheRoom(context, ahead, cache_dtype)
    flat = network.clone(scanned=False)

    def ready(params: Params) -> Weights:
        return {**params, "blocks": unstacked(params["blocks"])}

    def prefill(
        weights: Weights, tokens: Int[Array, "batch time"], lengths: Int[Array, "batch"]
    ) -> tuple[CachedTokens, Float[Array, "batch vocabulary"]]:
        logits, cache = flat.apply(
            {"params": weights}, tokens, lengths, room, method=Transformer.prefill
        )
        return CachedTokens(cache, lengths), logits

    def extend(
        weights: Weights, carry: CachedTokens, tokens: Int[Array, "batch time"]
    ) -> tuple[CachedTokens, Float[Array, "batch time vocabulary"]]:
        logits, cache = flat.apply(
            {"params": weights}, tokens, carry.cache, carry.held, method=Transformer.extend
        )
        return CachedTokens(cache, carry.held + tokens.shape[1]), logits

    def reading(ahead: int) -> Decoder:
        return transformer_decoder(network, context, ahead=ahead, cache_dtype=cache_dtype)

    return Decoder(prefill, extend, _reordered, _rewound, context, ahead, reading, ready)


def of_part(decoder: Decoder, part: str) -> Decoder:
    """The same, of parameters of which the network's are one part, such as a policy's."""
    reading = decoder.reading
    return dataclasses.replace(
        decoder,
        ready=lambda params: decoder.ready(params[part]),
        reading=None if reading is None else lambda ahead: of_part(reading(ahead), part),
    )


def encoder_decoder_decoder(
    network: EncoderDecoder,
    context: int,
    source: Int[Array, "batch sources"],
    source_segments: Int[Array, "batch sources"] | None = None,
    *,
    ahead: int = 1,
    cache_dtype: Any = None,
) -> Decoder:
    """Decodes targets of the given sources, row by row.

    `prefill` encodes the sources and reads the targets' beginnings, of which there may be several
    to a source, side by side; a carry holds the keys and values of both, `context` places for the
    target's. Made anew for each batch, inside `jit` too.
    """
    segments = jnp.ones_like(source) if source_segments is None else source_segments
    room = CacheRoom(context, ahead, cache_dtype)
    flat = network.clone(decoder=partial(network.decoder, scanned=False))

    def ready(params: Params) -> Weights:
        blocks = unstacked(params["decoder"]["blocks"])
        return {**params, "decoder": {**params["decoder"], "blocks": blocks}}

    def prefill(
        weights: Weights, tokens: Int[Array, "batch time"], lengths: Int[Array, "batch"]
    ) -> tuple[SourcedTokens, Float[Array, "batch vocabulary"]]:
        memory: Any = flat.apply(
            {"params": weights}, source, segments, method=EncoderDecoder.encode
        )
        each = tokens.shape[0] // source.shape[0]
        memory, of_rows = (jnp.repeat(x, each, axis=0) for x in (memory, segments))
        logits, cache = flat.apply(
            {"params": weights},
            memory,
            tokens,
            lengths,
            room,
            of_rows,
            method=EncoderDecoder.prefill,
        )
        return SourcedTokens(CachedTokens(cache, lengths), of_rows), logits

    def extend(
        weights: Weights, carry: SourcedTokens, tokens: Int[Array, "batch time"]
    ) -> tuple[SourcedTokens, Float[Array, "batch time vocabulary"]]:
        target = carry.target
        logits, cache = flat.apply(
            {"params": weights},
            tokens,
            target.cache,
            target.held,
            carry.segments,
            method=EncoderDecoder.extend,
        )
        held = target.held + tokens.shape[1]
        return SourcedTokens(CachedTokens(cache, held), carry.segments), logits

    def reorder(carry: SourcedTokens, beams: Int[Array, "rows"]) -> SourcedTokens:
        return SourcedTokens(
            _reordered(carry.target, beams), jnp.take(carry.segments, beams, axis=0)
        )

    def rewind(carry: SourcedTokens, held: Int[Array, "batch"]) -> SourcedTokens:
        return SourcedTokens(_rewound(carry.target, held), carry.segments)

    return Decoder(prefill, extend, reorder, rewind, context, ahead, ready=ready)


def _reordered(carry: CachedTokens, beams: Int[Array, "rows"]) -> CachedTokens:
    cache = jax.tree.map(lambda leaf: jnp.take(leaf, beams, axis=0), carry.cache)
    return CachedTokens(cache, jnp.take(carry.held, beams))


def _rewound(carry: CachedTokens, held: Int[Array, "batch"]) -> CachedTokens:
    # What lies beyond is never seen, and overwritten by the next tokens.
    return CachedTokens(carry.cache, held)
