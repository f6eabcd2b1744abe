"""The likelihood of text: the loss that trains a language model and the scores that judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgen.experiment import Batch, Context, Items, Key, Loss, Model, Output, Params

# (params, tokens, positions or None, segments or None, key or None) -> logits; without a key
# nothing is dropped.
Logits = Callable[[Params, Array, Array | None, Array | None, Key | None], Array]
Score = Callable[[Model, Mapping[str, Any], Key], Mapping[str, float]]


def network_logits(network: Any) -> Logits:
    """The logits of a Linen network with the arguments of `Transformer.__call__`."""

    def logits(
        params: Params,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None,
        segments: Int[Array, "batch time"] | None,
        key: Key | None,
    ) -> Float[Array, "batch time vocabulary"]:
        rngs = None if key is None else {"dropout": key}
        return network.apply(
            {"params": params}, tokens, positions, segments, key is None, rngs=rngs
        )

    return logits


def cross_entropy(
    logits: Float[Array, "batch time vocabulary"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """-log p(target) in nats, in float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def next_token_loss(logits: Logits) -> Loss:
    """The mean nats per predicted token, the output's weight being their number.

    A batch has "tokens" (rows, length + 1): the first `length` are seen, the last `length`
    predicted. Optional: "mask" (rows, length), True where the prediction counts; "segments" and
    "positions" (rows, length + 1) of packed texts, segment 0 being padding.
    """

    def loss(params: Params, context: Context) -> Output:
        total, count = _summed(logits, params, context.batch, context.key)
        return Output(value=total / jnp.maximum(count, 1), weight=count)

    return loss


def full_pass(logits: Logits, data: str, rows: int = 64) -> Score:
    """Scores every item of `data[data]` once, in order: "nats" per predicted token, exactly.

    Deterministic: the key isn't used. Items are those of `next_token_loss`, `rows` at a time.
    """
    summed = jax.jit(lambda params, batch: _summed(logits, params, batch, None))

    def score(model: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        items: Items = datasets[data]
        results = []
        for start in range(0, len(items), rows):
            # The last batch repeats an item, uncounted, so that every batch has one shape.
            indices = np.minimum(np.arange(start, start + rows), len(items) - 1)
            batch = dict(items[indices])
            there = (np.arange(start, start + rows) < len(items))[:, None]
            shape = (rows, batch["tokens"].shape[1] - 1)
            batch["mask"] = batch.get("mask", np.ones(shape, bool)) & there
            results.append(summed(model.params, batch))
        return {"nats": _mean(results)}

    return score


def random_estimate(logits: Logits, data: str, rows: int, batches: int = 200) -> Score:
    """Scores random items of `data[data]`: "nats" per predicted token, an estimate.

    nanoGPT's `estimate_loss`: `batches` batches of `rows` windows, drawn with replacement.
    """
    summed = jax.jit(lambda params, batch: _summed(logits, params, batch, None))

    def score(model: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        items: Items = datasets[data]
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        drawn = generator.integers(len(items), size=(batches, rows))
        return {"nats": _mean([summed(model.params, items[indices]) for indices in drawn])}

    return score


def _summed(
    logits: Logits, params: Params, batch: Batch, key: Key | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The nats of all predicted tokens together, and how many there are."""
    tokens = jnp.asarray(batch["tokens"])
    positions, segments = (
        jnp.asarray(batch[name])[:, :-1] if name in batch else None
        for name in ("positions", "segments")
    )
    nats = cross_entropy(logits(params, tokens[:, :-1], positions, segments, key), tokens[:, 1:])
    counts = _counts(batch)
    if counts is None:
        return nats.sum(), jnp.asarray(float(nats.size))
    return jnp.where(counts, nats, 0).sum(), counts.sum().astype(jnp.float32)


def _counts(batch: Batch) -> Bool[Array, "batch time"] | None:
    counts = None if "mask" not in batch else jnp.asarray(batch["mask"])
    if "segments" in batch:
        segments = jnp.asarray(batch["segments"])
        # A text's last token doesn't predict the next text's first.
        inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
        counts = inside if counts is None else counts & inside
    return counts


def _mean(results: list[tuple[Any, Any]]) -> float:
    # Sums over the batches in float64: a corpus has more tokens than float32 has digits.
    totals = np.array([(float(total), float(count)) for total, count in results])
    return float(totals[:, 0].sum() / totals[:, 1].sum())
