"""Binary pictures: the likelihood of black and white, and how grey becomes either."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key

Entries = Float[Array, "*shape"]


@flax.struct.dataclass
class Bernoulli:
    """Independent entries of 0 or 1; probabilities come entry by entry.

    logits: log p / (1 - p).
    """

    logits: Any

    def log_probability(self, value: Float[Array, "*item"]) -> Float[Array, "*samples_and_item"]:
        """In nats: x·logit - log(1 + exp logit); `value` is 0 or 1, with the logits' last axes."""
        value = jnp.broadcast_to(value, self.logits.shape)
        return value * self.logits - jax.nn.softplus(self.logits)

    def mean(self) -> Entries:
        """The probability of a 1."""
        return jax.nn.sigmoid(self.logits)


def binarized(key: Key, pictures: Any) -> Entries:
    """Pictures (*shape) in [-1, 1], each pixel 1 with its own grey as probability, else 0.

    Salakhutdinov & Murray 2008. Drawn anew at every sight, there is no fixed set to remember.
    """
    grey = (pictures + 1) / 2
    return (jax.random.uniform(key, pictures.shape) < grey).astype(jnp.float32)
