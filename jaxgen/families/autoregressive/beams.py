"""Beam search: the likeliest texts, several at a time, through the one decoding loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.experiment import Key, Params
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.decoding import Choice, Pick, decode, has_room, start
from jaxgen.families.autoregressive.policies import Memory, Policy, combined

# Log-probabilities are divided by what this says of a text's length, in tokens.
LengthPenalty = Callable[[Array], Array]


def power_penalty(exponent: float | Float[Array, ""]) -> LengthPenalty:
    """length^exponent: 0 takes the likeliest text, 1 the likeliest by token; more: longer ones."""
    return lambda length: length.astype(jnp.float32) ** exponent


def gnmt_penalty(exponent: float | Float[Array, ""]) -> LengthPenalty:
    """((5 + length) / 6)^exponent (Wu et al. 2016, eq. 14)."""
    return lambda length: ((5 + length.astype(jnp.float32)) / 6) ** exponent


@flax.struct.dataclass
class Hypotheses:
    """The best texts of each prompt, best first.

    tokens: (batch, beams, length), 0 beyond a text's end.
    lengths: in tokens, the one that ended a text included, (batch, beams).
    scores: log-probabilities after the length penalty, (batch, beams); -inf where there is none.
    """

    tokens: Any
    lengths: Any
    scores: Any


@flax.struct.dataclass
class _Beams:
    """texts, scores and memory of the beams that go on, a row each; and the complete ones."""

    texts: Any
    scores: Any
    policy: Any
    step: Any
    complete: Hypotheses


def beam_search(
    decoder: Decoder,
    params: Params,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, "batch"],
    policy: Policy,
    *,
    beams: int,
    length: int,
    penalty: LengthPenalty,
) -> Hypotheses:
    """The `beams` best texts of at most `length` tokens that follow each prompt.

    Of the 2·beams likeliest continuations in each step, those that complete a text are kept aside,
    and the `beams` likeliest of the others go on; so with one token that ends a text, no beam is
    lost to it. A prompt is done when none of its beams can come to beat what is complete; what has
    come to `length` counts as complete. With `beams` as large as the number of all prefixes this
    is the exact search.

    policy: is given log-probabilities; what it changes, beyond ruling tokens out, changes scores.

    Raises:
        UserError: for fewer than one beam.
    """
    if beams < 1:
        raise UserError(f"A search needs at least 1 beam, not {beams}.")
    choice = _beams(combined(policy), beams, length, penalty)
    weights = decoder.ready(params)
    state = start(decoder, weights, tokens, lengths, choice)
    # Nothing is drawn, so any key will do.
    fits = has_room(decoder, tokens.shape[1] + length)
    state, _ = decode(decoder, weights, jax.random.key(0), state, choice, length, fits)
    return _with_unfinished(state.memory, beams, penalty)


def _beams(policy: Policy, beams: int, length: int, penalty: LengthPenalty) -> Choice:
    def begin(tokens: Array, lengths: Array, vocabulary: int) -> _Beams:
        batch = tokens.shape[0]
        nothing = jnp.full((batch, beams), -jnp.inf)
        # All beams begin alike: only the first counts.
        scores = nothing.at[:, 0].set(0.0).reshape(-1)
        memory = policy.begin(tokens, lengths, vocabulary)
        complete = Hypotheses(
            jnp.zeros((batch, beams, length), jnp.int32),
            jnp.zeros((batch, beams), jnp.int32),
            nothing,
        )
        return _Beams(
            jnp.zeros((batch * beams, length), jnp.int32),
            scores,
            jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), memory),
            jnp.zeros((), jnp.int32),
            complete,
        )

    def pick(key: Key, logits: Float[Array, "rows vocabulary"], memory: _Beams) -> Pick:
        vocabulary = logits.shape[-1]
        batch = logits.shape[0] // beams
        likely = policy.scores(jax.nn.log_softmax(logits.astype(jnp.float32)), memory.policy)
        totals = (memory.scores[:, None] + likely).reshape(batch, beams * vocabulary)
        scores, places = jax.lax.top_k(totals, min(2 * beams, beams * vocabulary))
        parents = places // vocabulary + beams * jnp.arange(batch)[:, None]
        token = (places % vocabulary).astype(jnp.int32)

        taken = jax.tree.map(lambda leaf: jnp.take(leaf, parents.ravel(), axis=0), memory.policy)
        advanced, ended = policy.advance(taken, token.ravel())
        ended = ended.reshape(token.shape)
        texts = (
            jnp.take(memory.texts, parents.ravel(), axis=0).at[:, memory.step].set(token.ravel())
        )
        texts = texts.reshape(*token.shape, length)

        step = memory.step + 1
        found = Hypotheses(
            texts,
            jnp.full(token.shape, step),
            jnp.where(ended, scores / penalty(step), -jnp.inf),
        )
        complete = _best(memory.complete, found, beams)

        candidates = scores.shape[1]
        alive, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, scores), beams)
        rows = (chosen + candidates * jnp.arange(batch)[:, None]).ravel()

        def of_chosen(leaf: Array) -> Array:
            return jnp.take(leaf, rows, axis=0)

        # A score only falls, while its length may come to weigh less.
        hope = jnp.maximum(alive / penalty(step), alive / penalty(jnp.asarray(length)))
        done = hope.max(1) <= complete.scores.min(1)
        next_memory = _Beams(
            of_chosen(texts.reshape(-1, length)),
            alive.reshape(-1),
            jax.tree.map(of_chosen, advanced),
            step,
            complete,
        )
        return Pick(
            of_chosen(token.ravel()),
            next_memory,
            jnp.repeat(done, beams),
            of_chosen(parents.ravel()),
        )

    return Choice(begin, pick, beams)


def _best(first: Hypotheses, second: Hypotheses, count: int) -> Hypotheses:
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), first, second)
    scores, places = jax.lax.top_k(both.scores, count)
    return Hypotheses(
        jnp.take_along_axis(both.tokens, places[:, :, None], axis=1),
        jnp.take_along_axis(both.lengths, places, axis=1),
        scores,
    )


def _with_unfinished(memory: Memory, beams: int, penalty: LengthPenalty) -> Hypotheses:
    batch = memory.complete.scores.shape[0]
    scores = memory.scores.reshape(batch, beams) / penalty(memory.step)
    lengths = jnp.full((batch, beams), memory.step)
    texts = memory.texts.reshape(batch, beams, -1)
    return _best(memory.complete, Hypotheses(texts, lengths, scores), beams)
