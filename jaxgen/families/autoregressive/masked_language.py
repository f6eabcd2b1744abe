"""Guessing hidden tokens from both sides: the loss that trains an encoder, and its scores.

Devlin et al. 2019, "BERT", section 3.1. `data/masking.py` hides the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgen.experiment import Batch, Context, Key, Loss, Model, Output, Params
from jaxgen.families.autoregressive.chunks import summed_over_time
from jaxgen.families.autoregressive.likelihood import Score, cross_entropy
from jaxgen.families.autoregressive.passes import perplexity, whole_batches
from jaxgen.parallel.sharding import fetched


@dataclass(frozen=True)
class MaskedLanguageModel:
    """A vector at each token that has seen both sides, then scores of what belongs there.

    hidden: `(params, batch, key or None) -> (batch, time, width)`; of a batch it reads "tokens" and
        what there is of "positions", "segments" and "types", all (batch, time). Without a key
        nothing is dropped.
    scores: `(params, hidden (*rows, width)) -> (*rows, vocabulary)`, float32 logits.
    """

    hidden: Callable[[Params, Batch, Key | None], Array]
    scores: Callable[[Params, Array], Array]


def masked_language_model(network: Any) -> MaskedLanguageModel:
    """A Linen network with `Encoder`'s methods `hidden` and `scores`."""

    def hidden(params: Params, batch: Batch, key: Key | None) -> Float[Array, "batch time width"]:
        positions, segments, types = (
            jnp.asarray(batch[name]) if name in batch else None
            for name in ("positions", "segments", "types")
        )
        return network.apply(
            {"params": params},
            jnp.asarray(batch["tokens"]),
            positions,
            segments,
            key is None,
            types,
            rngs=None if key is None else {"dropout": key},
            method="hidden",
        )

    def scores(
        params: Params, hidden: Float[Array, "*rows width"]
    ) -> Float[Array, "*rows vocabulary"]:
        return network.apply({"params": params}, hidden, method="scores")

    return MaskedLanguageModel(hidden, scores)


def masked_language_loss(
    model: MaskedLanguageModel, *, most: int | None = None, chunk: int | None = None
) -> Loss:
    """The mean nats per chosen token, the output's weight being their number.

    A batch, each leaf (rows, length): "tokens" as they are seen, "targets" as they were, "chosen",
    True where to guess; optional "segments", 0 for padding, "positions" and "types".

    Metrics are "accuracy", the share of chosen tokens guessed, and with `most` the share of them
    that were "left_out".

    most: gathers so many chosen positions of a row, its first, before it scores them; at 15 % and
        a large vocabulary that spares most of the work. A row's others are left out, so give what
        a row can have. None scores all positions.
    chunk: scores so many positions at a time, as `next_token_loss` does.
    """

    def loss(params: Params, context: Context) -> Output:
        sums, count = _summed(model, params, context.batch, context.key, most, chunk)
        means = {name: total / jnp.maximum(count, 1) for name, total in sums.items()}
        value = means.pop("nats")
        if most is not None:
            asked = jnp.asarray(context.batch["chosen"]).sum().astype(jnp.float32)
            means["left_out"] = 1 - count / jnp.maximum(asked, 1)
        return Output(value=value, weight=count, metrics=means)

    return loss


def masked_pass(
    model: MaskedLanguageModel, data: str, rows: int = 64, chunk: int | None = None
) -> Score:
    """Scores every chosen token of `data[data]` once, exactly.

    "nats" a token, their exponential, "perplexity", and "accuracy". Items are those of
    `masked_language_loss`, `rows` at a time. Deterministic: the key isn't used.
    """
    summed = jax.jit(lambda params, batch: _summed(model, params, batch, None, None, chunk))

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        results = []
        for batch, there in whole_batches(datasets[data], rows):
            batch["chosen"] = batch["chosen"] & there[:, None]
            results.append(fetched(summed(trained.params, batch)))
        count = sum(float(count) for _, count in results)
        nats, right = (
            sum(float(sums[name]) for sums, _ in results) / count for name in ("nats", "accuracy")
        )
        return {"nats": nats, "perplexity": perplexity(nats), "accuracy": right}

    return score


