"""Decoding a recurrent network: what it remembers is all there is of a text."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.experiment import Params
from jaxgen.families.autoregressive.attentive_recurrent import AttentiveRecurrent
from jaxgen.families.autoregressive.decoder import Decoder

Tokens = Int[Array, "batch time"]


@flax.struct.dataclass
class Remembered:
    """A recurrent network's carry.

    carry: after all that was read; leaves (batch, ...).
    trail: before the last tokens and after each of them, leaves (batch, ahead + 1, ...), the newest
        last; None where nothing is ever taken back.
    held: how many tokens were read, (batch,).
    """

    carry: Any
    trail: Any
    held: Any


def recurrent_decoder(network: Any, *, ahead: int = 1) -> Decoder:
    """Decodes a network with `RecurrentLanguage`'s methods; texts may be of any length.

    ahead: so many tokens may be read at a time and taken back again, for which the states between
        them are kept; 1 keeps none.
    """

    def prefill(
        params: Params, tokens: Tokens, lengths: Int[Array, "batch"]
    ) -> tuple[Remembered, Float[Array, "batch vocabulary"]]:
        logits, carry = network.apply({"params": params}, tokens, lengths, method="prefill")
        trail = None
        if ahead > 1:
            trail = jax.tree.map(lambda leaf: jnp.stack([leaf] * (ahead + 1), axis=1), carry)
        return Remembered(carry, trail, lengths), logits

    def extend(
        params: Params, before: Remembered, tokens: Tokens
    ) -> tuple[Remembered, Float[Array, "batch time vocabulary"]]:
        size = tokens.shape[1]
        if size > ahead > 1:
            raise UserError(f"{size} tokens at a time were asked for and {ahead} are kept.")
        if before.trail is None:
            logits, carry = network.apply({"params": params}, tokens, before.carry, method="extend")
            return Remembered(carry, None, before.held + size), logits

        def one(carry: Any, token: Int[Array, "batch"]) -> tuple[Any, Any]:
            logits, carry = network.apply(
                {"params": params}, token[:, None], carry, method="extend"
            )
            return carry, (logits[:, 0], carry)

        carry, (logits, states) = jax.lax.scan(one, before.carry, tokens.T)
        newest = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), states)
        trail = jax.tree.map(
            lambda old, new: jnp.concatenate([old[:, size:], new], axis=1), before.trail, newest
        )
        return Remembered(carry, trail, before.held + size), jnp.swapaxes(logits, 0, 1)

    def reorder(carry: Remembered, beams: Int[Array, "rows"]) -> Remembered:
        return jax.tree.map(lambda leaf: jnp.take(leaf, beams, axis=0), carry)

    def rewind(carry: Remembered, held: Int[Array, "batch"]) -> Remembered:
        if carry.trail is None:
            raise UserError("This decoder keeps no states to go back to: ask for `ahead` above 1.")
        # The newest state lies at the end, at `ahead`.
        place = ahead - (carry.held - held)

        def state(trail: Array) -> Array:
            index = place.reshape(-1, *[1] * (trail.ndim - 1))
            return jnp.take_along_axis(trail, index, axis=1)[:, 0]

        def older(trail: Array) -> Array:
            # What is older moves up, so that the newest is the last again.
            index = jnp.arange(ahead + 1)[None, :] - (carry.held - held)[:, None]
            index = jnp.maximum(index, 0).reshape(*index.shape, *[1] * (trail.ndim - 2))
            return jnp.take_along_axis(trail, index, axis=1)

        return Remembered(jax.tree.map(state, carry.trail), jax.tree.map(older, carry.trail), held)

    return Decoder(
        prefill,
        extend,
        reorder,
        rewind,
        context=None,
        ahead=ahead,
        reading=lambda ahead: recurrent_decoder(network, ahead=ahead),
    )


@flax.struct.dataclass
class Looking:
    """The carry of a recurrent network with attention: its own, and what it looks at."""

    carry: Any
    memory: Any


def attentive_decoder(
    network: AttentiveRecurrent,
    context: int,
    source: Int[Array, "batch sources"],
    source_segments: Int[Array, "batch sources"] | None = None,
) -> Decoder:
    """Decodes answers to one batch of sources, which `prefill` reads; nothing is taken back.

    context: is no bound to it.
    source_segments: 0 where a source is padding.
    """

    def scored(params: Params, hidden: Array) -> Array:
        logits: Any = network.apply({"params": params}, hidden, method="scores")
        return logits

    def follow(params: Params, seen: Looking, tokens: Tokens, reads: Any) -> tuple[Looking, Array]:
        found: Any = network.apply(
            {"params": params}, seen.carry, seen.memory, tokens, reads, method="follow"
        )
        after, hidden = found
        return Looking(after, seen.memory), hidden

    def prefill(
        params: Params, tokens: Tokens, lengths: Int[Array, "batch"]
    ) -> tuple[Looking, Float[Array, "batch vocabulary"]]:
        begun: Any = network.apply({"params": params}, source, source_segments, method="begin")
        each = tokens.shape[0] // source.shape[0]
        seen = jax.tree.map(lambda leaf: jnp.repeat(leaf, each, axis=0), Looking(*begun))
        reads = jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]
        seen, hidden = follow(params, seen, tokens, reads)
        last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)
        return seen, scored(params, last)[:, 0]

    def extend(
        params: Params, seen: Looking, tokens: Tokens
    ) -> tuple[Looking, Float[Array, "batch time vocabulary"]]:
        seen, hidden = follow(params, seen, tokens, None)
        return seen, scored(params, hidden)

    def reorder(carry: Looking, beams: Int[Array, "rows"]) -> Looking:
        return jax.tree.map(lambda leaf: jnp.take(leaf, beams, axis=0), carry)

    def rewind(carry: Looking, held: Int[Array, "batch"]) -> Looking:
        raise UserError("A recurrent network with attention can't take tokens back.")

    return Decoder(prefill, extend, reorder, rewind)
