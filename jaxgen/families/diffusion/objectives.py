"""What a denoiser is trained on, each a loss `(params, Context) -> Output`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Context, Key, Loss, Output, Params
from jaxgen.families.diffusion.guidance import Drop
from jaxgen.families.diffusion.paths import NoisePath

# A Linen network's `apply`: (variables, x_t, t, condition, rngs=...) -> prediction.
Apply = Callable[..., Any]
TimeDistribution = Callable[[Key, int], Float[Array, "count"]]


def uniform_time(key: Key, count: int) -> Float[Array, "count"]:
    """t ~ U(0, 1), one of `count` equal cells for each item and all shifted alike.

    The low-discrepancy sampler of variational diffusion models (Kingma et al. 2021, appendix I.1):
    each t is uniform, and together they cover the interval evenly, which calms the loss.
    """
    shift = jax.random.uniform(key)
    return (shift + jnp.arange(count, dtype=jnp.float32) / count) % 1.0


def logit_normal_time(mean: float = 0.0, deviation: float = 1.0) -> TimeDistribution:
    """t = sigmoid(N(mean, deviation²)): more of the middle (Esser et al. 2024, section 3.1)."""

    def sample(key: Key, count: int) -> Float[Array, "count"]:
        return jax.nn.sigmoid(mean + deviation * jax.random.normal(key, (count,)))

    return sample


def flow_matching_loss(
    apply: Apply,
    path: NoisePath,
    *,
    time_distribution: TimeDistribution,
    drop: Drop,
    drop_rate: float,
) -> Loss:
    """Conditional flow matching (Lipman et al. 2022, equation 14): E ‖v(x_t, t, c) - dx_t/dt‖².

    The square is averaged over an item's entries. The batch holds "image" (batch, ...) and "label",
    the condition (batch, ...).

    apply: the network's `apply`, predicting the velocity. It gets a "dropout" key.
    time_distribution: times in [0, 1], scaled to the path's own.
    drop: how a condition is left out, for classifier-free guidance.
    drop_rate: of how many items it is, in [0, 1].
    """

    def loss(params: Params, context: Context) -> Output:
        data, condition = context.batch["image"], context.batch["label"]
        count = data.shape[0]
        noise_key, time_key, drop_key, dropout_key = jax.random.split(context.key, 4)
        noise = jax.random.normal(noise_key, data.shape, data.dtype)
        time = time_distribution(time_key, count)
        time = path.data_time + (path.noise_time - path.data_time) * time
        condition = drop(condition, jax.random.bernoulli(drop_key, drop_rate, (count,)))
        at = path.levels(time, data)
        velocity = at.signal_rate * data + at.noise_rate * noise
        prediction = apply(
            {"params": params, **context.variables},
            path.noised(data, noise, time),
            time,
            condition,
            rngs={"dropout": dropout_key},
        )
        value = jnp.mean(jnp.square(prediction - velocity))
        return Output(value=value, weight=count)

    return loss
