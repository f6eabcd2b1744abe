"""What is allowed to come next: functions from logits to logits, composed for sampling.

A ruled-out token gets -inf. Each parameter may be a traced scalar, so that changing it doesn't
compile anew; ties with the last token that stays, stay too.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Row = Float[Array, "batch vocabulary"]
Processor = Callable[[Row], Row]
Number = float | Float[Array, ""]


def temperature(value: Number) -> Processor:
    """Divides by `value`: below 1 sharpens, above 1 flattens; 0 leaves the likeliest token only."""

    def process(logits: Row) -> Row:
        best = jnp.argmax(logits, axis=-1, keepdims=True)
        only = jnp.where(jnp.arange(logits.shape[-1])[None, :] == best, logits, -jnp.inf)
        return jnp.where(value == 0, only, logits / jnp.where(value == 0, 1.0, value))

    return process


def top_k(count: int | Int[Array, ""]) -> Processor:
    """Keeps the `count` likeliest tokens (Fan et al. 2018); 0 keeps all."""

    def process(logits: Row) -> Row:
        vocabulary = logits.shape[-1]
        kept = jnp.where(count == 0, vocabulary, jnp.clip(count, 1, vocabulary))
        falling = jnp.sort(logits, axis=-1, descending=True)
        return _at_least(logits, jnp.take(falling, kept - 1, axis=-1)[:, None])

    return process


def top_p(probability: Number) -> Processor:
    """Keeps the fewest likeliest tokens that reach `probability` together; 1 keeps all.

    Nucleus sampling (Holtzman et al. 2020).
    """

    def process(logits: Row) -> Row:
        falling = jnp.sort(logits, axis=-1, descending=True)
        likely = jax.nn.softmax(falling, axis=-1)
        before = jnp.cumsum(likely, axis=-1) - likely
        # Rounding may let the sum reach 1 before the last token.
        kept = (before < probability) | (probability >= 1)
        threshold = jnp.where(kept, falling, jnp.inf).min(-1, keepdims=True)
        return _at_least(logits, threshold)

    return process


def min_p(share: Number) -> Processor:
    """Keeps tokens at least `share` as likely as the likeliest (Nguyen et al. 2024); 0: all."""

    def process(logits: Row) -> Row:
        return _at_least(logits, logits.max(-1, keepdims=True) + jnp.log(share))

    return process


def first_tokens(count: int) -> Processor:
    """Keeps the tokens below `count`: those beyond, which fill a vocabulary up, mean nothing."""

    def process(logits: Row) -> Row:
        return jnp.where(jnp.arange(logits.shape[-1])[None, :] < count, logits, -jnp.inf)

    return process


def composed(*processors: Processor) -> Processor:
    """One processor that applies the given ones in order."""

    def process(logits: Row) -> Row:
        for processor in processors:
            logits = processor(logits)
        return logits

    return process


def _at_least(logits: Row, threshold: Float[Array, "batch 1"]) -> Row:
    return jnp.where(logits >= threshold, logits, -jnp.inf)