def pseudo_perplexity(
    model: MaskedLanguageModel,
    data: str,
    mask: int,
    special: tuple[int, ...] = (),
    rows: int = 64,
) -> Score:
    """Scores each token of `data[data]` from all the others of its row (Salazar et al. 2020).

    "pseudo_nats", the mean of -log p(token | the rest), the token alone hidden by `mask`, and their
    exponential, "pseudo_perplexity" (section 2.3). A row of n tokens takes n looks at it.
    Deterministic: the key isn't used.

    Items have whole "tokens" (length,) and optionally "segments", 0 for padding, "positions" and
    "types".

    special: tokens that aren't counted, such as those that frame a text.
    """

    @jax.jit
    def summed(params: Params, batch: Batch, there: Array) -> tuple[Array, Array]:
        tokens = jnp.asarray(batch["tokens"])
        counts = jnp.broadcast_to(there[:, None], tokens.shape)
        if "segments" in batch:
            counts &= jnp.asarray(batch["segments"]) != 0
        for token in special:
            counts &= tokens != token

        def at(time: Array) -> Array:
            seen = dict(batch) | {"tokens": tokens.at[:, time].set(mask)}
            hidden = jnp.take(model.hidden(params, seen, None), time[None], axis=1)
            targets = jnp.take(tokens, time[None], axis=1)
            nats = cross_entropy(model.scores(params, hidden), targets)
            return jnp.where(jnp.take(counts, time[None], axis=1), nats, 0).sum()

        return jax.lax.map(at, jnp.arange(tokens.shape[1])).sum(), counts.sum()

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        results = [
            fetched(summed(trained.params, batch, there))
            for batch, there in whole_batches(datasets[data], rows)
        ]
        totals = np.array([(float(total), float(count)) for total, count in results]).sum(0)
        nats = float(totals[0] / totals[1])
        return {"pseudo_nats": nats, "pseudo_perplexity": perplexity(nats)}

    return score


def _summed(
    model: MaskedLanguageModel,
    params: Params,
    batch: Batch,
    key: Key | None,
    most: int | None,
    chunk: int | None,
) -> tuple[dict[str, Float[Array, ""]], Float[Array, ""]]:
    """Nats and right guesses of all chosen tokens together, and how many those are."""
    hidden = model.hidden(params, batch, key)
    targets, chosen = jnp.asarray(batch["targets"]), jnp.asarray(batch["chosen"])
    if most is not None:
        hidden, targets, chosen = _gathered(hidden, targets, chosen, min(most, chosen.shape[1]))
    sums = summed_over_time(
        _measured, partial(model.scores, params), hidden, targets, chosen, chunk
    )
    count = chosen.sum().astype(jnp.float32)
    return {name: each.sum() for name, each in sums.items()}, count


def _measured(logits: Array, targets: Array) -> dict[str, Array]:
    right = jax.lax.stop_gradient(logits.argmax(-1) == targets)
    return {"nats": cross_entropy(logits, targets), "accuracy": right.astype(jnp.float32)}


def _gathered(
    hidden: Float[Array, "batch time width"],
    targets: Int[Array, "batch time"],
    chosen: Bool[Array, "batch time"],
    most: int,
) -> tuple[
    Float[Array, "batch {most} width"], Int[Array, "batch {most}"], Bool[Array, "batch {most}"]
]:
    """The first `most` chosen positions of each row, then others, which don't count."""
    # Sorted, since `top_k` would gather all rows on every device.
    places = jnp.argsort(~chosen, axis=1, stable=True)[:, :most]
    there = jnp.take_along_axis(chosen, places, axis=1)
    hidden = jnp.take_along_axis(hidden, places[:, :, None], axis=1)
    return hidden, jnp.take_along_axis(targets, places, axis=1), there
