"""Normalization over all rows of a batch, with running statistics for when there is no batch."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last (Ioffe & Szegedy 2015, algorithms 1 and 2).

    As PyTorch's: the running variance is the unbiased one. Everything about a channel is worked out
    on (channels,), and the input itself is only multiplied and added to once. In `variables`:
    "batch_stats" {"mean", "variance"}.

    classes: of the label, each with a gain and a bias of its own, while the statistics are of all
        classes together (Dumoulin et al. 2017, section 2.2; de Vries et al. 2017); 0: one for all.
    momentum: how much of the running statistics stays at each batch.
    epsilon: added to the variance.
    spread: of the initial gains around 1, a standard deviation (DCGAN: 0.02).
    dtype: of the answer; the statistics are float32.
    """

    classes: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    spread: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *places channels"],
        label: Int[Array, "batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *places channels"]:
        """Normalizes by the batch's own statistics while training, by the running ones else.

        Raises `UserError` without labels where there are classes.
        """
        if self.classes and label is None:
            raise UserError(
                f"A normalization for {self.classes} classes needs a label for each picture: pass "
                "labels, or build the network without classes."
            )
        channels = x.shape[-1]
        shape = (self.classes, channels) if self.classes else (channels,)
        names = (None, "channels_out") if self.classes else ("channels_out",)

        def near_one(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return 1 + self.spread * jax.random.normal(key, shape, dtype)

        gain: Any = self.param(
            "scale", nn.with_logical_partitioning(near_one, names), shape, jnp.float32
        )
        bias: Any = self.param(
            "bias",
            nn.with_logical_partitioning(nn.initializers.zeros, names),
            shape,
            jnp.float32,
        )
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_variance = self.variable("batch_stats", "variance", jnp.ones, (channels,))
        if train:
            rows = x.astype(jnp.float32).reshape(-1, channels)
            mean = rows.mean(0)
            variance = jnp.maximum(jnp.square(rows).mean(0) - jnp.square(mean), 0.0)
            if not self.is_initializing():
                kept, count = self.momentum, rows.shape[0]
                running_mean.value = kept * running_mean.value + (1 - kept) * mean
                unbiased = variance * (count / max(1, count - 1))
                running_variance.value = kept * running_variance.value + (1 - kept) * unbiased
        else:
            mean, variance = running_mean.value, running_variance.value
        if self.classes:
            gain, bias = gain[label], bias[label]
        else:
            gain, bias = gain[None], bias[None]
        factor = gain * jax.lax.rsqrt(variance + self.epsilon)[None]
        offset = bias - mean[None] * factor
        shape = (factor.shape[0], *(1,) * (x.ndim - 2), channels)
        answer = x.astype(jnp.float32) * factor.reshape(shape) + offset.reshape(shape)
        return answer.astype(self.dtype)
