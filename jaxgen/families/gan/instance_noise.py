"""Noise on everything that the discriminator sees, less of it from update to update."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key

Things = Float[Array, "batch *shape"]
State = dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class InstanceNoise:
    """An `Augmentation`: Gaussian noise on real and made alike (Sønderby et al. 2017, section 3.2).

    Blurred, the two overlap: there is a slope to every mode, also to those that no one makes yet
    (Arjovsky & Bottou 2017, section 3). The deviation falls geometrically.

    start, end: standard deviations, in the units of the things.
    updates: of the discriminator, until it is `end`; it stays there.
    """

    start: float
    end: float
    updates: int

    def init(self) -> State:
        """Begins at `start`."""
        return {"deviation": jnp.asarray(self.start, jnp.float32)}

    def __call__(self, key: Key, things: Things, state: State) -> Things:
        """Things with noise of the present deviation."""
        return things + state["deviation"] * jax.random.normal(key, things.shape)

    def following(self, state: State, real_logits: Float[Array, "batch *patches"]) -> State:
        """A little less."""
        factor = (self.end / self.start) ** (1 / self.updates)
        return {"deviation": jnp.maximum(state["deviation"] * factor, self.end)}
