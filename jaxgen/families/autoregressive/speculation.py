"""Speculative decoding: a small model writes ahead, the large one checks many tokens in one pass.

Leviathan, Kalman & Matias 2023, "Fast Inference from Transformers via Speculative Decoding",
algorithm 1 (and Chen et al. 2023). What comes out has exactly the large model's distribution.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxgen.errors import UserError
from jaxgen.experiment import Key, Params
from jaxgen.families.autoregressive.decoder import Carry, Decoder, Weights
from jaxgen.families.autoregressive.logits import Processor
from jaxgen.families.autoregressive.policies import Memory, Policy, combined

Row = Float[Array, "batch vocabulary"]


@flax.struct.dataclass
class Speculated:
    """What was written, and what it took.

    tokens: (batch, length), 0 beyond a row's end.
    lengths: how many tokens were written to each row, (batch,).
    calls: passes of the large model after the prompt's, a row's own, (batch,).
    accepted: how many of the tokens written were the small model's, (batch,).
    """

    tokens: Any
    lengths: Any
    calls: Any
    accepted: Any


@flax.struct.dataclass
class _Round:
    """Between two passes: `last` is the newest token of each row, which no carry has read."""

    carry: Carry
    draft_carry: Carry
    held: Any
    last: Any
    memory: Memory
    ended: Any
    written: Speculated
    number: Any


def speculate(
    decoder: Decoder,
    draft: Decoder,
    params: tuple[Params, Params],
    key: Key,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, "batch"],
    policy: Policy | Processor,
    *,
    length: int,
    ahead: int,
    longest: int | None = None,
) -> Speculated:
    """Writes up to `length` tokens to each row, `ahead` of them guessed at a time.

    Rows are independent: each accepts as many guesses as it can.

    Args:
        decoder, draft: the large model's and the small one's, both able to read `ahead` + 1 tokens
            at once and to forget them.
        params: the large model's and the small one's.
        policy: what both draw by.
        longest: no prompt has more tokens than that; the width of `tokens` unless given.

    Raises:
        UserError: where a decoder reads too few at once, or has no room for a row with `length` and
            the guesses; where the two score vocabularies of different sizes.
    """
    longest = tokens.shape[1] if longest is None else longest
    check_room(decoder, draft, longest + length + ahead, ahead)
    policy = combined(policy)
    weights = decoder.ready(params[0]), draft.ready(params[1])
    carry, logits = decoder.prefill(weights[0], tokens, lengths)
    draft_carry, draft_logits = draft.prefill(weights[1], tokens, lengths)
    if logits.shape != draft_logits.shape:
        raise UserError(
            f"The draft model scores {draft_logits.shape[-1]} tokens and the model that it drafts "
            f"for {logits.shape[-1]}: take one with the same tokenizer."
        )
    batch = tokens.shape[0]
    memory = policy.begin(tokens, lengths, logits.shape[-1])
    first = _drawn(jax.random.fold_in(key, 0), policy, logits, memory)
    memory, ended = policy.advance(memory, first)
    room = jnp.zeros((batch, length + ahead + 1), jnp.int32).at[:, 0].set(first)
    zeros = jnp.zeros(batch, jnp.int32)
    written = Speculated(room, zeros + 1, zeros, zeros)
    one = jnp.ones((), jnp.int32)
    state = _Round(carry, draft_carry, lengths, first, memory, ended, written, one)

    def goes_on(state: _Round) -> Array:
        return ~_done(state, length).all()

    def round_(state: _Round) -> _Round:
        return _one_round(decoder, draft, weights, key, policy, state, length, ahead)

    made = jax.lax.while_loop(goes_on, round_, state).written
    lengths = jnp.minimum(made.lengths, length)
    real = jnp.arange(length)[None, :] < lengths[:, None]
    return dataclasses.replace(
        made, tokens=jnp.where(real, made.tokens[:, :length], 0), lengths=lengths
    )


def _done(state: _Round, length: int) -> Bool[Array, "batch"]:
    return state.ended | (state.written.lengths >= length)


def _one_round(
    decoder: Decoder,
    draft: Decoder,
    weights: tuple[Weights, Weights],
    key: Key,
    policy: Policy,
    state: _Round,
    length: int,
    ahead: int,
) -> _Round:
    keys = jax.random.split(jax.random.fold_in(key, state.number), ahead + 2)
    guesses, of_draft, memories, ended, draft_carry = _guessed(
        draft, weights[1], policy, keys[:ahead], state, ahead
    )
    read = jnp.stack([state.last, *guesses], axis=1)
    carry, logits = decoder.extend(weights[0], state.carry, read)
    of_target = [
        jax.nn.softmax(policy.scores(logits[:, place].astype(jnp.float32), memory))
        for place, memory in enumerate(memories)
    ]

    # A guess is kept with probability min(1, target / draft), and with it all before it.
    lots = jax.random.uniform(keys[ahead], (ahead, state.last.shape[0]))
    kept = jnp.ones(state.last.shape, bool)
    accepted = jnp.zeros(state.last.shape, jnp.int32)
    for place, guess in enumerate(guesses):
        of_both = (
            jnp.take_along_axis(p[place], guess[:, None], axis=1)[:, 0]
            for p in (of_target, of_draft)
        )
        target, drafted = of_both
        kept = kept & (lots[place] * drafted < target)
        accepted = accepted + kept

    # Where one is refused, what the draft gave too little of is drawn; after the last, anything.
    target = _of_row(jnp.stack(of_target), accepted)
    drafted = _of_row(jnp.stack([*of_draft, jnp.zeros_like(of_draft[0])]), accepted)
    rest = jnp.maximum(target - drafted, 0)
    rest = jnp.where(rest.sum(-1, keepdims=True) > 0, rest, target)
    last = jax.random.categorical(keys[ahead + 1], jnp.log(rest), axis=-1).astype(jnp.int32)
    memory = jax.tree.map(
        lambda *leaves: _of_row(jnp.stack(leaves), accepted), memories[0], *memories[1:]
    )
    memory, ended_by_last = policy.advance(memory, last)

    # What counts ends with the first token that completes the row.
    done = _done(state, length)
    ends = jnp.stack([*ended, jnp.zeros_like(done)]) & (
        jnp.arange(ahead + 1)[:, None] < accepted[None, :]
    )
    early = ends.any(0)
    new = jnp.where(early, jnp.argmax(ends, axis=0) + 1, accepted + 1)
    new = jnp.where(done, 0, new)
    tokens = jnp.stack([*guesses, last], axis=1)
    tokens = jnp.where(jnp.arange(ahead + 1)[None, :] == accepted[:, None], last[:, None], tokens)
    written = state.written
    put = jax.vmap(lambda row, part, at: jax.lax.dynamic_update_slice(row, part, (at,)))
    text = put(written.tokens, tokens, written.lengths)
    text = jnp.where(done[:, None], written.tokens, text)
    held = state.held + jnp.where(done, 0, accepted + 1)
    return _Round(
        decoder.rewind(carry, held),
        draft.rewind(draft_carry, held),
        held,
        jnp.where(done, state.last, last),
        memory,
        state.ended | (~done & (early | ended_by_last)),
        Speculated(
            text,
            written.lengths + new,
            written.calls + ~done,
            written.accepted + jnp.minimum(new, accepted),
        ),
        state.number + 1,
    )


def _guessed(
    draft: Decoder, weights: Weights, policy: Policy, keys: Key, state: _Round, ahead: int
) -> tuple[list[Array], list[Row], list[Memory], list[Array], Carry]:
    """The small model's guesses and distributions, and what the policy remembers before each."""
    carry, token, memory = state.draft_carry, state.last, state.memory
    guesses, distributions, memories, ended = [], [], [memory], []
    for place in range(ahead):
        carry, logits = draft.step(weights, carry, token)
        scores = policy.scores(logits.astype(jnp.float32), memory)
        token = jax.random.categorical(keys[place], scores, axis=-1).astype(jnp.int32)
        memory, ends = policy.advance(memory, token)
        guesses.append(token)
        distributions.append(jax.nn.softmax(scores))
        memories.append(memory)
        ended.append(ends)
    # The last guess has to be read too, for the case that all are kept.
    carry, _ = draft.step(weights, carry, token)
    return guesses, distributions, memories, ended, carry


