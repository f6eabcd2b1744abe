"""Experts that lie on different devices: vectors travel to them and back by all-to-all.

Along one axis of the mesh, D devices hold each its own tokens and its own experts (GShard,
Lepikhin et al. 2020, section 3.3). A device's vectors there and back are 2 · tokens · chosen ·
width numbers or somewhat more; they are worth sending while that is less than the weights of all
experts, 3 · experts · width · hidden, which each device would have to fetch instead.

All functions here run inside `jax.shard_map`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.expert_slots import collected, inverse, ranks, spread
from jaxgen.parallel.operations import expected_trips

Axis = str | tuple[str, ...]  # of the mesh; several count as one

# From (vectors, the own expert of each, weights of the own experts): each vector's result.
# A vector whose expert is the one after the last gets 0.
OwnExperts = Callable[
    [Float[Array, "rows width"], Int[Array, "rows"], Any], Float[Array, "rows width"]
]

# More rounds make their buffers smaller and what is sent in vain less, but products shorter.
_ROUNDS_WHEN_BALANCED = 2


def sent_to_experts(
    x: Float[Array, "groups experts room width"], axis: Axis
) -> Float[Array, "all_groups own_experts room width"]:
    """What all D devices hold for the own experts; the exchange leaves the sum of sizes the same.

    (D - 1) / D of the array leave each device. The gradient is the way back.
    """
    return jax.lax.all_to_all(x, axis, split_axis=1, concat_axis=0, tiled=True)


def sent_back(
    x: Float[Array, "all_groups own_experts room width"], axis: Axis
) -> Float[Array, "groups experts room width"]:
    """The inverse of `sent_to_experts`."""
    return jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=1, tiled=True)


def in_rounds(
    own_experts: OwnExperts,
    axis: Axis,
    x: Float[Array, "tokens width"],
    chosen: Int[Array, "tokens chosen"],
    weights: Float[Array, "tokens chosen"],
    experts: Any,
    own: int,
) -> Float[Array, "tokens width"]:
    """Each token's weighted sum of its experts' results, in float32; nothing is ever dropped.

    How many vectors go from one device to another is known only when they are to be sent, but
    shapes must be known before. Room for the worst case, all A = tokens · chosen vectors of a
    device going to the same one, would be D times what a balanced load needs, for what arrives
    and for all that experts make of it. So vectors travel in rounds, with room for half a
    balanced load, R = ⌈A / 2D⌉ vectors a pair of devices, and there are as many rounds as the
    fullest pair needs: ⌈its load / R⌉, so 3 while none has more than 1.5 times a balanced load,
    and at most 2 D, if all a device's tokens want the experts of one.

    In each round a device sends (D - 1) · R vectors out and as many back, and as many indices of
    experts; in the gradient twice as many vectors. What a round makes is made again for its
    gradient, as by `jax.checkpoint`, and so is never kept: memory doesn't depend on the load.
    Inside `jax.checkpoint` nothing is made a third time.

    Args:
        own_experts: computes what arrives, by `experts`.
        axis: holds experts `own` · i to `own` · (i + 1) - 1 at its i-th device.
        x: the device's own tokens.
        chosen: for each of them experts of all devices; padding has the one after the last.
        weights: of the chosen experts.
        experts: the weights of the own experts.
        own: how many experts each device holds.
    """
    devices = jax.lax.axis_size(axis)
    there = chosen.reshape(-1) // own
    rank, load = ranks(there, devices)
    room = max(1, -(-chosen.size // (_ROUNDS_WHEN_BALANCED * devices)))
    # All devices of the axis must take part in all rounds.
    rounds = jax.lax.pmax(-(-load.max() // room), axis)
    plan = (there.reshape(chosen.shape), rank.reshape(chosen.shape), chosen % own)
    one = partial(_round, own_experts, axis, devices, room, own)
    # So many would do if all were full, and with more the products have no more rows.
    if_full = chosen.size / (devices * room)
    return _sum_of_rounds(one, if_full, rounds, plan, (x, weights, experts))


def _round(
    own_experts: OwnExperts,
    axis: Axis,
    devices: int,
    room: int,
    own: int,
    number: Int[Array, ""],
    plan: tuple[Array, Array, Array],
    moving: tuple[Array, Array, Any],
) -> Float[Array, "tokens width"]:
    """What round `number` adds: that of the assignments whose turn it is, at most `room` a pair."""
    (there, rank, expert), (x, weights, experts) = plan, moving
    place = rank - number * room
    slots = devices * room
    now = (there < devices) & (place >= 0) & (place < room)
    slot = jnp.where(now, there * room + place, slots)
    assignment = inverse(slot, slots)
    arrived = sent_to_experts(
        spread(x, slot, assignment).reshape(1, devices, room, -1), axis
    ).reshape(slots, -1)
    theirs = expert.reshape(-1).at[assignment].get(mode="fill", fill_value=own)
    wanted = jax.lax.all_to_all(theirs, axis, 0, 0, tiled=True)
    out = own_experts(arrived, wanted, experts).reshape(devices, 1, room, -1)
    back = collected(sent_back(out, axis).reshape(slots, -1), slot, assignment)
    return jnp.einsum("tkw,tk->tw", back, weights, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum_of_rounds(
    term: Callable[[Array, Any, Any], Array],
    expected: float,
    rounds: Int[Array, ""],
    plan: Any,
    moving: Any,
) -> Array:
    """Σ term(i, plan, moving) over `rounds` rounds i, about `expected`.

    The gradient is written out because jax has none for loops of unknown length.
    """
    out = jax.eval_shape(term, rounds, plan, moving)
    nothing = jnp.zeros(out.shape, out.dtype)
    with expected_trips(expected):
        return jax.lax.fori_loop(0, rounds, lambda i, sum_: sum_ + term(i, plan, moving), nothing)


def _forward(
    term: Any, expected: float, rounds: Array, plan: Any, moving: Any
) -> tuple[Array, Any]:
    return _sum_of_rounds(term, expected, rounds, plan, moving), (rounds, plan, moving)


def _backward(term: Any, expected: float, kept: Any, slope: Array) -> tuple[None, None, Any]:
    """The gradient of a sum is the sum of the gradients, here in float32."""
    rounds, plan, moving = kept

    def add(i: Array, sums: Any) -> Any:
        # The name of what `jax.checkpoint` repeats, by which it can be told from other work.
        with jax.named_scope("rematted_computation"):
            _, back = jax.vjp(partial(term, i, plan), moving)
        return jax.tree.map(lambda sum_, one: sum_ + one.astype(sum_.dtype), sums, *back(slope))

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), moving)
    with expected_trips(expected):
        sums = jax.lax.fori_loop(0, rounds, add, nothing)
    return None, None, jax.tree.map(lambda sum_, leaf: sum_.astype(leaf.dtype), sums, moving)


_sum_of_rounds.defvjp(_forward, _backward)
