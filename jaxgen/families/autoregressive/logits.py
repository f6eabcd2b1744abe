"""What is allowed to come next: functions from logits to logits, composed for sampling.

A ruled-out token gets -inf. Each parameter may be a traced scalar, so that changing it doesn't
compile anew; ties with the last token that stays, stay too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
        falling = jnp.sort(logits, axis=-1, descending=True)
        last = jnp.clip(count, 1, logits.shape[-1]) - 1
        return _at_least(logits, jnp.take(falling, last, axis=-1)[:, None])

    return _unless(count == 0, process)


def top_p(probability: Number) -> Processor:
    """Keeps the fewest likeliest tokens that reach `probability` together; 1 keeps all.

    Nucleus sampling (Holtzman et al. 2020).
    """

    def process(logits: Row) -> Row:
        falling = jnp.sort(logits, axis=-1, descending=True)
        kept = _reaches(jax.nn.softmax(falling, axis=-1), probability)
        threshold = jnp.where(kept, falling, jnp.inf).min(-1, keepdims=True)
        return _at_least(logits, threshold)

    return _unless(probability >= 1, process)


def min_p(share: Number) -> Processor:
    """Keeps tokens at least `share` as likely as the likeliest (Nguyen et al. 2024); 0: all."""

    def process(logits: Row) -> Row:
        return _at_least(logits, logits.max(-1, keepdims=True) + jnp.log(share))

    return process


def typical(probability: Number) -> Processor:
    """Keeps the tokens whose surprise is nearest to the entropy; 1 keeps all.

    The fewest of those that reach `probability` together (Meister et al. 2023, "Locally Typical
    Sampling", eq. 11).
    """

    def process(logits: Row) -> Row:
        surprise = -jax.nn.log_softmax(logits, axis=-1)
        likely = jnp.exp(-surprise)
        entropy = jnp.where(likely > 0, likely * surprise, 0).sum(-1, keepdims=True)
        distance = jnp.where(likely > 0, jnp.abs(surprise - entropy), jnp.inf)
        order = jnp.argsort(distance, axis=-1)
        kept = _reaches(jnp.take_along_axis(likely, order, axis=-1), probability)
        nearest = jnp.take_along_axis(distance, order, axis=-1)
        threshold = jnp.where(kept, nearest, -jnp.inf).max(-1, keepdims=True)
        return jnp.where(distance <= threshold, logits, -jnp.inf)

    return _unless(probability >= 1, process)


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


def _reaches(ordered: Row, probability: Number) -> Bool[Array, "batch vocabulary"]:
    """The fewest first ones whose sum is `probability`."""
    return jnp.cumsum(ordered, axis=-1) - ordered < probability


def _unless(off: Any, process: Processor) -> Processor:
    """Sorting a vocabulary costs more than a small network: not where nothing is asked."""
    return lambda logits: jax.lax.cond(off, lambda logits: logits, process, logits)
