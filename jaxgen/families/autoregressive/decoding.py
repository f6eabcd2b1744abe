"""The one decoding loop, over any `Decoder`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Key, Params
from jaxgen.families.autoregressive.decoder import Decoder, Weights
from jaxgen.families.autoregressive.logits import Processor
from jaxgen.families.autoregressive.policies import Memory, Policy, combined


@flax.struct.dataclass
class Pick:
    """What was chosen for each row.

    token: (rows,).
    memory: the choice's, from then on.
    ended: which rows are complete with that token, (rows,).
    parents: which row each is the continuation of, (rows,), as beams are; None: its own.
    """

    token: Any
    memory: Any
    ended: Any
    parents: Any = None


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen.

    begin: `(tokens (batch, time), lengths (batch,), vocabulary) -> memory` of the prompts.
    pick: `(key, logits (rows, vocabulary), memory) -> Pick`.
    beams: so many rows go on from each prompt, side by side.
    """

    begin: Callable[[Array, Array, int], Memory]
    pick: Callable[[Key, Array, Memory], Pick]
    beams: int = 1


@flax.struct.dataclass
class Decoding:
    """The state between two tokens.

    carry: the decoder's.
    logits: of the next token, (rows, vocabulary).
    recent: the tokens that the carry has read, (rows, context), from its place 0 on.
    held: how many those are, (rows,).
    memory: the choice's.
    ended: which rows are complete, (rows,).
    lengths: how many tokens have been written to each row, its last one included, (rows,).
    made: how many steps there have been, a scalar.
    """

    carry: Any
    logits: Any
    recent: Any
    held: Any
    memory: Any
    ended: Any
    lengths: Any
    made: Any


def sampled(*policy: Policy | Processor) -> Choice:
    """Draws each row's token from the softmax of its logits, after policies in order."""
    parts = combined(*policy)

    def pick(key: Key, logits: Float[Array, "rows vocabulary"], memory: Memory) -> Pick:
        scores = parts.scores(logits.astype(jnp.float32), memory)
        token = jax.random.categorical(key, scores, axis=-1).astype(jnp.int32)
        return Pick(token, *parts.advance(memory, token))

    return Choice(parts.begin, pick)


def start(
    decoder: Decoder,
    weights: Weights,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, "batch"],
    choice: Choice,
) -> Decoding:
    """Reads the prompts, the first lengths[row] ≥ 1 tokens of each row.

    weights: what the decoder's `ready` made of the parameters.
    Of a prompt longer than the decoder's context only the end is read, as nanoGPT crops it.
    """
    room = tokens.shape[1] if decoder.context is None else decoder.context
    read, held = tokens, lengths
    if tokens.shape[1] > room:
        read = _shifted(tokens, jnp.maximum(lengths - room, 0))[:, :room]
        held = jnp.minimum(lengths, room)
    carry, logits = decoder.prefill(weights, read, held)
    recent = jnp.pad(read, ((0, 0), (0, room - read.shape[1])))
    memory = choice.begin(tokens, lengths, logits.shape[-1])
    if choice.beams > 1:
        beams = jnp.repeat(jnp.arange(tokens.shape[0]), choice.beams)
        carry = decoder.reorder(carry, beams)
        logits, recent, held = (jnp.take(x, beams, axis=0) for x in (logits, recent, held))
    rows = logits.shape[0]
    nothing = jnp.zeros(rows, jnp.int32)
    return Decoding(
        carry, logits, recent, held, memory, nothing > 0, nothing, jnp.zeros((), jnp.int32)
    )


