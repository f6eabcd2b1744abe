"""Attention over a sequence that is spread over devices: keys and values go around in a ring.

Ring attention (Liu et al. 2023, arXiv 2310.01889) over the mesh's `sequence` axis. Read on in
`ring_schedule`, who works on what and sees which keys; `ring_passes`, what a device does; and
`attention_blocks`, how what came of some keys is put together with what came of others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array

from jaxgen.errors import UserError
from jaxgen.nn.attention_blocks import BlockAttention, Part, xla_blocks
from jaxgen.nn.attention_kernels import LANES, checked, platform_in_use, splash_blocks
from jaxgen.nn.ring_passes import backward_pass, forward_pass
from jaxgen.nn.ring_schedule import Ring, from_zigzag, to_zigzag
from jaxgen.nn.visibility import Keys, Query, Result, Scoring, Values, Visibility
from jaxgen.parallel.sharding import partition_spec

_NAMES = ("batch", "time", "heads", None)


def ring_refuses(query: Query, key: Keys, visibility: Visibility, scoring: Scoring) -> str | None:
    """Why ring attention can't be used here, or None if it can."""
    mesh = jax.sharding.get_abstract_mesh()
    size = 1 if mesh.empty else mesh.shape.get("sequence", 1)
    if size == 1:
        return "Ring attention needs a mesh in use whose sequence axis has more than one device."
    time = query.shape[1]
    if time != key.shape[1]:
        return f"Ring attention takes as many queries as keys, not {time} by {key.shape[1]}."
    if visibility.mask is not None:
        return "Ring attention takes causal, window and segment masks, not an array."
    if (visibility.causal or visibility.window) and not visibility.from_the_start:
        return "Ring attention takes queries that begin where the keys do, without an offset."
    if visibility.window is not None and visibility.sink_tokens:
        return "Ring attention knows no sink tokens outside its window."
    if scoring.bias is not None or scoring.sinks is not None:
        return "Ring attention knows no biases and no sinks."
    if visibility.dropout > 0:
        return "Ring attention knows no dropout on the weights."
    parts = 2 * size if _ring(size, time, visibility).zigzag else size
    if time % parts:
        return (
            f"Ring attention over {size} devices takes lengths that divide by {parts}, not {time}."
        )
    if partition_spec(_NAMES, key.shape, mesh)[1] != "sequence":
        return "Ring attention needs time to lie over the mesh's sequence axis, and no other."
    return None


def ring_attention(
    query: Query,
    key: Keys,
    value: Values,
    visibility: Visibility,
    scoring: Scoring,
    blocks: BlockAttention | None = None,
) -> Result:
    """Attention over the `sequence` axis of the mesh in use; time lies in its usual order.

    A device holds the keys and values of two devices at a time, and keeps for the backward pass its
    arguments, its results and one number for each query and head. Rows are split over the batch
    axes and heads over the tensor axis, where those divide them.

    Args:
        blocks: how queries are worked out with the keys at hand; None takes splash attention on a
            TPU where the chunks divide by 128, and plain XLA everywhere else.

    Raises:
        UserError: with the reason, where it can't be used.
    """
    if refusal := ring_refuses(query, key, visibility, scoring):
        raise UserError(refusal)
    mesh = jax.sharding.get_abstract_mesh()
    ring = _ring(mesh.shape["sequence"], query.shape[1], visibility)
    in_checked = checked(query, key, value)
    if blocks is None:
        chunk = ring.length // 2 if ring.zigzag else ring.length
        splash = platform_in_use() == "tpu" and chunk % LANES == 0 and not in_checked
        blocks = splash_blocks() if splash else xla_blocks

    place = partition_spec(_NAMES, key.shape, mesh)
    plan = _Plan(ring, blocks, scoring.soft_cap, mesh, place, in_checked)
    return _attend(plan, query * scoring.scale, key, value, visibility.segments)


def _ring(size: int, time: int, visibility: Visibility) -> Ring:
    window = visibility.window
    if window is not None and window >= time:
        window = None
    return Ring("sequence", size, time // size, visibility.causal, window)


@dataclass(frozen=True)
class _Plan:
    """All that is known while tracing.

    place: where (batch, time, heads, depth) lies on the mesh.
    checked: whether jax keeps track of the axes along which arrays vary, as it does around this.
    """

    ring: Ring
    blocks: BlockAttention
    soft_cap: float | None
    mesh: AbstractMesh
    place: PartitionSpec
    checked: bool

    @property
    def kept(self) -> tuple[Any, ...]:
        """Where query, key, value, segments and logsumexp lie, heads first, between the passes."""
        batch, time, heads, _ = self.place
        heads_first = PartitionSpec(batch, heads, time)
        return heads_first, heads_first, heads_first, PartitionSpec(batch, time), heads_first

    def on_each_device(self, run: Callable[..., Any], given: Any, result: Any) -> Any:
        """`run` over the mesh; where its arguments and results lie."""
        return jax.shard_map(
            run,
            mesh=self.mesh,
            in_specs=given,
            out_specs=result,
            check_vma=self.checked,
        )

    def inward(self, x: Array) -> Array:
        """From (batch, time, heads, depth), in order, to (batch, heads, time, depth) for a pass."""
        x = x.transpose(0, 2, 1, 3)
        return to_zigzag(self.ring, x, 2) if self.ring.zigzag else x

    def outward(self, x: Array) -> Array:
        """The inverse of `inward`."""
        x = from_zigzag(self.ring, x, 2) if self.ring.zigzag else x
        return x.transpose(0, 2, 1, 3)


# A gradient by hand, as jax's own would keep all keys that came by. It is that of the whole, with
# a shard_map in either pass, since jax can't differentiate one shard_map in another that checks.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, query: Query, key: Keys, value: Values, segments: Any) -> Result:
    return _forward(plan, query, key, value, segments)[0]


def _forward(
    plan: _Plan, query: Query, key: Keys, value: Values, segments: Any
) -> tuple[Result, Any]:
    def run(query: Query, key: Keys, value: Values, segments: Any) -> tuple[Result, Any]:
        if plan.ring.zigzag:
            segments = jax.tree.map(lambda x: to_zigzag(plan.ring, x, 1), segments)
        arrays = (*(plan.inward(x) for x in (query, key, value)), segments)
        part = forward_pass(plan.ring, plan.blocks, plan.soft_cap, *arrays)
        return plan.outward(part.out), (*arrays, part.logsumexp)

    given = (plan.place, plan.place, plan.place, plan.kept[3])
    run_all = plan.on_each_device(run, given, (plan.place, plan.kept))
    out, kept = run_all(query, key, value, segments)
    # In its own order, because what comes after attention keeps it, too, and so it is there once.
    return out, (kept, out)


def _backward(plan: _Plan, kept: Any, of_out: Result) -> tuple[Query, Keys, Values, None]:
    def run(kept: Any, out: Result, of_out: Result) -> tuple[Array, ...]:
        query, key, value, segments, logsumexp = kept
        found = backward_pass(
            plan.ring,
            plan.blocks,
            plan.soft_cap,
            query,
            key,
            value,
            segments,
            Part(plan.inward(out), logsumexp),
            plan.inward(of_out),
        )
        return tuple(plan.outward(x) for x in found)

    run_all = plan.on_each_device(run, (plan.kept, plan.place, plan.place), plan.place)
    return *run_all(*kept, of_out), None


_attend.defvjp(_forward, _backward)
