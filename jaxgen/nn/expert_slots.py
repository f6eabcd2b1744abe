"""Assignments of tokens to places that fill up in order, and moving vectors there and back.

Every assignment of a token gets a slot in one array that is sorted by place. Each slot knows its
assignment and each assignment its slot, so moving vectors there and back, gradients included, is
always a gather: scatters of vectors are slow on every platform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def ranks(
    chosen: Int[Array, "assignments"], places: int
) -> tuple[Int[Array, "assignments"], Int[Array, "places"]]:
    """How many earlier assignments each one's place has, and how many each place has in all."""
    taken = jax.nn.one_hot(chosen, places, dtype=jnp.int32)  # padding's are all 0
    so_far = jnp.cumsum(taken, axis=0)
    return (taken * so_far).sum(1) - 1, so_far[-1]


def inverse(slot: Int[Array, "tokens chosen"], slots: int) -> Int[Array, "slots"]:
    """Each slot's assignment, or one after the last where the slot stays empty."""
    empty = jnp.full(slots, slot.size, jnp.int32)
    every = jnp.arange(slot.size, dtype=jnp.int32)
    return empty.at[slot.reshape(-1)].set(every, mode="drop", unique_indices=True)


def _rows(x: Float[Array, "rows width"], index: Int[Array, "*taken"]) -> Array:
    return x.at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def spread(
    x: Float[Array, "tokens width"],
    slot: Int[Array, "tokens chosen"],
    assignment: Int[Array, "slots"],
) -> Float[Array, "slots width"]:
    """Each token's vector in all of its slots, and 0 in empty ones."""
    return _rows(x, assignment // slot.shape[1])


@jax.custom_vjp
def collected(
    x: Float[Array, "slots width"],
    slot: Int[Array, "tokens chosen"],
    assignment: Int[Array, "slots"],
) -> Float[Array, "tokens chosen width"]:
    """What lies in each assignment's slot, and 0 for those that have none."""
    return _rows(x, slot)


spread.defvjp(
    lambda x, slot, assignment: (spread(x, slot, assignment), slot),
    lambda slot, slope: (_rows(slope, slot).sum(1), None, None),
)
collected.defvjp(
    lambda x, slot, assignment: (_rows(x, slot), assignment),
    lambda assignment, slope: (
        _rows(slope.reshape(-1, slope.shape[-1]), assignment),
        None,
        None,
    ),
)
