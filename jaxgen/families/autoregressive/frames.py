"""Sequences of frames, many keys sounding at once: music by piano roll.

A frame's keys are independent of each other given all frames before (Boulanger-Lewandowski et al.
2012): the network gives each a probability, and log p(frame) is the sum of their logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgen.experiment import Context, Items, Key, Loss, Model, Output, Params
from jaxgen.families.autoregressive.likelihood import Score
from jaxgen.families.autoregressive.passes import whole_batches
from jaxgen.nn.linear import Linear
from jaxgen.nn.recurrence import Carry, Marks
from jaxgen.parallel.sharding import fetched

Frames = Float[Array, "batch time keys"]


class RecurrentFrames(nn.Module):
    """Logits of each key of the next frame.

    keys: in a frame.
    stack: makes the layers, as `RecurrentStack`, called with `name`.
    dropout: on the frames that are read.
    """

    keys: int
    stack: Callable[..., nn.Module]
    dropout: float = 0.0

    def initial(self, batch: int) -> Carry:
        """What is remembered of no frame."""
        carry: Carry = self.stack(parent=None).initial(batch)
        return carry

    @nn.compact
    def __call__(
        self,
        frames: Frames,
        carry: Carry | None = None,
        reads: Bool[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Frames, Carry]:
        """Float32 logits after each frame, and what to go on with; see `recurrence.py`."""
        x = nn.Dropout(self.dropout, deterministic=deterministic)(frames)
        x, carry = self.stack(name="stack")(x, carry, Marks(reads=reads), deterministic)
        return Linear((self.keys,), ("embed", None), name="keys")(x).astype(jnp.float32), carry


def frame_nats(logits: Frames, frames: Frames) -> Float[Array, "batch time"]:
    """-log p of each frame, the sum over its keys, in nats."""
    return (jax.nn.softplus(logits) - frames * logits).sum(-1)


def frame_loss(network: RecurrentFrames) -> Loss:
    """The mean of `frame_nats` over the frames that are predicted; the weight is their number.

    A batch has "frames" (rows, length, keys) and "mask" (rows, length - 1), as
    `jaxgen.data.frames.FramePieces` gives them.
    """

    def loss(params: Params, context: Context) -> Output:
        total, count = _totals(network, params, context.batch, context.key)
        count = count.astype(jnp.float32)
        return Output(value=total / jnp.maximum(count, 1), weight=count)

    return loss


def frame_pass(network: RecurrentFrames, data: str, rows: int = 16) -> Score:
    """Scores every piece of `data[data]`: "nats" a frame, every frame counting alike."""
    compiled = jax.jit(lambda params, batch: _totals(network, params, batch, None))

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        items: Items = datasets[data]
        sums = np.zeros(2)
        for batch, there in whole_batches(items, rows):
            batch["mask"] = batch["mask"] & there[:, None]
            sums += [float(each) for each in fetched(compiled(trained.params, batch))]
        return {"nats": float(sums[0] / sums[1])}

    return score


def drawn_frames(
    network: RecurrentFrames,
    params: Params,
    key: Key,
    beginning: Float[Array, "rows begun keys"],
    length: int,
    temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, "rows {length} keys"]:
    """Goes on from the beginning: frames of 0 and 1, each key drawn by its own probability."""

    def one(state: tuple[Carry, Array], step: Any) -> tuple[tuple[Carry, Array], Array]:
        carry, logits = state
        scaled = logits / jnp.maximum(temperature, 1e-4)
        frame = jax.random.bernoulli(jax.random.fold_in(key, step), jax.nn.sigmoid(scaled))
        frame = frame.astype(jnp.float32)
        made: Any = network.apply({"params": params}, frame[:, None], carry)
        after, carry = made
        return (carry, after[:, 0]), frame

    begun: Any = network.apply({"params": params}, beginning)
    logits, carry = begun
    _, frames = jax.lax.scan(one, (carry, logits[:, -1]), jnp.arange(length))
    return jnp.swapaxes(frames, 0, 1)


def _totals(
    network: RecurrentFrames, params: Params, batch: Any, key: Key | None
) -> tuple[Float[Array, ""], Array]:
    frames, mask = jnp.asarray(batch["frames"]), jnp.asarray(batch["mask"])
    rngs = None if key is None else {"dropout": key}
    made: Any = network.apply(
        {"params": params}, frames[:, :-1], None, mask, key is None, rngs=rngs
    )
    nats = frame_nats(made[0], frames[:, 1:])
    return jnp.where(mask, nats, 0).sum(), mask.sum()
