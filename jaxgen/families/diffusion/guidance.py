"""Steering samples towards their condition."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.families.diffusion.paths import Condition, Denoiser, Items, Time

# (condition, which items lose it) -> condition: how a kind of condition looks when it is left out.
Drop = Callable[[Condition, Bool[Array, "batch"]], Condition]

NO_CLASS = -1  # the label of an item whose class is not told: one-hot encoded, all zeros


def drop_class(label: Int[Array, "batch"], where: Bool[Array, "batch"]) -> Int[Array, "batch"]:
    """The `Drop` of class labels: `NO_CLASS` wherever `where` says so."""
    return jnp.where(where, NO_CLASS, label)


def classifier_free(denoiser: Denoiser, guidance: float | Float[Array, ""], drop: Drop) -> Denoiser:
    """Moves predictions away from the unconditional one (Ho & Salimans 2022).

    prediction = unconditional + guidance · (conditional - unconditional): 0 ignores the condition,
    1 is the conditional model, more overstates it (the paper's w is guidance - 1). Both come from
    one call on a doubled batch. Linear in the prediction, hence the same for every kind of it.
    """

    def guided(noisy: Items, time: Time, condition: Condition) -> Items:
        without = drop(condition, jnp.ones(time.shape, bool))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), condition, without)
        doubled = denoiser(jnp.concatenate([noisy, noisy]), jnp.concatenate([time, time]), both)
        conditional, unconditional = jnp.split(doubled, 2)
        return unconditional + guidance * (conditional - unconditional)

    return guided
