"""What one device of a ring does: its part of ring attention and of its gradient.

Ring attention (Liu et al. 2023, arXiv 2310.01889). A device keeps its queries. Keys and values are
handed on from device to device, and every device puts together what its queries get of those that
come by, as flash attention does with blocks of keys in one memory (Dao et al. 2022). While it works
on some keys, the next ones are on their way. For the gradient keys and values go around once more,
and what is found for them on the way follows them home.

All functions run inside `jax.shard_map`, on arrays that lie as the ring's pairs say, heads before
time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.nn.attention_blocks import (
    BlockAttention,
    BlockKeys,
    BlockValues,
    Gradients,
    Outputs,
    Part,
    Queries,
    nothing,
    together,
)
from jaxgen.nn.ring_schedule import Pair, Pairs, Ring
from jaxgen.nn.visibility import Visibility

Tree = TypeVar("Tree")


def forward_pass(
    ring: Ring,
    blocks: BlockAttention,
    soft_cap: float | None,
    query: Queries,
    key: BlockKeys,
    value: BlockValues,
    segments: Any,
) -> Part:
    """Attention of this device's queries to all keys, `out` in the query's dtype."""
    # Else keys leave while queries still come in from the zigzag, not while there is work to do.
    query, key, value = jax.lax.optimization_barrier((query, key, value))
    of_queries, of_keys = (None, None) if segments is None else segments

    def attend(pairs: Pairs, keys: Any, part: Part) -> Part:
        key, value, of_keys = keys
        for pair in pairs:
            rows, columns = pair.queries, pair.keys
            more = blocks.forward(
                query[:, :, rows],
                key[:, :, columns],
                value[:, :, columns],
                _visibility(ring, pair, of_queries, of_keys),
                soft_cap,
            )
            both = together(Part(*(x[:, :, rows] for x in part)), more)
            part = Part(*(_put(x, new, rows) for x, new in zip(part, both, strict=True)))
        return part

    def visit(stop: int | Array, hop: int, keys: Any, part: Part) -> Part:
        return _choose(ring, stop, lambda pairs: attend(pairs, keys, part))

    keys = (key, value, of_keys)
    own = lambda: attend(ring.own(), keys, nothing(query, value))
    out, logsumexp = _tour(ring, keys, own, visit)
    return Part(out.astype(query.dtype), logsumexp)


def backward_pass(
    ring: Ring,
    blocks: BlockAttention,
    soft_cap: float | None,
    query: Queries,
    key: BlockKeys,
    value: BlockValues,
    segments: Any,
    part: Part,
    of_out: Outputs,
) -> Gradients:
    """The gradients of this device's queries, keys and values, in their dtypes.

    `part` is what `forward_pass` gave, and `of_out` the gradient of its `out`.
    """
    key, value, part, of_out = jax.lax.optimization_barrier((key, value, part, of_out))
    of_queries, of_keys = (None, None) if segments is None else segments

    def attend(pairs: Pairs, keys: Any, of_query: Array) -> list[Array]:
        key, value, of_keys = keys
        sums = [of_query, *(jnp.zeros_like(x, jnp.float32) for x in (key, value))]
        for pair in pairs:
            rows, columns = pair.queries, pair.keys
            more = blocks.backward(
                query[:, :, rows],
                key[:, :, columns],
                value[:, :, columns],
                _visibility(ring, pair, of_queries, of_keys),
                soft_cap,
                Part(*(x[:, :, rows] for x in part)),
                of_out[:, :, rows],
            )
            places = (rows, columns, columns)
            sums = [
                _put(x, x[:, :, place] + new, place)
                for x, new, place in zip(sums, more, places, strict=True)
            ]
        return sums

    def visit(stop: int | Array, hop: int, keys: Any, sums: list[Array]) -> list[Array]:
        # What other devices found for these keys follows them, while this one finds its share.
        of_query, *found = sums
        found = _send(ring, found, hop)
        of_query, *more = _choose(ring, stop, lambda pairs: attend(pairs, keys, of_query))
        return [of_query, *(x + new for x, new in zip(found, more, strict=True))]

    keys = (key, value, of_keys)
    own = lambda: attend(ring.own(), keys, jnp.zeros_like(query, jnp.float32))
    of_query, *found = _tour(ring, keys, own, visit)
    of_key, of_value = _send(ring, found, ring.size - ring.stops()[-1])  # home
    return of_query.astype(query.dtype), of_key.astype(key.dtype), of_value.astype(value.dtype)


def _tour(
    ring: Ring,
    keys: Any,
    own: Callable[[], Tree],
    visit: Callable[[int | Array, int, Any, Tree], Tree],
) -> Tree:
    """`own()`, then `visit(stop, last hop, keys, state)` wherever the keys stop.

    Keys leave for the next stop before they are worked on, so that both happen at once.
    """
    first, *stops = ring.stops()
    if not stops:
        return own()
    hops = [after - before for before, after in pairwise([first, *stops])]
    following = _send(ring, keys, hops[0])
    state = own()
    if ring.window is None:
        # All hops are 1 and all stops alike: one loop, so that a long ring compiles no longer.
        def step(carry: tuple[Any, Tree], stop: Array) -> tuple[tuple[Any, Tree], None]:
            keys, state = carry
            following = _send(ring, keys, 1)
            return (following, visit(stop, 1, keys, state)), None

        (following, state), _ = jax.lax.scan(step, (following, state), jnp.asarray(stops[:-1]))
    else:
        for stop, hop, next_hop in zip(stops, hops, hops[1:], strict=False):
            keys, following = following, _send(ring, following, next_hop)
            state = visit(stop, hop, keys, state)
    return visit(stops[-1], hops[-1], following, state)


def _choose(ring: Ring, stop: int | Array, work: Callable[[Pairs], Tree]) -> Tree:
    """`work` on the pairs that this device has when keys have come `stop` devices far."""
    of_earlier, of_later = ring.others(stop)
    if of_earlier == of_later:
        return work(of_earlier)
    chosen: Tree = jax.lax.cond(
        jax.lax.axis_index(ring.axis) >= stop, lambda: work(of_earlier), lambda: work(of_later)
    )
    return chosen


def _send(ring: Ring, tree: Tree, hop: int) -> Tree:
    if hop % ring.size == 0:
        return tree
    route = [(device, (device + hop) % ring.size) for device in range(ring.size)]
    sent: Tree = jax.tree.map(lambda x: jax.lax.ppermute(x, ring.axis, route), tree)
    return sent


def _visibility(ring: Ring, pair: Pair, of_queries: Any, of_keys: Any) -> Visibility:
    segments = None
    if of_queries is not None:
        segments = of_queries[:, pair.queries], of_keys[:, pair.keys]
    if pair.offset is None:
        return Visibility(False, None, 0, 0, None, segments, 0.0, None)
    return Visibility(ring.causal, ring.window, 0, pair.offset, None, segments, 0.0, None)


def _put(whole: Array, part: Array, place: slice) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, place.start, axis=2)
