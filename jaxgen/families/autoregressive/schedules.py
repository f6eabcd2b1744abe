"""Policies that count places: what may stand at each in turn, and what must."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxgen.families.autoregressive.logits import Row
from jaxgen.families.autoregressive.policies import Policy

FREE = -1  # a place at which anything may stand


def in_turn(allowed: Bool[Array, "period vocabulary"]) -> Policy:
    """Lets place p after the prompt hold only what row p modulo the period allows."""

    def begin(tokens: Array, lengths: Array, vocabulary: int) -> Int[Array, "batch"]:
        return jnp.zeros(tokens.shape[0], jnp.int32)

    def scores(logits: Row, place: Int[Array, "batch"]) -> Row:
        # A network may have more tokens than its music.
        rest = logits.shape[-1] - allowed.shape[-1]
        here = jnp.take(jnp.asarray(allowed), place % allowed.shape[0], axis=0)
        return jnp.where(jnp.pad(here, ((0, 0), (0, rest))), logits, -jnp.inf)

    def advance(place: Int[Array, "batch"], token: Int[Array, "batch"]) -> tuple[Array, Array]:
        return place + 1, jnp.zeros(token.shape, bool)

    return Policy(begin, scores, advance)


def forced(tokens: Int[Array, "batch places"]) -> Policy:
    """Writes tokens[row, p] at place p after the prompt; `FREE` and what is beyond stay free.

    Likely or not: a policy before it can't rule out what it writes.
    """

    def begin(prompts: Array, lengths: Array, vocabulary: int) -> tuple[Array, Array]:
        return jnp.asarray(tokens), jnp.zeros(prompts.shape[0], jnp.int32)

    def scores(logits: Row, memory: tuple[Array, Array]) -> Row:
        wanted, place = memory
        inside = jnp.minimum(place, wanted.shape[1] - 1)
        here = jnp.take_along_axis(wanted, inside[:, None], axis=1)
        free = (here == FREE) | (place >= wanted.shape[1])[:, None]
        only = jnp.where(jnp.arange(logits.shape[-1])[None, :] == here, 0.0, -jnp.inf)
        return jnp.where(free, logits, only)

    def advance(memory: Any, token: Int[Array, "batch"]) -> tuple[Any, Array]:
        wanted, place = memory
        return (wanted, place + 1), jnp.zeros(token.shape, bool)

    return Policy(begin, scores, advance)