def decode(
    decoder: Decoder,
    weights: Weights,
    key: Key,
    state: Decoding,
    choice: Choice,
    length: int,
    fits: bool = False,
) -> tuple[Decoding, Int[Array, "rows {length}"]]:
    """Writes up to `length` more tokens to each row; in parts or at once, they are the same.

    Ends early when all rows are complete; what comes after a row's end is 0.

    A row that fills the decoder's context forgets all but the newer half of it and reads that
    again from place 0: every token then sees between half a context and a whole one, learned
    positions stay within their table, and the cost is one prefill per half context.

    fits: says that this can't happen, which spares compiling it.
    """
    Part = tuple[Decoding, Array, Array]

    def goes_on(part: Part) -> Array:
        state, _, step = part
        return (step < length) & ~state.ended.all()

    def one(part: Part) -> Part:
        state, written, step = part
        chosen = choice.pick(jax.random.fold_in(key, state.made), state.logits, state.memory)
        if chosen.parents is not None:
            written = jnp.take(written, chosen.parents, axis=0)
            state = _reordered(decoder, state, chosen.parents)
        token = jnp.where(state.ended, 0, chosen.token)
        written = jax.lax.dynamic_update_slice(written, token[:, None], (0, step))
        lengths = state.lengths + ~state.ended
        ended = state.ended | chosen.ended
        state = _read(decoder, weights, state, token, fits)
        state = dataclasses.replace(
            state, memory=chosen.memory, ended=ended, lengths=lengths, made=state.made + 1
        )
        return state, written, step + 1

    written = jnp.zeros((state.logits.shape[0], length), jnp.int32)
    begin = (state, written, jnp.zeros((), jnp.int32))
    state, written, _ = jax.lax.while_loop(goes_on, one, begin)
    return state, written


def generate(
    decoder: Decoder,
    params: Params,
    key: Key,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, "batch"],
    choice: Choice,
    length: int,
) -> tuple[Int[Array, "rows {length}"], Int[Array, "rows"]]:
    """`ready`, `start`, then `decode`: what follows each prompt, and how many tokens that is."""
    weights = decoder.ready(params)
    state = start(decoder, weights, tokens, lengths, choice)
    fits = has_room(decoder, tokens.shape[1] + length)
    state, written = decode(decoder, weights, key, state, choice, length, fits)
    return written, state.lengths


def has_room(decoder: Decoder, tokens: int) -> bool:
    """Whether a row can come to have so many tokens, prompt included, and forget none."""
    return decoder.context is None or tokens <= decoder.context


def _read(
    decoder: Decoder, weights: Weights, state: Decoding, token: Int[Array, "rows"], fits: bool
) -> Decoding:
    if fits or decoder.context is None:
        return _step(decoder, weights, state, token)
    return jax.lax.cond(
        (state.held >= decoder.context).any(),
        lambda: _slide(decoder, weights, state, token),
        lambda: _step(decoder, weights, _noted(state, token), token),
    )


def _step(
    decoder: Decoder, weights: Weights, state: Decoding, token: Int[Array, "rows"]
) -> Decoding:
    carry, logits = decoder.step(weights, state.carry, token)
    return dataclasses.replace(state, carry=carry, logits=logits)


def _reordered(decoder: Decoder, state: Decoding, parents: Int[Array, "rows"]) -> Decoding:
    taken = {
        name: jnp.take(getattr(state, name), parents, axis=0)
        for name in ("logits", "recent", "held", "ended", "lengths")
    }
    return dataclasses.replace(state, carry=decoder.reorder(state.carry, parents), **taken)


def _noted(state: Decoding, token: Int[Array, "rows"]) -> Decoding:
    here = jnp.arange(state.recent.shape[1])[None, :] == state.held[:, None]
    recent = jnp.where(here, token[:, None], state.recent)
    return dataclasses.replace(state, recent=recent, held=state.held + 1)


def _slide(
    decoder: Decoder, weights: Weights, state: Decoding, token: Int[Array, "rows"]
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
    carry, logits = decoder.prefill(weights, state.recent, state.held)
    return dataclasses.replace(state, carry=carry, logits=logits)


def _shifted(tokens: Int[Array, "batch time"], by: Int[Array, "batch"]) -> Int[Array, "batch time"]:
    places = jnp.arange(tokens.shape[1])[None, :] + by[:, None]
    return jnp.take_along_axis(tokens, jnp.minimum(places, tokens.shape[1] - 1), axis=1)
