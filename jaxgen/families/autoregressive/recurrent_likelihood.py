"""Likelihood along streams of text, with what was remembered carried from step to step.

Truncated back-propagation through time (Williams & Peng 1990): a step reads the next part of each
stream, begins with what the last step left in `variables["carry"]`, and differentiates within the
part alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.experiment import Batch, Context, Key, Loss, Model, Output, Params, Variables
from jaxgen.families.autoregressive.language_model import LanguageModel
from jaxgen.families.autoregressive.likelihood import Score, cross_entropy, next_token_loss
from jaxgen.families.autoregressive.passes import perplexity
from jaxgen.nn.recurrence import Carry, Marks


def carried(network: Any, streams: int) -> Variables:
    """`variables` of a training along so many streams: nothing remembered yet.

    A stream's memory lies where its row of the batch does.
    """

    def box(leaf: Array) -> Any:
        return nn.LogicallyPartitioned(leaf, ("batch", *[None] * (leaf.ndim - 1)))

    return {"carry": jax.tree.map(box, network.initial(streams))}


def carried_loss(network: Any, loss_of: Callable[[LanguageModel], Loss] = next_token_loss) -> Loss:
    """Any loss of a language model, along streams.

    A batch has, besides what the loss wants, "begins" (rows,), True where a stream begins anew, and
    "stream" (rows,), which one each row is, as `jaxgen.data.streams.Streams` gives them.

    network: `RecurrentLanguage`, or another with its methods `read` and `scores`.
    """

    def loss(params: Params, context: Context) -> Output:
        batch: Any = context.batch
        carry, variables = context.variables["carry"], context.variables
        every = jax.tree.leaves(carry)[0].shape[0]
        # All streams in order, but where gradients are accumulated over parts of a batch.
        some = None if len(batch["stream"]) == every else jnp.asarray(batch["stream"])
        before = carry if some is None else jax.tree.map(lambda leaf: leaf[some], carry)
        hidden, after = _read(network, params, before, batch, context.key)
        model = LanguageModel(
            lambda params, seen, key: (hidden, {}),
            lambda params, hidden: network.apply({"params": params}, hidden, method="scores"),
        )
        output = loss_of(model)(params, context)
        after = jax.lax.stop_gradient(after)
        if some is not None:
            after = jax.tree.map(lambda old, new: old.at[some].set(new), carry, after)
        return dataclasses.replace(output, variables={**variables, "carry": after})

    return loss


def carried_pass(network: Any, data: str) -> Score:
    """Scores a whole text along `data[data]`, its `Streams`: "nats" and their "perplexity".

    Every token but the first is predicted once, by all of its stream before it.
    """

    def totals(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Array, Array]:
        hidden, carry = _read(network, params, carry, batch, None)
        logits = network.apply({"params": params}, hidden, method="scores")
        nats = cross_entropy(logits, jnp.asarray(batch["tokens"])[:, 1:])
        counts = jnp.asarray(batch["mask"])
        return carry, jnp.where(counts, nats, 0).sum(), counts.sum()

    compiled = jax.jit(totals)

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        streams = datasets[data]
        carry, sums = network.initial(streams.batch_size), np.zeros(2)
        for part in range(streams.parts):
            batch = streams.batch(part, slice(0, streams.batch_size))
            carry, nats, count = compiled(trained.params, carry, batch)
            # Fetched before the next part begins, as `whole_batches` says.
            sums += [float(nats), float(count)]
        nats = float(sums[0] / sums[1])
        return {"nats": nats, "perplexity": perplexity(nats)}

    return score


def _read(
    network: Any, params: Params, carry: Carry, batch: Any, key: Key | None
) -> tuple[Float[Array, "rows length width"], Carry]:
    tokens = jnp.asarray(batch["tokens"])[:, :-1]
    begins = jnp.zeros(tokens.shape, bool).at[:, 0].set(jnp.asarray(batch["begins"]))
    # Beyond a stream's end there is nothing to read.
    reads = jnp.pad(jnp.asarray(batch["mask"])[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    found: tuple[Any, Carry] = network.apply(
        {"params": params},
        tokens,
        carry,
        Marks(begins, reads),
        key is None,
        rngs=None if key is None else {"dropout": key},
        method="read",
    )
    return found
