"""The one decoding loop, over any `Decoder`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Key, Params
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.logits import Processor

# (key, logits (batch, vocabulary)) -> token (batch,)
Choice = Callable[[Key, Array], Array]


@flax.struct.dataclass
class Decoding:
    """The state between two tokens.

    carry: the decoder's.
    logits: of the next token, (batch, vocabulary).
    recent: the tokens that the carry has read, (batch, context), from its place 0 on.
    held: how many those are, (batch,).
    made: how many tokens have been generated, a scalar.
    """

    carry: Any
    logits: Any
    recent: Any
    held: Any
    made: Any


def sampled(process: Processor) -> Choice:
    """Draws each row's token from the softmax of its processed logits."""

    def choose(key: Key, logits: Float[Array, "batch vocabulary"]) -> Int[Array, "batch"]:
        return jax.random.categorical(key, process(logits.astype(jnp.float32)), axis=-1)

    return choose


def start(
    decoder: Decoder, params: Params, tokens: Int[Array, "batch time"], lengths: Int[Array, "batch"]
) -> Decoding:
    """Reads the prompts, the first lengths[row] ≥ 1 tokens of each row.

    Of a prompt longer than the decoder's context only the end is read, as nanoGPT crops it.
    """
    room = tokens.shape[1] if decoder.context is None else decoder.context
    if tokens.shape[1] > room:
        tokens = _shifted(tokens, jnp.maximum(lengths - room, 0))[:, :room]
        lengths = jnp.minimum(lengths, room)
    carry, logits = decoder.prefill(params, tokens, lengths)
    recent = jnp.pad(tokens, ((0, 0), (0, room - tokens.shape[1])))
    return Decoding(carry, logits, recent, lengths, jnp.zeros((), jnp.int32))


def decode(
    decoder: Decoder,
    params: Params,
    key: Key,
    state: Decoding,
    choose: Choice,
    length: int,
) -> tuple[Decoding, Int[Array, "batch {length}"]]:
    """Generates `length` more tokens a row; in parts or at once, they are the same.

    A row that fills the decoder's context forgets all but the newer half of it and reads that
    again from place 0: every token then sees between half a context and a whole one, learned
    positions stay within their table, and the cost is one prefill per half context.
    """

    def one(state: Decoding, _: None) -> tuple[Decoding, Array]:
        token = choose(jax.random.fold_in(key, state.made), state.logits).astype(jnp.int32)
        if decoder.context is None:
            state = _step(decoder, params, state, token)
        else:
            state = jax.lax.cond(
                (state.held >= decoder.context).any(),
                lambda: _slide(decoder, params, state, token),
                lambda: _step(decoder, params, _noted(state, token), token),
            )
        return dataclasses.replace(state, made=state.made + 1), token

    state, tokens = jax.lax.scan(one, state, None, length=length)
    return state, tokens.T


def generate(
    decoder: Decoder,
    params: Params,
    key: Key,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, "batch"],
    choose: Choice,
    length: int,
) -> Int[Array, "batch {length}"]:
    """`start`, then `decode`: the `length` tokens that follow each prompt."""
    state = start(decoder, params, tokens, lengths)
    return decode(decoder, params, key, state, choose, length)[1]


def _step(
    decoder: Decoder, params: Params, state: Decoding, token: Int[Array, "batch"]
) -> Decoding:
    carry, logits = decoder.step(params, state.carry, token)
    return dataclasses.replace(state, carry=carry, logits=logits)


def _noted(state: Decoding, token: Int[Array, "batch"]) -> Decoding:
    here = jnp.arange(state.recent.shape[1])[None, :] == state.held[:, None]
    recent = jnp.where(here, token[:, None], state.recent)
    return dataclasses.replace(state, recent=recent, held=state.held + 1)


def _slide(
    decoder: Decoder, params: Params, state: Decoding, token: Int[Array, "batch"]
) -> Decoding:
    context = state.recent.shape[1]
    full = state.held >= context
    # With the new token a full row holds half a context, rounded up.
    forgotten = jnp.where(full, context // 2 + 1, 0)
    state = dataclasses.replace(
        state, recent=_shifted(state.recent, forgotten), held=state.held - forgotten
    )
    state = _noted(state, token)
    # Rows that aren't full read all of theirs again, which changes nothing.
    carry, logits = decoder.prefill(params, state.recent, state.held)
    return dataclasses.replace(state, carry=carry, logits=logits)


def _shifted(tokens: Int[Array, "batch time"], by: Int[Array, "batch"]) -> Int[Array, "batch time"]:
    places = jnp.arange(tokens.shape[1])[None, :] + by[:, None]
    return jnp.take_along_axis(tokens, jnp.minimum(places, tokens.shape[1] - 1), axis=1)
