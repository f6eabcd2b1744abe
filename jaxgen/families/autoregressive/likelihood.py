"""The likelihood of text: the loss that trains a language model and the scores that judge it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Context, Items, Key, Loss, Model, Output, Params
from jaxgen.families.autoregressive.chunks import Measure, summed_over_time
from jaxgen.families.autoregressive.language_model import LanguageModel, Seen
from jaxgen.families.autoregressive.passes import perplexity, whole_batches
from jaxgen.parallel.sharding import fetched

Score = Callable[[Model, Mapping[str, Any], Key], Mapping[str, float]]


def cross_entropy(
    logits: Float[Array, "batch time vocabulary"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """-log p(target) in nats, in float32."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - _chosen(logits, targets)


def next_token_loss(
    model: LanguageModel,
    *,
    chunk: int | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    penalties: Mapping[str, float] | None = None,
) -> Loss:
    """The mean loss per predicted token, the output's weight being their number.

    A batch has "tokens" (rows, length + 1): the first `length` are seen, the last `length`
    predicted. Optional: "mask" (rows, length), True where the prediction counts; "segments" and
    "positions" (rows, length + 1) of packed texts, segment 0 being padding; for encoder–decoders
    "source" and "source_segments" (rows, sources), what the tokens are an answer to.

    Metrics are "nats" per token with none of the extras, "accuracy", the model's own penalties
    by their names, and "squared_log_partition" if there is a z-loss.

    chunk: works out the scores of so many positions at a time, and again in the backward pass,
        so that all logits never exist together; None has them all at once.
    z_loss: weight of (log Σ exp scores)², which holds scores in a range (Chowdhery et al. 2022,
        section 5; 1e-4 there).
    label_smoothing: the share of the target's probability that the whole vocabulary gets in equal
        parts, the target included (Szegedy et al. 2016, section 7).
    penalties: weights of the model's penalties by name; those without one are only reported.

    Raises:
        UserError: when traced, for a penalty that the model doesn't give.
    """
    weights = dict(penalties or {})

    def measure(logits: Array, targets: Array) -> dict[str, Array]:
        chosen, partition = _chosen(logits, targets), jax.nn.logsumexp(logits, axis=-1)
        nats = partition - chosen
        # Where the target has the highest score; by the maximum that the sum works out anyway.
        found = {"nats": nats, "accuracy": (chosen >= logits.max(-1)).astype(jnp.float32)}
        if z_loss:
            found["squared_log_partition"] = jnp.square(partition)
        measured = jax.lax.stop_gradient(found)
        if label_smoothing:
            nats = nats + label_smoothing * (chosen - logits.mean(-1))
        if z_loss:
            nats = nats + z_loss * jnp.square(partition)
        return measured | {"loss": nats}

    def loss(params: Params, context: Context) -> Output:
        predicted = _predictions(context.batch)
        sums, given = _summed(model, params, predicted, context.key, measure, chunk)
        count = predicted.counts.sum().astype(jnp.float32)
        means = {name: rows.sum() / jnp.maximum(count, 1) for name, rows in sums.items()}
        value = means.pop("loss")
        for name, weight in weights.items():
            if name not in given:
                raise UserError(
                    f"The model has no penalty {name!r} to weigh; "
                    f"it has {', '.join(sorted(given)) or 'none'}."
                )
            value = value + weight * given[name]
        return Output(value=value, weight=count, metrics=means | dict(given))

    return loss


def row_nats(
    model: LanguageModel,
    params: Params,
    batch: Batch,
    key: Key | None = None,
    chunk: int | None = None,
) -> Float[Array, "rows"]:
    """-log p of all that counts in a row together, in nats; a batch as `next_token_loss` has it."""
    sums, _ = _summed(model, params, _predictions(batch), key, _only_nats, chunk)
    return sums["nats"]