def _drawn(key: Key, policy: Policy, logits: Row, memory: Memory) -> Int[Array, "batch"]:
    scores = policy.scores(logits.astype(jnp.float32), memory)
    return jax.random.categorical(key, scores, axis=-1).astype(jnp.int32)


def _of_row(
    choices: Shaped[Array, "choices batch ..."], chosen: Int[Array, "batch"]
) -> Shaped[Array, "batch ..."]:
    return choices[chosen, jnp.arange(chosen.shape[0])]


def check_room(decoder: Decoder, draft: Decoder, needed: int, ahead: int) -> None:
    """Raises a `UserError` unless both have `needed` places and read `ahead` + 1 at once."""
    if ahead < 1:
        raise UserError(f"A draft must guess at least 1 token ahead, not {ahead}.")
    for name, each in (("model", decoder), ("draft model", draft)):
        if each.ahead is not None and each.ahead <= ahead:
            raise UserError(
                f"The {name}'s decoder reads {each.ahead} tokens at once and {ahead + 1} are "
                f"needed: make it with ahead={ahead + 1}."
            )
        if each.context is not None and each.context < needed:
            raise UserError(
                f"Prompt, new tokens and guesses need {needed} places and the {name}'s context has "
                f"{each.context}: write fewer tokens, or shorten the prompt."
            )
