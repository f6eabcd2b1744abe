"""The Gaussian with independent entries: posterior, prior and likelihood of most of this family."""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key

Entries = Float[Array, "*shape"]


@flax.struct.dataclass
class DiagonalGaussian:
    """N(mean, exp(log_deviation)²), entry by entry; probabilities come entry by entry too.

    mean, log_deviation: equally shaped (μ and log σ).
    """

    mean: Any
    log_deviation: Any

    def sample(self, key: Key) -> Entries:
        """μ + σ ε: differentiable in both (Kingma & Welling 2013)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_deviation) * noise

    def draw(
        self, key: Key, samples: int
    ) -> tuple[Float[Array, "samples *shape"], Float[Array, "samples *shape"]]:
        """So many samples, and each one's log density entry by entry."""
        noise = jax.random.normal(key, (samples, *self.mean.shape), self.mean.dtype)
        value = self.mean[None] + jnp.exp(self.log_deviation)[None] * noise
        return value, -0.5 * (jnp.square(noise) + math.log(2 * math.pi)) - self.log_deviation[None]

    def log_probability(self, value: Entries) -> Entries:
        """log density in nats; `value` may have further leading axes."""
        mean, log_deviation = (
            jnp.broadcast_to(leaf, value.shape) for leaf in (self.mean, self.log_deviation)
        )
        scaled = (value - mean) * jnp.exp(-log_deviation)
        return -0.5 * (jnp.square(scaled) + math.log(2 * math.pi)) - log_deviation

    def divergence(self, other: DiagonalGaussian) -> Entries:
        """KL(self ‖ other) in nats: log σ₂/σ₁ + (σ₁² + (μ₁-μ₂)²) / 2σ₂² - ½."""
        log_ratio = self.log_deviation - other.log_deviation
        gap = (self.mean - other.mean) * jnp.exp(-other.log_deviation)
        # expm1 keeps the digits of a posterior that is close to its prior.
        return 0.5 * (jnp.expm1(2 * log_ratio) + jnp.square(gap)) - log_ratio


def standard_normal(shape: tuple[int, ...], dtype: Any = jnp.float32) -> DiagonalGaussian:
    """N(0, 1) of that shape."""
    return DiagonalGaussian(mean=jnp.zeros(shape, dtype), log_deviation=jnp.zeros(shape, dtype))