def full_pass(
    model: LanguageModel,
    data: str,
    rows: int = 64,
    chunk: int | None = None,
    token_bytes: Integer[np.ndarray, "vocabulary"] | None = None,
) -> Score:
    """Scores every item of `data[data]` once, in order, exactly.

    "nats" per predicted token and their exponential, "perplexity". Deterministic: the key isn't
    used. Items are those of `next_token_loss`, `rows` at a time.

    token_bytes: how many bytes of text each token stands for. With it, "bits_per_byte" too, which
        compares models of different vocabularies: the bits of all predicted tokens, over their
        bytes. A token that stands for none, as a text's end, costs bits all the same.
    """
    summed = jax.jit(lambda params, batch: _totals(model, params, batch, chunk, token_bytes))

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        results = []
        for batch, there in whole_batches(datasets[data], rows):
            shape = (rows, batch["tokens"].shape[1] - 1)
            batch["mask"] = batch.get("mask", np.ones(shape, bool)) & there[:, None]
            results.append(fetched(summed(trained.params, batch)))
        return _scores(results)

    return score


def random_estimate(
    model: LanguageModel, data: str, rows: int, batches: int = 200, chunk: int | None = None
) -> Score:
    """Scores random items of `data[data]`: "nats" per predicted token, an estimate.

    nanoGPT's `estimate_loss`: `batches` batches of `rows` windows, drawn with replacement.
    """
    summed = jax.jit(lambda params, batch: _totals(model, params, batch, chunk, None))

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        items: Items = datasets[data]
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        drawn = generator.integers(len(items), size=(batches, rows))
        results = [fetched(summed(trained.params, items[indices])) for indices in drawn]
        return {"nats": _scores(results)["nats"]}

    return score


@flax.struct.dataclass
class _Predictions:
    """What a batch asks of a model: targets and whether they count, (batch, time)."""

    seen: Any
    targets: Any
    counts: Any


def _predictions(batch: Batch) -> _Predictions:
    tokens = jnp.asarray(batch["tokens"])
    positions, segments = (
        jnp.asarray(batch[name]) if name in batch else None for name in ("positions", "segments")
    )
    targets = tokens[:, 1:]
    counts = jnp.asarray(batch["mask"]) if "mask" in batch else jnp.ones(targets.shape, bool)
    if segments is not None:
        # A text's last token doesn't predict the next text's first.
        counts &= (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
        segments = segments[:, :-1]
    if positions is not None:
        positions = positions[:, :-1]
    source, source_segments = (
        jnp.asarray(batch[name]) if name in batch else None
        for name in ("source", "source_segments")
    )
    seen = Seen(tokens[:, :-1], positions, segments, source, source_segments)
    return _Predictions(seen, targets, counts)


def _summed(
    model: LanguageModel,
    params: Params,
    predicted: _Predictions,
    key: Key | None,
    measure: Measure,
    chunk: int | None,
) -> tuple[dict[str, Float[Array, "batch"]], Mapping[str, Float[Array, ""]]]:
    """What `measure` finds, summed over each row, and the model's penalties."""
    hidden, penalties = model.hidden(params, predicted.seen, key)
    scores = partial(model.scores, params)
    sums = summed_over_time(measure, scores, hidden, predicted.targets, predicted.counts, chunk)
    return sums, penalties


def _totals(
    model: LanguageModel,
    params: Params,
    batch: Batch,
    chunk: int | None,
    token_bytes: Integer[np.ndarray, "vocabulary"] | None,
) -> dict[str, Array]:
    """Sums over a batch: nats, counted predictions, and their bytes if those are known."""
    predicted = _predictions(batch)
    sums, _ = _summed(model, params, predicted, None, _only_nats, chunk)
    totals = {"nats": sums["nats"].sum(), "count": predicted.counts.sum()}
    if token_bytes is not None:
        each = jnp.asarray(token_bytes, jnp.int32)[predicted.targets]
        totals["bytes"] = jnp.where(predicted.counts, each, 0).sum()
    return totals


def _scores(results: list[dict[str, np.ndarray]]) -> dict[str, float]:
    # Sums over the batches in float64: a corpus has more tokens than float32 has digits.
    totals = {name: sum(float(each[name]) for each in results) for name in results[0]}
    nats = totals["nats"] / totals["count"]
    scores = {"nats": nats, "perplexity": perplexity(nats)}
    if "bytes" in totals:
        scores["bits_per_byte"] = totals["nats"] / totals["bytes"] / math.log(2)
    return scores


def _only_nats(logits: Array, targets: Array) -> dict[str, Array]:
    return {"nats": cross_entropy(logits, targets)}


def _chosen(
    logits: Float[Array, "batch time vocabulary"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
