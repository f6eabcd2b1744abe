"""What may be written next, given what has been written: penalties, guides, and their composition.

`logits.py` has what looks at the logits alone; a `Policy` remembers something of each row besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxgen.families.autoregressive.automata import FORBIDDEN, Automaton
from jaxgen.families.autoregressive.logits import Number, Processor, Row

Memory = Any  # a pytree whose leaves have a row for each of the batch, or None


@dataclass(frozen=True)
class Policy:
    """Logits to logits, with a memory of each row.

    begin: `(tokens (batch, time), lengths (batch,), vocabulary) -> memory` of the prompts.
    scores: `(logits (batch, vocabulary), memory) -> logits`; -inf rules a token out.
    advance: `(memory, token (batch,)) -> (memory, ended (batch,))`: after one more token a row;
        `ended` says whether the row is complete with it.
    """

    begin: Callable[[Array, Array, int], Memory]
    scores: Callable[[Row, Memory], Row]
    advance: Callable[[Memory, Array], tuple[Memory, Array]]


def combined(*policies: Policy | Processor) -> Policy:
    """Applies policies, and processors without a memory, in order; one of them ends a row."""
    parts = [each if isinstance(each, Policy) else _stateless(each) for each in policies]

    def begin(tokens: Array, lengths: Array, vocabulary: int) -> Memory:
        return tuple(part.begin(tokens, lengths, vocabulary) for part in parts)

    def scores(logits: Row, memory: Memory) -> Row:
        for part, own in zip(parts, memory, strict=True):
            logits = part.scores(logits, own)
        return logits

    def advance(memory: Memory, token: Int[Array, "batch"]) -> tuple[Memory, Array]:
        advanced = [part.advance(own, token) for part, own in zip(parts, memory, strict=True)]
        ended = jnp.zeros(token.shape, bool)
        for _, by in advanced:
            ended = ended | by
        return tuple(own for own, _ in advanced), ended

    return Policy(begin, scores, advance)


def repetition(penalty: Number) -> Policy:
    """Divides the logits of all tokens that stand in a row by `penalty`, the prompt's too.

    Negative ones are multiplied; 1 changes nothing (CTRL, Keskar et al. 2019, section 4.1; the sign
    is transformers').
    """

    def scores(logits: Row, seen: Bool[Array, "batch vocabulary"]) -> Row:
        lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return jnp.where(seen, lowered, logits)

    def advance(
        seen: Bool[Array, "batch vocabulary"], token: Int[Array, "batch"]
    ) -> tuple[Array, Array]:
        return seen.at[jnp.arange(token.shape[0]), token].set(True), _nothing_ended(token)

    def begin(tokens: Array, lengths: Array, vocabulary: int) -> Array:
        real = jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]
        places = jnp.where(real, tokens, vocabulary)  # beyond the last is dropped
        rows = jnp.arange(tokens.shape[0])[:, None]
        return jnp.zeros((tokens.shape[0], vocabulary), bool).at[rows, places].set(True)

    return Policy(begin, scores, advance)


def frequency(each: Number, once: Number = 0.0) -> Policy:
    """Lowers a token's logit by `each` for every time it was written, and by `once` for the first.

    The prompt doesn't count. (What OpenAI's interface calls frequency and presence penalty.)
    """

    def scores(logits: Row, counts: Int[Array, "batch vocabulary"]) -> Row:
        return logits - each * counts - once * (counts > 0)

    def advance(
        counts: Int[Array, "batch vocabulary"], token: Int[Array, "batch"]
    ) -> tuple[Array, Array]:
        return counts.at[jnp.arange(token.shape[0]), token].add(1), _nothing_ended(token)

    def begin(tokens: Array, lengths: Array, vocabulary: int) -> Array:
        return jnp.zeros((tokens.shape[0], vocabulary), jnp.int32)

    return Policy(begin, scores, advance)


def guided(automaton: Automaton) -> Policy:
    """Rules out what an automaton forbids, and ends a row where it comes to a final state."""

    def scores(logits: Row, state: Int[Array, "batch"]) -> Row:
        following = jnp.take(automaton.following, state, axis=0)
        # A network may have more tokens than its tokenizer.
        rest = logits.shape[-1] - following.shape[-1]
        following = jnp.pad(following, ((0, 0), (0, rest)), constant_values=FORBIDDEN)
        return jnp.where(following != FORBIDDEN, logits, -jnp.inf)

    def advance(state: Int[Array, "batch"], token: Int[Array, "batch"]) -> tuple[Array, Array]:
        # A row that has ended stays where it is, whatever is drawn for it.
        following = jnp.asarray(automaton.following)[state, token]
        state = jnp.where(following == FORBIDDEN, state, following)
        return state, jnp.take(automaton.final, state)

    def begin(tokens: Array, lengths: Array, vocabulary: int) -> Array:
        return jnp.zeros(tokens.shape[0], jnp.int32)

    return Policy(begin, scores, advance)


def _stateless(process: Processor) -> Policy:
    def begin(tokens: Array, lengths: Array, vocabulary: int) -> None:
        return None

    def scores(logits: Row, memory: None) -> Row:
        return process(logits)

    def advance(memory: None, token: Int[Array, "batch"]) -> tuple[None, Bool[Array, "batch"]]:
        return None, _nothing_ended(token)

    return Policy(begin, scores, advance)


def _nothing_ended(token: Int[Array, "batch"]) -> Bool[Array, "batch"]:
    return jnp.zeros(token.shape, bool)
