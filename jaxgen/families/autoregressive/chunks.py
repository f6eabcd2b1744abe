"""Sums over what a language model predicts, without ever holding the scores of all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# (scores (batch, time, vocabulary), targets (batch, time)) -> {name: (batch, time)}
Measure = Callable[[Array, Array], Mapping[str, Array]]


def summed_over_time(
    measure: Measure,
    scores: Callable[[Array], Array],
    hidden: Float[Array, "batch time width"],
    targets: Int[Array, "batch time"],
    counts: Bool[Array, "batch time"],
    chunk: int | None,
) -> dict[str, Float[Array, "batch"]]:
    """What `measure` finds at the positions that count, summed over time.

    With `chunk`, the scores of so many positions at a time are worked out, measured and let go, and
    worked out again for the gradient. Time is cut, not the rows: however they are split over
    devices, each device has its share of every chunk.

    scores: hidden vectors (batch, time, width) to scores (batch, time, vocabulary).
    """

    def one(part: tuple[Array, Array, Array]) -> dict[str, Array]:
        hidden, targets, counts = part
        found = measure(scores(hidden), targets)
        return {name: jnp.where(counts, each, 0).sum(1) for name, each in found.items()}

    time = hidden.shape[1]
    if chunk is None or chunk >= time:
        return one((hidden, targets, counts))
    chunks = -(-time // chunk)

    def cut(leaf: Array) -> Array:
        # Filled up with positions that don't count.
        padding = [(0, 0), (0, chunks * chunk - time)] + [(0, 0)] * (leaf.ndim - 2)
        parts = jnp.pad(leaf, padding).reshape(leaf.shape[0], chunks, chunk, *leaf.shape[2:])
        return parts.swapaxes(0, 1)

    sums = jax.lax.map(
        jax.checkpoint(one, prevent_cse=False), (cut(hidden), cut(targets), cut(counts))
    )
    return {name: each.sum(0) for name, each in sums.items()}
