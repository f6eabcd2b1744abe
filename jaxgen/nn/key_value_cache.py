"""What attention keeps of the tokens it has read: whole, quantized, or only a window of them.

Keys and values lie in slots. Without a window, slot s holds position s. With one, the sink tokens
keep their slots and all later positions take turns in the others, as in a ring: a cache then stays
as small as its window, however long the text (Mistral 7B, Jiang et al. 2023, section 2; sinks as in
StreamingLLM, Xiao et al. 2024, which keeps them in front of the window).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxgen.parallel.sharding import constrained

Vectors = Float[Array, "batch time groups depth"]


@dataclass(frozen=True)
class CacheRoom:
    """How much a cache holds, and how.

    capacity: positions that a row may come to have.
    ahead: so many tokens at most are read in one call after the first, and may be forgotten again
        (speculative decoding); a ring needs so many slots more.
    dtype: of keys and values; None is the computation's. `jnp.int8` keeps each vector of a head as
        whole numbers and one float32 scale: the largest magnitude becomes 127.
    """

    capacity: int
    ahead: int = 1
    dtype: Any = None


@flax.struct.dataclass
class Kept:
    """Vectors in slots, (batch, groups, slots, depth), and their scales, or None.

    Slots lie inside of groups, as the products of attention want them.
    """

    numbers: Any
    scale: Any = None

    def read(self, dtype: Any) -> Vectors:
        """The vectors, (batch, slots, groups, depth), in the computation's dtype."""
        numbers = self.numbers
        if self.scale is not None:
            numbers = numbers.astype(jnp.float32) * self.scale[..., None]
        return numbers.astype(dtype).transpose(0, 2, 1, 3)


@flax.struct.dataclass
class KeyValueCache:
    """The keys and values of the positions seen so far.

    ring: after how many later positions a slot is taken again; None: never.
    sink_tokens: the first positions, whose slots are never taken again.
    """

    key: Kept
    value: Kept
    ring: int | None = flax.struct.field(pytree_node=False, default=None)
    sink_tokens: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def slots(self) -> int:
        """How many positions it holds at a time."""
        # Counted from behind: caches are stacked over layers, except where one layer reads its own.
        size: int = self.key.numbers.shape[-2]
        return size


def new_cache(
    key: Vectors,
    value: Vectors,
    room: CacheRoom,
    lengths: Int[Array, "batch"] | None,
    window: int | None,
    sink_tokens: int,
) -> KeyValueCache:
    """A cache of the first lengths[row] positions of each row, or of all of them.

    window, sink_tokens: what a query sees, as `Visibility` has it.
    """
    time = key.shape[1]
    ring = None if window is None else window + room.ahead
    if ring is None or sink_tokens + ring >= room.capacity:
        pad = ((0, 0), (0, room.capacity - time), (0, 0), (0, 0))
        key, value = jnp.pad(key, pad), jnp.pad(value, pad)
        return KeyValueCache(_kept(key, room.dtype), _kept(value, room.dtype))
    ends = jnp.full(key.shape[:1], time) if lengths is None else lengths
    positions = _ring_positions(ring, sink_tokens, ends)
    # Slots that nothing has come to yet hold some other position's vectors, which are never seen.
    places = jnp.clip(positions, 0, time - 1)[:, :, None, None]
    key, value = (jnp.take_along_axis(x, places, axis=1) for x in (key, value))
    return KeyValueCache(_kept(key, room.dtype), _kept(value, room.dtype), ring, sink_tokens)


def written(
    cache: KeyValueCache, key: Vectors, value: Vectors, offset: Int[Array, "batch"]
) -> KeyValueCache:
    """The cache with vectors written in, row by row from position offset[row] on."""
    places = offset[:, None] + jnp.arange(key.shape[1])[None, :]
    if cache.ring is not None:
        turn = cache.sink_tokens + (places - cache.sink_tokens) % cache.ring
        places = jnp.where(places < cache.sink_tokens, places, turn)

    def put(kept: Kept, new: Vectors) -> Kept:
        made = _kept(new, kept.numbers.dtype)
        return jax.tree.map(lambda old, new: _placed(old, new, places), kept, made)

    return replace(cache, key=put(cache.key, key), value=put(cache.value, value))


def slot_positions(cache: KeyValueCache, end: Int[Array, "batch"]) -> Int[Array, "rows slots"]:
    """Which position lies in each slot when the last one written is end[row] - 1.

    Those of slots that are still empty are negative, or not below `end`.
    """
    if cache.ring is None:
        return jnp.arange(cache.slots)[None, :]
    return _ring_positions(cache.ring, cache.sink_tokens, end)


def seen_in_ring(
    positions: Int[Array, "rows slots"],
    queries: Int[Array, "rows time"],
    window: int,
    sink_tokens: int,
) -> Bool[Array, "rows 1 time slots"]:
    """Which slots of a ring each query sees, its own position among the nearest `window`."""
    keys, queries = positions[:, None, None, :], queries[:, None, :, None]
    near = (queries - keys < window) | (keys < sink_tokens)
    return (keys >= 0) & (keys <= queries) & near


def _ring_positions(
    ring: int, sink_tokens: int, end: Int[Array, "batch"]
) -> Int[Array, "batch slots"]:
    # The newest position below `end` that is this slot's turn.
    turn = jnp.arange(ring)[None, :]
    rounds = (end[:, None] - 1 - sink_tokens - turn) // ring
    newest = jnp.where(rounds < 0, -1, sink_tokens + turn + ring * rounds)
    first = jnp.broadcast_to(jnp.arange(sink_tokens)[None, :], (end.shape[0], sink_tokens))
    return jnp.concatenate([first, newest], axis=1)


def _kept(vectors: Vectors, dtype: Any) -> Kept:
    vectors = vectors.transpose(0, 2, 1, 3)
    vectors = constrained(vectors, ("batch", "heads", None, None))
    if dtype is None or dtype != jnp.int8:
        return Kept(vectors if dtype is None else vectors.astype(dtype))
    vectors = vectors.astype(jnp.float32)
    scale = jnp.abs(vectors).max(-1) / 127
    numbers = jnp.round(vectors / jnp.where(scale == 0, 1, scale)[..., None])
    return Kept(numbers.astype(jnp.int8), scale)


def _placed(
    old: Num[Array, "batch groups slots ..."],
    new: Num[Array, "batch groups time ..."],
    places: Int[Array, "batch time"],
) -> Num[Array, "batch groups slots ..."]:
    if new.shape[2] == 1:
        # One row's slice at a time is written in place, where a scatter would walk.
        def row(old: Array, new: Array, place: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, place[0], axis=1)

        return jax.vmap(row)(old, new, places)

    # Places beyond the capacity are dropped: what is read there will be forgotten.
    def several(old: Array, new: Array, places: Array) -> Array:
        return old.at[:, places].set(new, mode="drop")

    return jax.vmap(several)(old, new, places)
